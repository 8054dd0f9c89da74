"""What an engine is to all that asks it, whatever runs the model behind it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from types import EllipsisType
from typing import TYPE_CHECKING, Any

from typing_extensions import Self

from mrrag_llamaindex import defaults
from mrrag_llamaindex.errors import ModelError
from mrrag_llamaindex.generation.answer import Answer, SteeringOutcome
from mrrag_llamaindex.generation.prompt.reader import Pictures, PromptReader

if TYPE_CHECKING:
    from mrrag_llamaindex.generation.decoding.decoding import Decoding
    from mrrag_llamaindex.generation.planner import Planner
    from mrrag_llamaindex.generation.prompt.readable import ReadableModel
    from mrrag_llamaindex.generation.prompt.request import Prompt, PromptRequest
    from mrrag_llamaindex.generation.runner import BatchRunner
    from mrrag_llamaindex.generation.scheduling.job import Generated
    from mrrag_llamaindex.generation.scheduling.statistics import SchedulerStats
    from mrrag_llamaindex.generation.stream import TokenStream
    from mrrag_llamaindex.steering.policy import SteeringPolicy


class Engine(PromptReader, ABC):
    """A generator: requests in, answers out. Its calls may be made from any thread.

    Parameters
    ----------
    loaded : ReadableModel
    planner : Planner
    max_documents : int
        Most documents in one prompt.
    max_new_tokens : int
        Longest answer, in tokens; reserved in the model's window.
    batch_size : int
        Most questions that are answered at once.
    max_queue : int
        Most requests that may wait for the model; one more is refused.
    queue_timeout : float, optional
        Seconds that a request may wait until it is begun. Default: without end.

    Attributes
    ----------
    shares_prefix : bool
        Whether passes of ours may share the cache of image and documents.

    Raises
    ------
    ModelError
        If image and answer leave no room for text in the model's window.
    """

    shares_prefix: bool = False

    def __init__(
        self,
        loaded: ReadableModel,
        planner: Planner,
        *,
        max_documents: int = defaults.MAX_DOCUMENTS,
        max_new_tokens: int = defaults.MAX_NEW_TOKENS,
        batch_size: int = defaults.BATCH_SIZE,
        max_queue: int = defaults.MAX_QUEUE,
        queue_timeout: float | None = defaults.QUEUE_TIMEOUT,
    ) -> None:
        super().__init__(loaded, max_documents, max_new_tokens)
        self.planner = planner
        self.batch_size = batch_size
        self.max_queue = max_queue
        self.queue_timeout = queue_timeout

    @property
    @abstractmethod
    def device(self) -> str:
        """Where the model runs, for a person."""

    @property
    @abstractmethod
    def identity(self) -> str:
        """Name and digest of the model: what is measured with one is not mixed with another's."""

    @property
    @abstractmethod
    def stats(self) -> SchedulerStats:
        """Counts of its queue."""

    @property
    def forms_attention(self) -> bool:
        """Whether the attention of a row can be looked at, and takes a mask of ours."""
        return False

    @property
    def runner(self) -> BatchRunner:
        """Single passes of the model, for what looks into it.

        Raises
        ------
        ModelError
            If the engine runs none.
        """
        raise ModelError(
            f"{self.device} runs whole answers, and no pass that looks into a model or reads a "
            'probability behind the first token: use engine="transformers" for what needs one'
        )

    def shares_prefix_under(self, policy: SteeringPolicy | None) -> bool:
        """Return whether passes under a policy may take the prefix of a prompt from a cache."""
        return self.shares_prefix and (policy is None or policy.shares_prefix)

    def shared_with(self, prompt: Prompt, policy: SteeringPolicy | None) -> int:
        """Return how many tokens of a prompt passes under a policy may take from a cache."""
        return prompt.question_span[0] if self.shares_prefix_under(policy) else 0

    def why_unexplainable(self) -> str:
        """Say why answers cannot be explained; empty where they can."""
        return (
            f"explain=True hides documents in passes of its own, and {self.device} runs whole "
            'answers only; use explain=False, or engine="transformers"'
        )

    def with_limits(
        self,
        *,
        max_documents: int | None = None,
        max_new_tokens: int | None = None,
        batch_size: int | None = None,
        max_queue: int | None = None,
        queue_timeout: float | EllipsisType | None = ...,
    ) -> Self:
        """Return an engine over the same model and queue, with other limits.

        Parameters
        ----------
        max_documents, max_new_tokens, batch_size, max_queue, queue_timeout : optional
            Default: this engine's.

        Raises
        ------
        ModelError
            As the class.
        """
        return self._again(
            max_documents=max_documents or self.prompts.max_documents,
            max_new_tokens=max_new_tokens or self.max_new_tokens,
            batch_size=batch_size or self.batch_size,
            max_queue=max_queue or self.max_queue,
            queue_timeout=self.queue_timeout if queue_timeout is ... else queue_timeout,
        )

    @abstractmethod
    def _again(self, **limits: Any) -> Self:
        """Return an engine over the same model and queue, with these limits."""

    def answer_of(
        self,
        prompt: Prompt,
        generated: Generated,
        steering: SteeringOutcome,
        max_new_tokens: int,
    ) -> Answer:
        """Gather an answer of what was generated for a prompt, at most so many tokens."""
        tokens = generated.tokens
        text = self.tokenizer.decode(tokens, skip_special_tokens=True)
        answer = Answer.of(prompt, text, generated.confidence, steering, generated.seconds)
        cut_off = len(tokens) >= max_new_tokens and tokens[-1] not in self.end_ids
        return replace(
            answer,
            answer_tokens=len(tokens),
            cut_off=cut_off,
            attention=generated.attention,
        )

    @abstractmethod
    def generate(
        self,
        requests: Sequence[PromptRequest],
        images: Sequence[Pictures],
        *,
        policy: SteeringPolicy | None = None,
        decoding: Decoding | None = None,
        max_new_tokens: int | None = None,
    ) -> list[Answer]:
        """Answer any number of requests; each is steered by its own plan.

        Parameters
        ----------
        requests : sequence of PromptRequest
            Question and documents of each; see `PromptRequest`.
        images : sequence of PIL.Image.Image, sequence of them, or None
            The query image of each request, mode RGB, or the several images of its study, in
            order; None for a request without one.
        policy : SteeringPolicy or None
            One of `mrrag_llamaindex.steering.policies.registry`. None: plain attention.
        decoding : Decoding or None
            How tokens are chosen; None: `Greedy`.
        max_new_tokens : int, optional
            Longest answer, in tokens; the prompt leaves room for it. Default: the engine's own.

        Returns
        -------
        list of Answer
            In the order of the requests.

        Raises
        ------
        InputError, PromptError, SteeringError, ModelError
        BusyError
            If the queue is full, or none of them left it in time.
        """

    @abstractmethod
    def stream(
        self,
        request: PromptRequest,
        image: Pictures,
        *,
        policy: SteeringPolicy | None = None,
        max_new_tokens: int | None = None,
    ) -> TokenStream:
        """Answer one request piece by piece; see `TokenStream`.

        The prompt is built now, so that its errors are raised here. It joins the queue with the
        first read, and leaves it when the stream is closed.
        """
