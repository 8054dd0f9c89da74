"""An encoder's own features, centred and shortened: the raw block of a pair's vector."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import Self


class RawProjection(nn.Module):
    """The first principal components, unscaled: inner products stay those of centred features.

    Parameters
    ----------
    inputs : int
        d, of the features.
    length : int
        r, of the block.

    Attributes
    ----------
    mean : Tensor, shape (d,)
    components : Tensor, shape (r, d)
        Orthonormal rows.
    """

    mean: Tensor
    components: Tensor

    def __init__(self, inputs: int, length: int) -> None:
        super().__init__()
        self.inputs, self.length = inputs, length
        self.register_buffer("mean", torch.zeros(inputs))
        self.register_buffer("components", torch.eye(length, inputs))

    @property
    def settings(self) -> dict[str, Any]:
        """Arguments that make an empty one of this shape."""
        return {"inputs": self.inputs, "length": self.length}

    @classmethod
    @torch.no_grad()
    def fitted(cls, features: Tensor, length: int) -> Self:
        """Return the projection of training features, shape (m, d).

        The length is at most d and the rank that m features can have, m - 1.
        """
        centred = features.double() - features.double().mean(dim=0)
        made = cls(features.shape[1], max(1, min(length, *features.shape, len(features) - 1)))
        # Of the covariance: m may be a hundred thousand, d is some hundreds.
        _, vectors = torch.linalg.eigh(centred.T @ centred)
        components = vectors.T.flip(0)[: made.length]
        # Either sign is an eigenvector; the same features must give the same tower.
        largest = components.gather(1, components.abs().argmax(dim=1, keepdim=True))
        made.mean.copy_(features.double().mean(dim=0))
        made.components.copy_(components * largest.sign())
        return made

    def forward(self, features: Tensor) -> Tensor:
        """Project features of shape (m, d) to (m, r), not normalised."""
        return (features - self.mean) @ self.components.T
