"""CAD: what the documents add to the next token, weighted up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from mrrag_llamaindex import defaults
from mrrag_llamaindex.generation.decoding.contrast import Contrast
from mrrag_llamaindex.generation.decoding.decoding import Decoding
from mrrag_llamaindex.steering.policy import require_finite

if TYPE_CHECKING:
    import torch

    from mrrag_llamaindex.generation.runner import BatchCall, BatchRunner


@dataclass(frozen=True)
class CAD(Decoding):
    """Context-aware decoding: ``(1 + alpha) * l - alpha * l'`` on logits, at every step.

    `l` are those of the prompt, `l'` those of the same prompt without its documents: image and
    question stay, so that what is weighed up is what the documents add (Shi et al., NAACL 2024,
    equation 2). That is `Contrast` with the factor ``1 + alpha``; log-probabilities in place of
    logits change nothing that softmax does not take away. A prompt that holds no documents is
    its own contrast, and stays as it is.

    Used as ``engine.generate(..., decoding=CAD())``, with ``policy=None``. It doubles the forward
    passes.

    Attributes
    ----------
    alpha
        At least 0; 0 switches it off.

    Raises
    ------
    ValueError
        If alpha is out of range.
    """

    alpha: float = defaults.CAD_ALPHA

    takes_policy: ClassVar[bool] = False

    def __post_init__(self) -> None:
        require_finite("alpha", self.alpha, 0)

    @property
    def contrast(self) -> Contrast | None:
        """Return the contrast with the prompt without documents."""
        return Contrast(1 + self.alpha, "documents") if self.alpha else None

    def run(self, runner: BatchRunner, call: BatchCall) -> torch.Tensor:
        """Answer one batch, see `Decoding.run`; its probe guides."""
        return runner.run(call)
