"""Two heads in training, on cached features; and what the questions of the pairs teach them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mrrag_llamaindex import defaults
from mrrag_llamaindex.learning.towers.contrastive import info_nce
from mrrag_llamaindex.towers.projection_head import ProjectionHead


@dataclass(frozen=True)
class HeadFeatures:
    """What frozen encoders make of m pairs.

    Attributes
    ----------
    image, text : Tensor, shape (m, d_i) and (m, d_t), float32
    question : Tensor, shape (m, d_t), or None
        Of the text that stands for a question about the pair; a zero row where it has none.
    owner : Tensor, shape (m,), int64
        Number of each pair's patient.
    """

    image: Tensor
    text: Tensor
    question: Tensor | None
    owner: Tensor

    @property
    def asked(self) -> Tensor:
        """Which pairs have a question, shape (m,), bool."""
        if self.question is None:
            return torch.zeros(len(self.image), dtype=torch.bool)
        return self.question.any(dim=1)


class HeadsEncoder:
    """Two projection heads; a `mrrag_llamaindex.learning.towers.pair_encoders.PairEncoder`.

    Parameters
    ----------
    image, text : ProjectionHead
    features : HeadFeatures

    Attributes
    ----------
    log_temperature : None
        The temperature is not learned with heads.
    """

    log_temperature: nn.Parameter | None = None

    def __init__(self, image: ProjectionHead, text: ProjectionHead, features: HeadFeatures) -> None:
        self.image, self.text, self.features = image, text, features
        self.module: nn.Module = nn.ModuleDict({"image": image, "text": text})

    def load(self, kind: str, rows: Sequence[int]) -> Tensor:
        """See `PairEncoder.load`."""
        part = self.features.image if kind == "image" else self.features.text
        return part[torch.as_tensor(rows)]

    def encode(self, kind: str, inputs: Tensor) -> Tensor:
        """See `PairEncoder.encode`."""
        head = self.image if kind == "image" else self.text
        vectors: Tensor = head(inputs.to(next(head.parameters()).device))
        return vectors

    def further_loss(
        self, rows: Tensor, image: Tensor, text: Tensor, temperature: Tensor | float
    ) -> Tensor | None:
        """Question to report, and question to image; all pairs of a patient are right.

        A question asks about a patient, not about one of the views, so what belongs to the same
        patient is no negative. Weighted by `defaults.QUESTION_WEIGHT`.
        """
        asked = self.features.asked[rows]
        if self.features.question is None or int(asked.sum()) < 2:
            return None
        kept = rows[asked]
        owner = self.features.owner[kept]
        same = (owner[:, None] == owner[None, :]).to(image.device)
        if bool(same.all()):
            return None
        question = self.text(self.features.question[kept].to(image.device))
        losses = [
            info_nce(question, other[asked.to(other.device)], temperature, right=same)
            for other in (text, image)
        ]
        return defaults.QUESTION_WEIGHT * (losses[0] + losses[1])
