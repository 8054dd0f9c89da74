"""`VllmEngine`: prompts are written and checked here, and tokens come from vLLM."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import CancelledError, Future, InvalidStateError
from contextlib import aclosing, suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from typing_extensions import Self

from mrrag_llamaindex.errors import BusyError, ModelError, MRRAGError, SteeringError
from mrrag_llamaindex.generation.answer import Answer, steering_outcome
from mrrag_llamaindex.generation.checkpoints.image_readers import PreparedImage
from mrrag_llamaindex.generation.decoding.decoding import Decoding, Greedy
from mrrag_llamaindex.generation.interface import Engine
from mrrag_llamaindex.generation.model_errors import person_readable
from mrrag_llamaindex.generation.planner import Planner
from mrrag_llamaindex.generation.prompt.reader import Pictures, pictures_of
from mrrag_llamaindex.generation.prompt.request import Prompt, PromptRequest
from mrrag_llamaindex.generation.scheduling.cancellation import cover
from mrrag_llamaindex.generation.scheduling.job import Admission, Generated
from mrrag_llamaindex.generation.scheduling.statistics import SchedulerStats
from mrrag_llamaindex.generation.stream import TokenStream
from mrrag_llamaindex.generation.vllm.connection import Connection
from mrrag_llamaindex.generation.vllm.description import DescribedModel
from mrrag_llamaindex.generation.vllm.door import MOST_LOGPROBS, Piece, WireRequest
from mrrag_llamaindex.steering.policy import SteeringPolicy
from mrrag_llamaindex.steering.wire.request_plan import RequestPlan
from mrrag_llamaindex.steering.wire.request_report import RequestReport

if TYPE_CHECKING:
    from PIL import Image

_ROUNDING = 1e-3
"""By which a log-probability may lie above 0; a chosen token's logit is higher."""


class Call(Future[Generated]):
    """One request on its way: a future that can be cancelled until it is done.

    Parameters
    ----------
    prompt : Prompt
    policy : SteeringPolicy or None
    layers : tuple of int
        Those that it steers for this prompt.
    request : WireRequest
    on_token : callable, optional
        Called with each token id as it comes, in the thread of the engine's loop.
    """

    def __init__(
        self,
        prompt: Prompt,
        policy: SteeringPolicy | None,
        layers: tuple[int, ...],
        request: WireRequest,
        on_token: Callable[[int], object] | None = None,
    ) -> None:
        super().__init__()
        self.prompt, self.policy, self.layers, self.request = prompt, policy, layers, request
        self.on_token = on_token


