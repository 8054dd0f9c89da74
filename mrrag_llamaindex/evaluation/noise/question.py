"""A question of the noise study, with the documents it is asked with at every level of noise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL.Image import Image

from mrrag_llamaindex.errors import InputError
from mrrag_llamaindex.generation.checkpoints.image_readers import PreparedImage
from mrrag_llamaindex.generation.prompt.request import PromptDocument, PromptRequest
from mrrag_llamaindex.steering.ifa import min_max_lambdas

Scores = Literal["true", "mcr"]
"""Whose relevance steers: 1 and 0 by the truth, or MCR's scores, min-max normalised per question
as in the product."""


@dataclass(frozen=True, eq=False)
class NoiseQuestion:
    """A question with the documents that it is asked with at every level of noise.

    Parameters
    ----------
    question_id, patient_id, question : str
    image : PIL.Image.Image, PreparedImage or None
        Prepared for the model, or yet to be; None for a model that reads text only.
    truth : {"yes", "no"}
    relevant, irrelevant, contradicting : tuple of PromptDocument
        K of each, with MCR's scores for this question where they were computed: of this patient's
        look-alikes; of others; of others, and every one of them says the opposite of the truth
        about what is asked. The last is empty where nobody can tell.
    order : tuple of int
        Place in the prompt of document 0 to K - 1: a permutation.
    """

    question_id: str
    patient_id: str
    question: str
    image: Image | PreparedImage | None
    truth: Literal["yes", "no"]
    relevant: tuple[PromptDocument, ...]
    irrelevant: tuple[PromptDocument, ...]
    contradicting: tuple[PromptDocument, ...]
    order: tuple[int, ...]

    def __post_init__(self) -> None:
        count = len(self.relevant)
        if len(self.irrelevant) != count or len(self.contradicting) not in (0, count):
            raise InputError(
                f"question {self.question_id!r} has {count} relevant, {len(self.irrelevant)} "
                f"irrelevant and {len(self.contradicting)} contradicting documents; give as many "
                "of each"
            )
        if sorted(self.order) != list(range(count)):
            raise InputError(
                f"question {self.question_id!r}: order is not a permutation of 0 to {count - 1}"
            )

    def offered(self, irrelevant: int, *, adversarial: bool = False) -> tuple[PromptDocument, ...]:
        """Return the documents in the prompt's order, so many of them irrelevant."""
        noise = self.contradicting if adversarial else self.irrelevant
        evidence = (*noise[:irrelevant], *self.relevant[irrelevant:])
        return tuple(evidence[place] for place in np.argsort(self.order))

    def marked(self, irrelevant: int) -> tuple[bool, ...]:
        """Return which of `offered` are irrelevant."""
        return tuple(bool(number < irrelevant) for number in np.argsort(self.order))

    def lambdas(
        self, scores: Scores, irrelevant: int, *, adversarial: bool = False
    ) -> tuple[float, ...]:
        """Return lambda of `offered`.

        Raises
        ------
        InputError
            If MCR's scores are asked for and a document has none.
        """
        if scores == "true":
            return tuple(float(not noise) for noise in self.marked(irrelevant))
        values = [item.score for item in self.offered(irrelevant, adversarial=adversarial)]
        if None in values:
            raise InputError(f"question {self.question_id!r}: a document has no MCR score")
        return min_max_lambdas(values)

    def request(self, irrelevant: int, *, adversarial: bool = False) -> PromptRequest:
        """Return what is asked."""
        return PromptRequest(self.question, self.offered(irrelevant, adversarial=adversarial))
