"""From a frozen encoder's features into the common space."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, TypeAlias, cast

import torch
from torch import Tensor, nn
from typing_extensions import Self

from mrrag_llamaindex.mcr.blocks import Blocks
from mrrag_llamaindex.towers.raw_projection import RawProjection

_LEAST_SCALE = 0.1


class ProjectionHead(nn.Module):
    """Standardise, then one linear layer, or two with a GELU between them.

    Parameters
    ----------
    inputs : int
        d, of the features.
    dimension : int
        n, of the common space.
    hidden : int, optional
        Width of the hidden layer; None for a linear head.
    dropout : float
        Share of standardised features set to zero in training.

    Attributes
    ----------
    mean, scale : Tensor, shape (d,)
        Of the training features, see `standardise`; 0 and 1 before.
    """

    mean: Tensor
    scale: Tensor

    def __init__(
        self, inputs: int, dimension: int, hidden: int | None = None, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.inputs, self.dimension, self.hidden = inputs, dimension, hidden
        self.register_buffer("mean", torch.zeros(inputs))
        self.register_buffer("scale", torch.ones(inputs))
        self.dropout = nn.Dropout(dropout)
        layers: list[nn.Module] = [nn.Linear(inputs, hidden or dimension)]
        if hidden is not None:
            layers += [nn.GELU(), nn.Linear(hidden, dimension)]
        self.layers = nn.Sequential(*layers)

    @classmethod
    @torch.no_grad()
    def linear(cls, weight: Tensor, bias: Tensor | None = None) -> Self:
        """Return a projection that another program has trained, as a head.

        Parameters
        ----------
        weight : Tensor, shape (n, d)
        bias : Tensor, shape (n,), optional
        """
        head = cls(weight.shape[1], weight.shape[0])
        layer = cast(nn.Linear, head.layers[0])
        layer.weight.copy_(weight)
        layer.bias.copy_(torch.zeros(len(weight)) if bias is None else bias)
        return head.eval()

    @property
    def settings(self) -> dict[str, Any]:
        """Arguments that make an empty head of this shape."""
        return {"inputs": self.inputs, "dimension": self.dimension, "hidden": self.hidden}

    @torch.no_grad()
    def standardise(self, features: Tensor) -> None:
        """Take mean and standard deviation from training features, shape (m, d).

        Deviations below a tenth of their mean are raised to it: a feature that hardly moves in
        training must not become the loudest one on a new image.
        """
        self.mean.copy_(features.mean(dim=0))
        deviation = features.std(dim=0, correction=0)
        floor = float(_LEAST_SCALE * deviation.mean())
        self.scale.copy_(deviation.clamp(min=floor if floor > 0 else 1.0))

    def forward(self, features: Tensor) -> Tensor:
        """Project features of shape (m, d) to (m, n), not normalised."""
        projected: Tensor = self.layers(self.dropout((features - self.mean) / self.scale))
        return projected


class HeadEnsemble(nn.Module):
    """Several heads, each into a space of its own, side by side.

    With unit vectors of each, the cosine of two ensembles' vectors is the mean of their members'.

    Parameters
    ----------
    members : list of ProjectionHead
        Of the same encoder.
    """

    def __init__(self, members: list[ProjectionHead]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.inputs = members[0].inputs
        self.dimension = sum(member.dimension for member in members)

    @property
    def settings(self) -> dict[str, Any]:
        """Arguments that make empty heads of these shapes."""
        return {"members": [member.settings for member in self.members]}

    def forward(self, features: Tensor) -> Tensor:
        """Project features of shape (m, d) to (m, n), n the sum of the members' dimensions."""
        rows = [nn.functional.normalize(member(features), dim=1) for member in self.members]
        return torch.cat(rows, dim=1)


Head: TypeAlias = ProjectionHead | HeadEnsemble


def empty_head(settings: dict[str, Any]) -> Head:
    """Return a head of the shape that ``settings`` of one described."""
    if "members" in settings:
        return HeadEnsemble([ProjectionHead(**one) for one in settings["members"]])
    return ProjectionHead(**settings)


@dataclass(frozen=True)
class FittedHeads:
    """Trained heads, in evaluation mode, and how it went.

    Attributes
    ----------
    image, text : ProjectionHead or HeadEnsemble
    record : dict
        Plain JSON: how they were trained.
    raw : tuple of two RawProjection, or None
        Of the image and of the text encoder, for vectors that keep their own features.
    scales : tuple of float, or None
        See `mrrag_llamaindex.mcr.blocks.Blocks`; None for 1.
    """

    image: Head
    text: Head
    record: dict[str, Any]
    raw: tuple[RawProjection, RawProjection] | None = None
    scales: tuple[float, ...] | None = None

    @property
    def blocks(self) -> Blocks:
        """How the vectors that these heads make are divided."""
        if self.raw is None:
            return Blocks(self.image.dimension)
        image, text = self.raw
        blocks = Blocks(self.image.dimension, image.length, text.length)
        return blocks if self.scales is None else replace(blocks, scales=self.scales)
