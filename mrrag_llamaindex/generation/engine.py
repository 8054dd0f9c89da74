"""Generate answers: batches, shared prefixes, streams, steering, first-token confidence."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from PIL import Image

from mrrag_llamaindex import defaults
from mrrag_llamaindex.errors import InputError, ModelError
from mrrag_llamaindex.generation.answer import Answer, steering_outcome
from mrrag_llamaindex.generation.batching import make_batches
from mrrag_llamaindex.generation.first_token import FirstTokenProbe, spellings
from mrrag_llamaindex.generation.guards import person_readable
from mrrag_llamaindex.generation.loading import LoadedModel
from mrrag_llamaindex.generation.planner import Planner
from mrrag_llamaindex.generation.prefix_cache import PrefixCache
from mrrag_llamaindex.generation.prompt import PromptBuilder
from mrrag_llamaindex.generation.query_images import QueryImage
from mrrag_llamaindex.generation.request import Prompt, PromptRequest
from mrrag_llamaindex.generation.runner import BatchRunner
from mrrag_llamaindex.generation.stream import TokenStream
from mrrag_llamaindex.steering.checks import sliding_window
from mrrag_llamaindex.steering.plan import IFA

_LEAST_TEXT = 128  # tokens: a question and one short report
_USUAL_SIDE = 1024  # pixels


class LlavaEngine:
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
        self.loaded = loaded
        self.model = loaded.model
        self.tokenizer = loaded.tokenizer
        self.max_new_tokens = max_new_tokens
        self.batch_size = batch_size
        self.runner = BatchRunner(loaded, PrefixCache(prefix_cache))
        text = self.model.config.get_text_config(decoder=True)
        self.window = int(text.max_position_embeddings)
        # A sliding window counts padding, which stands behind a shared prefix.
        self.shares_prefix = loaded.family.shares_prefix and sliding_window(text) is None
        self.planner = Planner(loaded)
        # Some models cut an image into more tokens the larger it is; prompts count the true ones.
        usual = self.read_image(Image.new("RGB", (_USUAL_SIDE, _USUAL_SIDE)))
        self.image_tokens = usual.tokens if usual else 0
        if max_new_tokens + self.image_tokens >= self.window - _LEAST_TEXT:
            raise ModelError(
                f"max_new_tokens={max_new_tokens} and {self.image_tokens} image tokens leave no "
                f"room for text in this model's window of {self.window}; ask for shorter answers"
            )
        self.prompts = PromptBuilder(
            self.tokenizer,
            loaded.profile.template,
            image_token=loaded.images.image_token if loaded.images else None,
            max_tokens=self.window - max_new_tokens,
            max_documents=max_documents,
        )
        self._yes = spellings(self.tokenizer, "yes")
        self._no = spellings(self.tokenizer, "no")

    def generate(
        self,
        requests: Sequence[PromptRequest],
        images: Sequence[Image.Image | None],
        *,
        policy: IFA | None = None,
        max_new_tokens: int | None = None,
    ) -> list[Answer]:
        """Answer any number of requests, greedily; each is steered by its own plan.

        They run in batches: requests on one image and the same documents share the work up to
        the question, others run with requests of about their length.

        Parameters
        ----------
        requests : sequence of PromptRequest
        images : sequence of PIL.Image.Image or None
            The query image of each request, mode RGB; None for a request without one.
        policy : IFA or None
            None: plain attention.
        max_new_tokens : int, optional

        Returns
        -------
        list of Answer
            In the order of the requests.

        Raises
        ------
        InputError, PromptError, SteeringError, ModelError
        """
        if len(requests) != len(images):
            raise InputError(f"{len(requests)} requests and {len(images)} images")
        with person_readable():
            seen = {id(image): self.read_image(image) for image in images if image is not None}
        read = [None if image is None else seen[id(image)] for image in images]
        prompts = [self.prompt(*pair) for pair in zip(requests, read, strict=True)]
        answers: dict[int, Answer] = {}
        batches = make_batches(
            prompts,
            [image.digest if image else None for image in read],
            batch_size=self.batch_size,
            shares_prefix=self.shares_prefix,
        )
        for batch in batches:
            rows = [prompts[row] for row in batch.rows]
            plan, layers = self.planner.plan(rows, policy, batch.shared)
            probe = FirstTokenProbe(self._yes, self._no)
            started = time.perf_counter()
            shown = [read[row] for row in batch.rows]
            limit = max_new_tokens or self.max_new_tokens
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
        policy: IFA | None = None,
        max_new_tokens: int | None = None,
    ) -> TokenStream:
        """Answer one request piece by piece; see `TokenStream`.

        The prompt is built now, so that its errors are raised here; generation starts with the
        first read, and stops when the stream is closed.
        """
        with person_readable():
            read = None if image is None else self.read_image(image)
        prompt = self.prompt(request, read)
        (batch,) = make_batches(
            [prompt],
            [read.digest if read else None],
            batch_size=1,
            shares_prefix=self.shares_prefix,
        )
        plan, layers = self.planner.plan([prompt], policy, batch.shared)
        probe = FirstTokenProbe(self._yes, self._no)

        def run(streamer: Any, stopping: Any) -> None:
            limit = max_new_tokens or self.max_new_tokens
            self.runner.run(batch, [prompt], [read], plan, probe, limit, streamer, stopping)

        def finish(text: str, seconds: float) -> Answer:
            outcome = steering_outcome(prompt, policy, layers)
            return Answer.of(prompt, text, probe.row(0), outcome, seconds)

        return TokenStream(self.tokenizer, run, finish)

    def read_image(self, image: Image.Image) -> QueryImage | None:
        """Prepare an RGB image for this model; None if it reads text only."""
        return self.loaded.images.read(image) if self.loaded.images else None

    def prompt(self, request: PromptRequest, image: QueryImage | None) -> Prompt:
        """Build the prompt of a request; see `PromptBuilder.build`."""
        return self.prompts.build(request, image.text if image else "")