class VllmEngine(Engine):
    """Answers from a vLLM engine, which batches whatever is asked at once.

    Prompts, spans, lambdas and the choice of documents are those of `LlavaEngine`, of which this
    shares the code. What vLLM read is compared with them, token by token, before an answer is
    given, and what it steered with the plan that was sent.

    Parameters
    ----------
    loaded : DescribedModel
    connection : Connection
    **limits
        As of `Engine`.

    Raises
    ------
    ModelError
        If the model's words cannot be told apart within vLLM's limits, or image and answer leave
        no room for text.
    """

    loaded: DescribedModel

    def __init__(self, loaded: DescribedModel, connection: Connection, **limits: Any) -> None:
        loaded = loaded.within(connection.window)
        super().__init__(loaded, Planner(loaded), **limits)
        self.connection = connection
        self._unused = tuple(loaded.generation_config.suppress_tokens or ())
        self._watched = (*dict.fromkeys([*self.yes_ids, *self.no_ids, *self._unused]),)
        if len(self._watched) >= MOST_LOGPROBS:
            raise ModelError(
                f"model {loaded.source!r} has {len(self._unused)} unused rows and "
                f"{len(self.yes_ids) + len(self.no_ids)} spellings of yes and no, and vLLM tells "
                f"the probabilities of fewer than {MOST_LOGPROBS} tokens"
            )

    @property
    def device(self) -> str:
        """See `Engine`."""
        return self.connection.door.name

    @property
    def identity(self) -> str:
        """See `Engine`."""
        return self.loaded.identity

    @property
    def stats(self) -> SchedulerStats:
        """See `Engine`; each request counts as a batch of one."""
        return self.connection.line.stats

    def _again(self, **limits: Any) -> Self:
        return type(self)(self.loaded, self.connection, **limits)

    def generate(
        self,
        requests: Sequence[PromptRequest],
        images: Sequence[Pictures],
        *,
        policy: SteeringPolicy | None = None,
        decoding: Decoding | None = None,
        max_new_tokens: int | None = None,
    ) -> list[Answer]:
        """See `Engine`; `batch_size` of them are with vLLM at once."""
        if decoding is not None and decoding != Greedy():
            raise ModelError(
                f"vLLM decodes greedily, and {type(decoding).__name__} is another decoding: use "
                'engine="transformers"'
            )
        prepared = self.read_images(requests, images)
        limit = self.answer_tokens(max_new_tokens)
        calls = [
            self._call(request, image, read, policy, limit)
            for request, image, read in zip(requests, images, prepared, strict=True)
        ]
        cover(calls)
        try:
            if calls:
                self.connection.start(self._answer_all(calls))
            generated = [call.result() for call in calls]
        finally:
            for call in calls:  # an error, or an interrupt: nobody waits for the others
                call.cancel()
        return [self._finish(call, one, limit) for call, one in zip(calls, generated, strict=True)]

    def stream(
        self,
        request: PromptRequest,
        image: Pictures,
        *,
        policy: SteeringPolicy | None = None,
        max_new_tokens: int | None = None,
    ) -> TokenStream:
        """See `Engine`."""
        with person_readable():
            read = self.read_image(image)
        limit = self.answer_tokens(max_new_tokens)
        made = self._call(request, image, read, policy, limit)
        parts = made.prompt, made.policy, made.layers, made.request
        return TokenStream(
            self.tokenizer,
            partial(Call, *parts),
            self._submit,
            partial(self._finish, made, limit=limit),
        )

    def _submit(self, call: Call) -> None:
        cover([call])
        self.connection.start(self._answer_all([call]))

    def _call(
        self,
        request: PromptRequest,
        image: Pictures,
        read: PreparedImage | None,
        policy: SteeringPolicy | None,
        limit: int,
    ) -> Call:
        """Check everything about one request, and make what is sent."""
        prompt = self.prompt(request, read, policy, limit)
        layers = self.planner.layers([prompt], policy)
        plan = None
        if policy is not None and policy.guidance != 1:
            name = type(policy).__name__
            raise SteeringError(f"vLLM runs no guided decoding: use {name}(guidance=1)")
        if policy is not None and layers and not policy.is_off:
            plan = RequestPlan.of(prompt.spans, prompt.lambdas, policy, layers)
        sent = prompt.input_ids
        shown: tuple[Image.Image, ...] = ()
        if read is not None and self.loaded.images is not None:
            with person_readable():
                shown = tuple(map(self.loaded.images.to_send, pictures_of(image)))
            text = prompt.text
            for written in read.texts:
                text = text.replace(written, self.loaded.images.marker, 1)
            sent = tuple(self.tokenizer(text)["input_ids"])
        wire = WireRequest(
            sent_ids=sent,
            prompt_ids=prompt.input_ids,
            images=shown,
            max_new_tokens=limit,
            watched=self._watched,
            unused=self._unused,
            ends=tuple(sorted(self.end_ids)),
            plan=plan,
        )
        return Call(prompt, policy, layers, wire)

    def _finish(self, call: Call, generated: Generated, limit: int) -> Answer:
        outcome = steering_outcome(call.prompt, call.policy, call.layers)
        return self.answer_of(call.prompt, generated, outcome, limit)

    async def _answer_all(self, calls: Sequence[Call]) -> None:
        """Answer the calls of one caller, of which only the first waits as a new one."""
        admission = Admission(self.max_queue, self.queue_timeout)
        left = enumerate(calls)

        async def work() -> None:
            for number, call in left:
                await self._answer_one(call, Admission(None, None) if number else admission)

        await asyncio.gather(*(work() for _ in range(min(self.batch_size, len(calls)))))

    async def _answer_one(self, call: Call, admission: Admission) -> None:
        if call.done():
            self.connection.line.counters.add("cancelled")
            return
        task = asyncio.create_task(self._generated(call, admission), name="mrrag-request")
        call.add_done_callback(lambda _: self.connection.call_soon(task.cancel))
        await asyncio.wait([task])
        counters = self.connection.line.counters
        if call.done():  # it was cancelled meanwhile
            counters.add("cancelled")
            return
        with suppress(InvalidStateError):  # it is cancelled just now
            if task.cancelled():
                counters.add("failed")
                call.set_exception(ModelError(f"{self.device} was closed while it answered"))
            elif error := task.exception():
                if not isinstance(error, BusyError):
                    counters.add("failed")
                call.set_exception(_for_a_person(error))
            else:
                counters.add("answered")
                counters.ran(task.result().seconds)
                call.set_result(task.result())

    async def _generated(self, call: Call, admission: Admission) -> Generated:
        async with self.connection.line.place(self.batch_size, admission):
            started = time.perf_counter()
            tokens: list[int] = []
            confidence: tuple[float, float] | None = None
            last: Piece | None = None
            async with aclosing(self.connection.door.pieces(call.request)) as pieces:
                async for piece in pieces:
                    if last is None:
                        self._require_same_prompt(call.request, piece)
                    if confidence is None and piece.logprobs:
                        confidence = self._confidence(piece.logprobs[0])
                    for token in piece.tokens:
                        tokens.append(token)
                        if call.on_token is not None:
                            call.on_token(token)
                    last = piece
            self._require_answered(call.request, last)
            if confidence is None or not tokens:
                raise ModelError(f"{self.device} gave no token, and no reason for it")
            return Generated(tokens, confidence, time.perf_counter() - started)

    def _require_same_prompt(self, request: WireRequest, piece: Piece) -> None:
        theirs = tuple(piece.prompt_ids or ())
        if theirs == request.prompt_ids:
            return
        counts = f"{len(request.prompt_ids)} here and {len(theirs)} there"
        raise ModelError(
            f"{self.device} read another prompt than was written for model "
            f"{self.loaded.source!r} ({counts}, in tokens): its tokenizer or processor is "
            "another one, so that spans would stand in the wrong places; let both name one folder"
        )

    def _require_answered(self, request: WireRequest, last: Piece | None) -> None:
        """Raise unless the request ended well, and was steered as planned."""
        if last is None or last.finish_reason is None:
            raise ModelError(f"{self.device} ended in the middle of the answer")
        if last.finish_reason not in ("stop", "length"):
            why = last.stop_reason if isinstance(last.stop_reason, str) else last.finish_reason
            raise ModelError(f"{self.device} did not answer this request: {why}")
        if request.plan is not None:
            RequestReport.of(last.stop_reason, request.plan)

    def _confidence(self, logprobs: Mapping[int, float]) -> tuple[float, float]:
        """Return p(yes) and p(no) over the words of the vocabulary."""
        missing = [token for token in self._watched if token not in logprobs]
        if missing:
            raise ModelError(
                f"{self.device} did not tell the probabilities of {len(missing)} of the "
                f"{len(self._watched)} tokens that spell yes and no, or nothing"
            )
        if max(logprobs.values()) > _ROUNDING:
            raise ModelError(
                f"{self.device} tells logits in place of log-probabilities, so that p(yes) cannot "
                "be told: start it without --logprobs-mode"
            )
        yes, no, unused = (
            math.fsum(math.exp(logprobs[token]) for token in ids)
            for ids in (self.yes_ids, self.no_ids, self._unused)
        )
        return yes / (1 - unused), no / (1 - unused)


def _for_a_person(error: BaseException) -> BaseException:
    if isinstance(error, (MRRAGError, CancelledError)):
        return error
    try:
        with person_readable():
            raise error
    except MRRAGError as readable:
        return readable
    except Exception as other:
        named = ModelError(f"vLLM failed ({type(other).__name__}); the cause is chained")
        named.__cause__ = other
        return named
