"""`MRRAGLLaVA`: the LLM that redeems a query's ticket and answers from image and evidence."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    ChatResponseAsyncGen,
    ChatResponseGen,
    CompletionResponse,
    CompletionResponseAsyncGen,
    CompletionResponseGen,
    LLMMetadata,
)
from llama_index.core.bridge.pydantic import Field, PrivateAttr
from llama_index.core.llms.callbacks import llm_chat_callback, llm_completion_callback
from llama_index.core.llms.custom import CustomLLM

from mrrag_llamaindex import defaults
from mrrag_llamaindex.errors import ModelError
from mrrag_llamaindex.generation.answer import Answer
from mrrag_llamaindex.generation.engine import LlavaEngine
from mrrag_llamaindex.generation.loading import load_model
from mrrag_llamaindex.generation.request import PromptRequest
from mrrag_llamaindex.generation.stream import TokenStream
from mrrag_llamaindex.images import load_image
from mrrag_llamaindex.integration.calls import (
    Piece,
    as_messages,
    chat_response,
    off_loop,
    token_limit,
)
from mrrag_llamaindex.integration.markers import strip
from mrrag_llamaindex.integration.resolve import MissingContext, Resolved, resolve
from mrrag_llamaindex.integration.tickets import TICKETS
from mrrag_llamaindex.integration.trace import answer_facts, verbatim
from mrrag_llamaindex.steering.ifa import IFA

if TYPE_CHECKING:
    from PIL.Image import Image

_SAFETY_TOKENS = 64  # the host counts with another tokenizer than the model's


class MRRAGLLaVA(CustomLLM):
    """LLaVA-Med that reads the query image, the scored documents and the question.

    It works inside unmodified LlamaIndex engines. Image and scores reach it through a ticket
    that `MRRAGIndex`, `MRRAGRetriever` or `MRRAGPostprocessor` wrote into the documents' LLM
    text; the prompt is then rebuilt as image, documents, question, and the attention from the
    question to each document is raised by its score (IFA).

    Parameters
    ----------
    model : str
        ``"phantom"`` (small, synthetic, offline), a folder, or a hub id.
    device : str
        A torch device, or ``"auto"``: CUDA where present, else CPU.
    ifa : IFA or None
        Steering; None turns it off.

    Raises
    ------
    ModelError
        At construction, if the model cannot be found or loaded.

    Notes
    -----
    Whatever a call raises derives from RuntimeError: the stock synthesizer turns `ValueError`
    and `TypeError` into the answer "Empty Response".
    """

    model: str = Field(
        default=defaults.DEFAULT_MODEL,
        description='"phantom" (small, synthetic, offline), a local folder, or a hub id.',
    )
    device: str = Field(
        default="auto", description='A torch device, or "auto": CUDA where present, else CPU.'
    )
    dtype: str = Field(
        default="auto",
        description="\"auto\" (checkpoint's on CUDA, float32 on CPU), or a torch dtype's name.",
    )
    ifa: IFA | None = Field(
        default_factory=IFA, description="Steering of attention; None turns it off."
    )
    steering_backend: Literal["rows", "eager"] = Field(
        default="rows", description="How steering is computed; both give the same result."
    )
    max_documents: int = Field(
        default=defaults.MAX_DOCUMENTS, ge=1, description="Most documents in one prompt."
    )
    max_new_tokens: int = Field(
        default=defaults.MAX_NEW_TOKENS, ge=1, description="Longest answer, in tokens."
    )
    on_missing_context: MissingContext = Field(
        default="error", description="What to do when no evidence reaches a call."
    )

    _engine: LlavaEngine = PrivateAttr()

    def __init__(self, **data: Any) -> None:
        engine = data.pop("engine", None)
        super().__init__(**data)
        self._engine = engine or LlavaEngine(
            load_model(
                self.model, device=self.device, dtype=self.dtype, backend=self.steering_backend
            ),
            max_documents=self.max_documents,
            max_new_tokens=self.max_new_tokens,
        )

    @classmethod
    def class_name(cls) -> str:
        """Return the stable name of the class, for serialisation."""
        return "MRRAGLLaVA"

    @property
    def engine(self) -> LlavaEngine:
        """The loaded generator."""
        return self._engine

    @property
    def metadata(self) -> LLMMetadata:
        """Window left for text: the host's prompt helper knows nothing of image tokens."""
        return LLMMetadata(
            context_window=self._engine.window - self._engine.image_tokens - _SAFETY_TOKENS,
            num_output=self.max_new_tokens,
            is_chat_model=True,
            model_name=self.model,
        )

    # The eight entry points: {complete, chat} x {whole, stream} x {sync, async}.

    @llm_completion_callback()
    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        """Answer a prompt."""
        answer = self._answer(as_messages(prompt), kwargs)
        return CompletionResponse(text=answer.text, additional_kwargs=answer_facts(answer))

    @llm_completion_callback()
    def stream_complete(
        self, prompt: str, formatted: bool = False, **kwargs: Any
    ) -> CompletionResponseGen:
        """Answer a prompt piece by piece."""
        call = self._open(as_messages(prompt), kwargs)

        def pieces() -> CompletionResponseGen:
            for text, delta, facts in call:
                yield CompletionResponse(text=text, delta=delta, additional_kwargs=facts)

        return pieces()

    @llm_chat_callback()
    def chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """Answer the last user message."""
        answer = self._answer(messages, kwargs)
        return chat_response(answer.text, None, answer_facts(answer))

    @llm_chat_callback()
    def stream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseGen:
        """Answer the last user message piece by piece."""
        call = self._open(messages, kwargs)

        def pieces() -> ChatResponseGen:
            for text, delta, facts in call:
                yield chat_response(text, delta, facts)

        return pieces()

    @llm_completion_callback()
    async def acomplete(
        self, prompt: str, formatted: bool = False, **kwargs: Any
    ) -> CompletionResponse:
        """Answer a prompt without blocking the event loop."""
        answer = await asyncio.to_thread(self._answer, as_messages(prompt), kwargs)
        return CompletionResponse(text=answer.text, additional_kwargs=answer_facts(answer))

    @llm_completion_callback()
    async def astream_complete(
        self, prompt: str, formatted: bool = False, **kwargs: Any
    ) -> CompletionResponseAsyncGen:
        """Answer a prompt piece by piece without blocking the event loop."""
        call = await asyncio.to_thread(self._open, as_messages(prompt), kwargs)

        async def pieces() -> CompletionResponseAsyncGen:
            async for text, delta, facts in off_loop(call):
                yield CompletionResponse(text=text, delta=delta, additional_kwargs=facts)

        return pieces()

    @llm_chat_callback()
    async def achat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """Answer the last user message without blocking the event loop."""
        answer = await asyncio.to_thread(self._answer, messages, kwargs)
        return chat_response(answer.text, None, answer_facts(answer))

    @llm_chat_callback()
    async def astream_chat(
        self, messages: Sequence[ChatMessage], **kwargs: Any
    ) -> ChatResponseAsyncGen:
        """Answer the last user message piece by piece without blocking the event loop."""
        call = await asyncio.to_thread(self._open, messages, kwargs)

        async def pieces() -> ChatResponseAsyncGen:
            async for text, delta, facts in off_loop(call):
                yield chat_response(text, delta, facts)

        return pieces()

    # One road behind all of them.

    def _resolve(self, messages: Sequence[ChatMessage]) -> Resolved:
        return resolve(messages, TICKETS, self.on_missing_context)

    def _answer(self, messages: Sequence[ChatMessage], kwargs: dict[str, Any]) -> Answer:
        limit = token_limit(kwargs)
        call = self._resolve(messages)
        if call.kind == "condense" and not self._engine.loaded.profile.conversational:
            return verbatim(call.follow_up)
        request, image = self._prepare(call)
        (answer,) = self._engine.generate([request], [image], ifa=self.ifa, max_new_tokens=limit)
        return self._record(call, answer)

    def _open(self, messages: Sequence[ChatMessage], kwargs: dict[str, Any]) -> Iterator[Piece]:
        limit = token_limit(kwargs)
        call = self._resolve(messages)
        if call.kind == "condense" and not self._engine.loaded.profile.conversational:
            return iter([(call.follow_up, call.follow_up, {})])
        request, image = self._prepare(call)
        stream = self._engine.stream(request, image, ifa=self.ifa, max_new_tokens=limit)
        return self._pieces(call, stream)

    def _pieces(self, call: Resolved, stream: TokenStream) -> Iterator[Piece]:
        text = ""
        try:
            for piece in stream:
                text += piece
                yield text, piece, {}
        finally:
            stream.close()
        if stream.answer is not None:
            yield text, "", answer_facts(self._record(call, stream.answer))

    def _prepare(self, call: Resolved) -> tuple[PromptRequest, Image | None]:
        request = call.request
        if not self._engine.loaded.profile.conversational:
            request = replace(request, history=())
        image = None if call.image is None else load_image(call.image, what="query image")
        return request, image

    def _record(self, call: Resolved, answer: Answer) -> Answer:
        answer = replace(answer, text=strip(answer.text))
        if not answer.text:
            raise ModelError(
                f"model {self.model!r} ended its answer before its first word; hosts would show "
                "this as an empty response, as if there were nothing to say"
            )
        if answer.unknown_tokens:
            warnings.warn(
                f"{answer.unknown_tokens} words of this prompt are unknown to model "
                f"{self.model!r}: it did not read them, and its answer is worth little",
                stacklevel=4,
            )
        if call.ticket is not None:
            call.ticket.answers.append(answer)
        return answer
