"""Generate answers: batches, shared prefixes, streams, steering, first-token confidence."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from typing import Any

from PIL import Image

from mrrag_llamaindex import defaults
from mrrag_llamaindex.errors import InputError, SteeringError
from mrrag_llamaindex.generation.answer import Answer, steering_outcome
from mrrag_llamaindex.generation.checkpoints.image_readers import PreparedImage
from mrrag_llamaindex.generation.checkpoints.loading import LoadedModel
from mrrag_llamaindex.generation.decoding.guidance import probe_for
from mrrag_llamaindex.generation.decoding.opera import OPERA
from mrrag_llamaindex.generation.decoding.opera_runner import OperaRunner
from mrrag_llamaindex.generation.planner import Planner
from mrrag_llamaindex.generation.prefix_cache import PrefixCache
from mrrag_llamaindex.generation.prompt.batching import Batch, make_batches
from mrrag_llamaindex.generation.prompt.reader import PromptReader, leaves_out
from mrrag_llamaindex.generation.prompt.request import Prompt, PromptRequest
from mrrag_llamaindex.generation.runner import BatchRunner, person_readable
from mrrag_llamaindex.generation.stream import TokenStream
from mrrag_llamaindex.steering.policy import PromptPolicy


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
        self.runner = BatchRunner(loaded, PrefixCache(prefix_cache))
        self.planner = Planner(loaded)
        # A sliding window counts padding, which stands behind a shared prefix.
        self.shares_prefix = loaded.family.shares_prefix and self.planner.sliding_window is None

    def generate(
        self,
        requests: Sequence[PromptRequest],
        images: Sequence[Image.Image | None],
        *,
        policy: PromptPolicy | None = None,
        decoding: OPERA | None = None,
        max_new_tokens: int | None = None,
    ) -> list[Answer]:
        """Answer any number of requests; each is steered by its own plan.

        They run in batches: requests on one image and the same documents share the work up to
        the question, others run with requests of about their length.

        Parameters
        ----------
        requests : sequence of PromptRequest
        images : sequence of PIL.Image.Image or None
            The query image of each request, mode RGB; None for a request without one.
        policy : PromptPolicy or None
            `IFA`, `PAI` or one of `mrrag_llamaindex.steering.policies`. None: plain attention.
        decoding : OPERA or None
            None: greedy. OPERA answers one question at a time, and is not combined with a policy.
        max_new_tokens : int, optional

        Returns
        -------
        list of Answer
            In the order of the requests.

        Raises
        ------
        InputError, PromptError, SteeringError, ModelError
        """
        read = self.read_images(requests, images)
        limit = max_new_tokens or self.max_new_tokens
        return self._answer(requests, read, policy, decoding, limit)

    def sweep(
        self,
        requests: Sequence[PromptRequest],
        images: Sequence[Image.Image | None],
        policies: Collection[PromptPolicy | None],
        *,
        max_new_tokens: int | None = None,
    ) -> dict[PromptPolicy | None, list[Answer]]:
        """Answer the same requests under several policies; image and documents are read once.

        No policy changes anything before the question, so the keys and values of what stands
        there serve all of them, strengths and layer sets included. The answers are those of
        `generate`, policy by policy, up to rounding. It needs a ``prefix_cache`` of at least 1,
        and a model that shares prefixes: without them every policy reads the prompt anew.

        Parameters
        ----------
        requests, images
            As for `generate`.
        policies : collection of PromptPolicy or None
            Each once; they are the keys of the result.
        max_new_tokens : int, optional

        Returns
        -------
        dict of PromptPolicy or None to list of Answer
            In the order of `policies`, each list in the order of the requests.

        Raises
        ------
        InputError, PromptError, SteeringError, ModelError
        """
        if len(set(policies)) != len(policies):
            raise InputError("the same policy was given twice; name each once")
        read = self.read_images(requests, images)
        limit = max_new_tokens or self.max_new_tokens
        prompts = [self.prompt(*pair) for pair in zip(requests, read, strict=True)]
        # A policy that leaves documents out has prefixes of its own, which would push the shared
        # one out of the cache: it comes last.
        order = sorted(policies, key=leaves_out)
        found: dict[PromptPolicy | None, dict[int, Answer]] = {policy: {} for policy in policies}
        for batch in self._batches(prompts, read):
            # Prompts that share nothing are answered one by one: the prefix of each is kept.
            groups = [batch.rows] if batch.shared else [(row,) for row in batch.rows]
            for rows in groups:
                asked, shown = [requests[row] for row in rows], [read[row] for row in rows]
                for policy in order:
                    answers = self._answer(asked, shown, policy, None, limit)
                    found[policy] |= dict(zip(rows, answers, strict=True))
        return {
            policy: [answers[row] for row in range(len(requests))]
            for policy, answers in found.items()
        }

    def _batches(
        self,
        prompts: Sequence[Prompt],
        read: Sequence[PreparedImage | None],
        batch_size: int | None = None,
    ) -> list[Batch]:
        return make_batches(
            prompts,
            [image.digest if image else None for image in read],
            batch_size=batch_size or self.batch_size,
            shares_prefix=self.shares_prefix,
        )

    def _answer(
        self,
        requests: Sequence[PromptRequest],
        read: Sequence[PreparedImage | None],
        policy: PromptPolicy | None,
        decoding: OPERA | None,
        limit: int,
    ) -> list[Answer]:
        """Answer requests whose images have been read."""
        if decoding is not None and policy is not None:
            raise SteeringError(
                f"OPERA is not combined with {type(policy).__name__}: give policy=None with a "
                "decoding, or leave the decoding out"
            )
        opera = None if decoding is None else OperaRunner(self.loaded, self.runner)
        prompts = [
            self.prompt(request, image, policy)
            for request, image in zip(requests, read, strict=True)
        ]
        answers: dict[int, Answer] = {}
        for batch in self._batches(prompts, read, 1 if opera else None):
            rows = [prompts[row] for row in batch.rows]
            plan, layers = self.planner.plan(rows, policy, batch.shared)
            probe = probe_for(self, [requests[row] for row in batch.rows], rows, policy)
            started = time.perf_counter()
            shown = [read[row] for row in batch.rows]
            if opera is not None and decoding is not None:
                tokens = opera.search(decoding, batch, rows[0], shown[0], probe, limit)
            else:
                tokens = self.runner.run(batch, rows, shown, plan, probe, limit)
            seconds = time.perf_counter() - started
            texts = self.tokenizer.batch_decode(tokens, skip_special_tokens=True)
            for index, (row, prompt, text) in enumerate(zip(batch.rows, rows, texts, strict=True)):
                outcome = steering_outcome(prompt, policy, layers)
                answers[row] = Answer.of(prompt, text, probe.row(index), outcome, seconds)
        return [answers[row] for row in range(len(requests))]

    def stream(
        self,
        request: PromptRequest,
        image: Image.Image | None,
        *,
        policy: PromptPolicy | None = None,
        max_new_tokens: int | None = None,
    ) -> TokenStream:
        """Answer one request piece by piece; see `TokenStream`.

        The prompt is built now, so that its errors are raised here; generation starts with the
        first read, and stops when the stream is closed.
        """
        with person_readable():
            read = None if image is None else self.read_image(image)
        prompt = self.prompt(request, read, policy)
        (batch,) = self._batches([prompt], [read])
        plan, layers = self.planner.plan([prompt], policy, batch.shared)
        probe = probe_for(self, [request], [prompt], policy)

        def run(streamer: Any, stopping: Any) -> None:
            limit = max_new_tokens or self.max_new_tokens
            self.runner.run(batch, [prompt], [read], plan, probe, limit, streamer, stopping)

        def finish(text: str, seconds: float) -> Answer:
            outcome = steering_outcome(prompt, policy, layers)
            return Answer.of(prompt, text, probe.row(0), outcome, seconds)

        return TokenStream(self.tokenizer, run, finish)
