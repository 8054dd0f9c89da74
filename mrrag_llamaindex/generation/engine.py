"""Generate answers: batches, shared prefixes, streams, steering, first-token confidence."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from typing_extensions import Self

from mrrag_llamaindex import defaults
from mrrag_llamaindex.errors import ModelError, SteeringError
from mrrag_llamaindex.files.forks import ForkGuard
from mrrag_llamaindex.generation.answer import Answer, steering_outcome
from mrrag_llamaindex.generation.checkpoints.image_readers import PreparedImage
from mrrag_llamaindex.generation.checkpoints.loading import LoadedModel
from mrrag_llamaindex.generation.checkpoints.profile_store import model_identity
from mrrag_llamaindex.generation.decoding.decoding import Decoding, Greedy
from mrrag_llamaindex.generation.interface import Engine
from mrrag_llamaindex.generation.model_errors import person_readable
from mrrag_llamaindex.generation.planner import Planner
from mrrag_llamaindex.generation.prefix_cache import PrefixCache
from mrrag_llamaindex.generation.prompt.batching import PromptBatch, make_batches
from mrrag_llamaindex.generation.prompt.reader import Pictures
from mrrag_llamaindex.generation.prompt.request import Prompt, PromptRequest
from mrrag_llamaindex.generation.runner import BatchRunner
from mrrag_llamaindex.generation.scheduling.cancellation import cover
from mrrag_llamaindex.generation.scheduling.job import (
    Admission,
    Asked,
    Generated,
    Job,
)
from mrrag_llamaindex.generation.scheduling.scheduler import Scheduler
from mrrag_llamaindex.generation.scheduling.statistics import SchedulerStats
from mrrag_llamaindex.generation.stream import TokenStream
from mrrag_llamaindex.steering.policy import SteeringPolicy


class LlavaEngine(Engine):
    """A loaded generator and everything one call of it needs.

    Calls are independent: whatever differs between two calls (image, spans, lambda) is an
    argument of the forward pass, never a state of the model. Calls of several threads meet in one
    queue, see `Scheduler`, and what waits together runs in one batch.

    Parameters
    ----------
    loaded : LoadedModel
        See `load_model`.
    prefix_cache : int
        Prefixes (image and documents) whose keys and values are kept for further questions.
    **limits
        As of `Engine`.

    Attributes
    ----------
    scheduler : Scheduler
        The queue, with counts of what passed through it.

    Raises
    ------
    ModelError
        If image and answer leave no room for text in the model's window.
    """

    loaded: LoadedModel

    def __init__(
        self,
        loaded: LoadedModel,
        *,
        prefix_cache: int = defaults.PREFIX_CACHE,
        **limits: Any,
    ) -> None:
        super().__init__(loaded, Planner(loaded, loaded.model.device), **limits)
        self.model = loaded.model
        self._process = ForkGuard()
        self._runner = BatchRunner(loaded, PrefixCache(prefix_cache))
        # A sliding window counts padding, which stands behind a shared prefix.
        self.shares_prefix = loaded.family.shares_prefix and self.planner.sliding_window is None
        self.scheduler = Scheduler()

    @property
    def device(self) -> str:
        """See `Engine`."""
        return str(self.model.device)

    @property
    def identity(self) -> str:
        """See `Engine`."""
        return model_identity(self.loaded)

    @property
    def stats(self) -> SchedulerStats:
        """See `Engine`."""
        return self.scheduler.stats

    @property
    def runner(self) -> BatchRunner:
        """See `Engine`."""
        return self._runner

    @property
    def forms_attention(self) -> bool:
        """See `Engine`: not with the backend ``"flex"``."""
        return "flex" not in self.loaded.config.get_text_config(decoder=True)._attn_implementation

    def why_unexplainable(self) -> str:
        """See `Engine`."""
        if not self.shares_prefix:
            return (
                f"explain=True hides documents behind a shared prefix, and model "
                f"{self.loaded.source!r} cannot share one (its positions depend on the image, or "
                "it looks back a limited number of tokens); use explain=False"
            )
        if not self.forms_attention:
            return (
                "explain=True needs the steering backend 'rows' or 'eager'; 'flex' takes no mask "
                "that hides a document"
            )
        return ""

    def _again(self, **limits: Any) -> Self:
        engine = type(self)(self.loaded, **limits)
        engine._runner = self._runner
        engine.scheduler = self.scheduler
        return engine

    def generate(
        self,
        requests: Sequence[PromptRequest],
        images: Sequence[Pictures],
        *,
        policy: SteeringPolicy | None = None,
        decoding: Decoding | None = None,
        max_new_tokens: int | None = None,
    ) -> list[Answer]:
        """See `Engine`; requests run in batches.

        Those on one image and the same documents share the work up to the question, others run
        with requests of about their length.
        """
        self._process.check("this model was", ModelError)
        decoding = decoding or Greedy()
        if policy is not None and not decoding.takes_policy:
            raise SteeringError(
                f"{type(decoding).__name__} is not combined with {type(policy).__name__}: give "
                "policy=None with this decoding, or leave the decoding out"
            )
        with self.scheduler.coming() as arrival:
            prepared = self.read_images(requests, images)
            limit = self.answer_tokens(max_new_tokens)
            jobs = [
                Job(self._asked(request, image, policy, decoding, limit))
                for request, image in zip(requests, prepared, strict=True)
            ]
            cover(jobs)
            admission, generated = self.admission, {}
            try:
                prompts = [job.asked.prompt for job in jobs]
                shares = all(job.asked.shares_prefix for job in jobs)
                for batch in self._batches(prompts, prepared, decoding.batch_size, shares):
                    self.scheduler.answer([jobs[row] for row in batch.rows], admission, arrival)
                    generated.update({row: jobs[row].result() for row in batch.rows})
                    admission = Admission(None, None)  # what has begun goes on
            finally:
                for job in jobs:  # an error, or an interrupt: nobody waits for the others
                    job.cancel()
        return [self._answer(job.asked, generated[row]) for row, job in enumerate(jobs)]

    @property
    def admission(self) -> Admission:
        """Who is let into this engine's queue."""
        return Admission(self.max_queue, self.queue_timeout)

    def _submit(self, job: Job) -> None:
        cover([job])
        self.scheduler.submit([job], self.admission)

    def _asked(
        self,
        request: PromptRequest,
        image: PreparedImage | None,
        policy: SteeringPolicy | None,
        decoding: Decoding,
        limit: int,
    ) -> Asked:
        """Check everything about one request, so that it cannot spoil a batch."""
        prompt = self.prompt(request, image, policy, limit)
        layers = self.planner.layers([prompt], policy)
        size = decoding.batch_size or self.batch_size
        return Asked(
            reader=self,
            planner=self.planner,
            runner=self.runner,
            request=request,
            prompt=prompt,
            image=image,
            policy=policy,
            layers=layers,
            decoding=decoding,
            max_new_tokens=limit,
            batch_size=size,
            shares_prefix=self.shares_prefix_under(policy),
            watched=() if (why := self._why_unwatched(decoding)) else self._watched(policy),
            unwatched=why,
        )

    def _watched(self, policy: SteeringPolicy | None) -> tuple[int, ...]:
        """Layers in which attention is measured."""
        own = None if policy is None else policy.layers
        return self.loaded.critical_layers if own is None else own

    def _why_unwatched(self, decoding: Decoding) -> str:
        """Say why the attention of an answer is not measured; empty where it is."""
        if not self.forms_attention:
            return "the steering backend 'flex' never forms the attention of a row"
        if not decoding.takes_policy:
            return f"{type(decoding).__name__} runs passes of its own"
        return ""

    def _answer(self, asked: Asked, generated: Generated) -> Answer:
        outcome = steering_outcome(asked.prompt, asked.policy, asked.layers)
        return self.answer_of(asked.prompt, generated, outcome, asked.max_new_tokens)

    def _batches(
        self,
        prompts: Sequence[Prompt],
        images: Sequence[PreparedImage | None],
        batch_size: int | None = None,
        shares_prefix: bool = True,
    ) -> list[PromptBatch]:
        """Sort the rows of one call into what joins the queue together."""
        return make_batches(
            prompts,
            [image.digest if image else None for image in images],
            batch_size=batch_size or self.batch_size,
            shares_prefix=self.shares_prefix and shares_prefix,
        )

    def stream(
        self,
        request: PromptRequest,
        image: Pictures,
        *,
        policy: SteeringPolicy | None = None,
        max_new_tokens: int | None = None,
    ) -> TokenStream:
        """See `Engine`."""
        self._process.check("this model was", ModelError)
        with person_readable():
            prepared = self.read_image(image)
        limit = self.answer_tokens(max_new_tokens)
        asked = self._asked(request, prepared, policy, Greedy(), limit)
        return TokenStream(
            self.tokenizer,
            partial(Job, asked),
            self._submit,
            partial(self._answer, asked),
        )
