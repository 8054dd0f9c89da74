"""What a decoding is: how tokens are chosen, once prompts and steering stand."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    import torch

    from mrrag_llamaindex.generation.checkpoints.image_readers import PreparedImage
    from mrrag_llamaindex.generation.first_token import FirstTokenProbe
    from mrrag_llamaindex.generation.prompt.request import Prompt
    from mrrag_llamaindex.generation.runner import BatchRunner
    from mrrag_llamaindex.steering.plan import SteeringPlan


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

    @abstractmethod
    def run(
        self,
        runner: BatchRunner,
        prompts: Sequence[Prompt],
        images: Sequence[PreparedImage | None],
        plan: SteeringPlan | None,
        probe: FirstTokenProbe,
        max_new_tokens: int,
        shared: int,
    ) -> torch.Tensor:
        """Answer one batch.

        Parameters
        ----------
        runner
            Of the model.
        prompts, images
            In order.
        plan
            None without a policy, or without anything to steer.
        probe
            To be called once with the scores that the first token is chosen from.
        max_new_tokens
            Longest answer.
        shared
            Tokens at the start that the prompts have in common, prefilled once.

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


class Greedy(Decoding):
    """The likeliest token at every step."""

    def run(
        self,
        runner: BatchRunner,
        prompts: Sequence[Prompt],
        images: Sequence[PreparedImage | None],
        plan: SteeringPlan | None,
        probe: FirstTokenProbe,
        max_new_tokens: int,
        shared: int,
    ) -> torch.Tensor:
        """Answer one batch, see `Decoding.run`."""
        return runner.run(prompts, images, plan, probe, max_new_tokens, shared)
