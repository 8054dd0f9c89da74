"""What a decoding is: how tokens are chosen, once prompts and steering stand."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    import torch

    from mrrag_llamaindex.generation.decoding.contrast import Contrast
    from mrrag_llamaindex.generation.runner import BatchCall, BatchRunner


class Decoding(ABC):
    """A way to choose the tokens of an answer: a frozen dataclass that validates itself.

    Attributes
    ----------
    batch_size
        Most prompts at once; None: as many as the engine answers.
    takes_policy
        Whether it may be combined with a steering policy.
    """

    batch_size: ClassVar[int | None] = None
    takes_policy: ClassVar[bool] = True

    @property
    def contrast(self) -> Contrast | None:
        """What guides every step, by a second pass; None for nothing."""
        return None

    @abstractmethod
    def run(self, runner: BatchRunner, call: BatchCall) -> torch.Tensor:
        """Answer one batch.

        Parameters
        ----------
        runner : BatchRunner
            Of the model.
        call : BatchCall

        Returns
        -------
        torch.Tensor
            int64 (rows, tokens), the new tokens.

        Raises
        ------
        SteeringError
            If the prompts or the model cannot be decoded so, or the plan was not applied.
        ModelError
            If the model fails.
        """


@dataclass(frozen=True)
class Greedy(Decoding):
    """The likeliest token at every step."""

    def run(self, runner: BatchRunner, call: BatchCall) -> torch.Tensor:
        """Answer one batch, see `Decoding.run`."""
        return runner.run(call)
