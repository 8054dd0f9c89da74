"""Generate answers: batches, shared prefixes, streams, steering, first-token confidence."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial

from PIL import Image

from mrrag_llamaindex import defaults
from mrrag_llamaindex.errors import ModelError, SteeringError
from mrrag_llamaindex.files.forks import ForkGuard
from mrrag_llamaindex.generation.answer import Answer, steering_outcome
from mrrag_llamaindex.generation.checkpoints.image_readers import PreparedImage
from mrrag_llamaindex.generation.checkpoints.loading import LoadedModel
from mrrag_llamaindex.generation.decoding.decoding import Decoding, Greedy
from mrrag_llamaindex.generation.decoding.guidance import probe_for
from mrrag_llamaindex.generation.model_errors import person_readable
from mrrag_llamaindex.generation.planner import Planner
from mrrag_llamaindex.generation.prefix_cache import PrefixCache
from mrrag_llamaindex.generation.prompt.batching import PromptBatch, make_batches
from mrrag_llamaindex.generation.prompt.reader import PromptReader
from mrrag_llamaindex.generation.prompt.request import Prompt, PromptRequest
from mrrag_llamaindex.generation.runner import BatchCall, BatchRunner
from mrrag_llamaindex.generation.stream import TokenStream
from mrrag_llamaindex.steering.policy import SteeringPolicy


class LlavaEngine(PromptReader):
    """A loaded generator and everything one call of it needs.

    Calls are independent: whatever differs between two calls (image, spans, lambda) is an
    argument of the forward pass, never a state of the model. A lock keeps two calls from
    sharing the device at the same moment, for memory's sake.

    Parameters
    ----------
    loaded : LoadedModel
        See `load_model`.
    max_documents : int
        Most documents in one prompt.
    max_new_tokens : int
        Longest answer, in tokens; reserved in the model's window.
    batch_size : int
        Most questions that are answered at once.
    prefix_cache : int
        Prefixes (image and documents) whose keys and values are kept for further questions.

    Raises
    ------
    ModelError
        If image and answer leave no room for text in the model's window.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        *,
        max_documents: int = defaults.MAX_DOCUMENTS,
        max_new_tokens: int = defaults.MAX_NEW_TOKENS,
        batch_size: int = defaults.BATCH_SIZE,
        prefix_cache: int = defaults.PREFIX_CACHE,
    ) -> None:
        super().__init__(loaded, max_documents, max_new_tokens)
        self.batch_size = batch_size
        self._process = ForkGuard()
        self.runner = BatchRunner(loaded, PrefixCache(prefix_cache))
        self.planner = Planner(loaded)
        # A sliding window counts padding, which stands behind a shared prefix.
        self.shares_prefix = loaded.family.shares_prefix and self.planner.sliding_window is None

    def with_limits(
        self,
        *,
        max_documents: int | None = None,
        max_new_tokens: int | None = None,
        batch_size: int | None = None,
    ) -> LlavaEngine:
        """Return an engine over the same loaded model with other limits; both take turns.

        Parameters
        ----------
        max_documents, max_new_tokens, batch_size : int, optional
            Default: this engine's.

        Raises
        ------
        ModelError
            As the class.
        """
        engine = LlavaEngine(
            self.loaded,
            max_documents=max_documents or self.prompts.max_documents,
            max_new_tokens=max_new_tokens or self.max_new_tokens,
            batch_size=batch_size or self.batch_size,
        )
        engine.runner = self.runner
        return engine

    def generate(
        self,
        requests: Sequence[PromptRequest],
        images: Sequence[Image.Image | None],
        *,
        policy: SteeringPolicy | None = None,
        decoding: Decoding | None = None,
        max_new_tokens: int | None = None,
    ) -> list[Answer]:
        """Answer any number of requests; each is steered by its own plan.

        They run in batches: requests on one image and the same documents share the work up to
        the question, others run with requests of about their length.

        Parameters
        ----------
        requests : sequence of PromptRequest
            Question and documents of each; see `PromptRequest`.
        images : sequence of PIL.Image.Image or None
            The query image of each request, mode RGB; None for a request without one.
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
        """
        self._process.check("this model was", ModelError)
        decoding = decoding or Greedy()
        if policy is not None and not decoding.takes_policy:
            raise SteeringError(
                f"{type(decoding).__name__} is not combined with {type(policy).__name__}: give "
                "policy=None with this decoding, or leave the decoding out"
            )
        prepared = self.read_images(requests, images)
        limit = self.answer_tokens(max_new_tokens)
        prompts = [
            self.prompt(*pair, policy, max_new_tokens)
            for pair in zip(requests, prepared, strict=True)
        ]
        answers: dict[int, Answer] = {}
        for batch in self._batches(prompts, prepared, decoding.batch_size):
            rows = [prompts[row] for row in batch.rows]
            plan, layers = self.planner.plan(rows, policy, batch.shared)
            probe = probe_for(self, [requests[row] for row in batch.rows], rows, policy)
            started = time.perf_counter()
            batch_images = [prepared[row] for row in batch.rows]
            call = BatchCall(rows, batch_images, plan, probe, limit, batch.shared)
            tokens = decoding.run(self.runner, call)
            seconds = time.perf_counter() - started
            texts = self.tokenizer.batch_decode(tokens, skip_special_tokens=True)
            for index, (row, prompt, text) in enumerate(zip(batch.rows, rows, texts, strict=True)):
                outcome = steering_outcome(prompt, policy, layers)
                answers[row] = Answer.of(prompt, text, probe.row(index), outcome, seconds)
        return [answers[row] for row in range(len(requests))]

    def _batches(
        self,
        prompts: Sequence[Prompt],
        images: Sequence[PreparedImage | None],
        batch_size: int | None = None,
    ) -> list[PromptBatch]:
        return make_batches(
            prompts,
            [image.digest if image else None for image in images],
            batch_size=batch_size or self.batch_size,
            shares_prefix=self.shares_prefix,
        )

    def stream(
        self,
        request: PromptRequest,
        image: Image.Image | None,
        *,
        policy: SteeringPolicy | None = None,
        max_new_tokens: int | None = None,
    ) -> TokenStream:
        """Answer one request piece by piece; see `TokenStream`.

        The prompt is built now, so that its errors are raised here; generation starts with the
        first read, and stops when the stream is closed.
        """
        self._process.check("this model was", ModelError)
        with person_readable():
            prepared = None if image is None else self.read_image(image)
        limit = self.answer_tokens(max_new_tokens)
        prompt = self.prompt(request, prepared, policy, max_new_tokens)
        (batch,) = self._batches([prompt], [prepared])
        plan, layers = self.planner.plan([prompt], policy, batch.shared)
        probe = probe_for(self, [request], [prompt], policy)
        call = BatchCall([prompt], [prepared], plan, probe, limit, batch.shared)

        def finish(text: str, seconds: float) -> Answer:
            outcome = steering_outcome(prompt, policy, layers)
            return Answer.of(prompt, text, probe.row(0), outcome, seconds)

        return TokenStream(self.tokenizer, partial(self.runner.run, call), finish)
