"""The calls that a LlamaIndex host may make: with a template or text, at once or streamed, or not.

A host fills templates through ``predict``, ``stream``, ``apredict`` and ``astream``, which end in
the four chat calls below. What the template's variables hold is read on the way, see `templates`,
and what observers see of it (events, spans, callbacks, token counters) has no markers.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import replace
from functools import partial, partialmethod
from typing import Any, ClassVar, NamedTuple

from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    ChatResponseAsyncGen,
    ChatResponseGen,
    CompletionResponse,
    CompletionResponseAsyncGen,
    CompletionResponseGen,
    MessageRole,
)
from llama_index.core.bridge.pydantic import BaseModel
from llama_index.core.llms.callbacks import llm_chat_callback, llm_completion_callback
from llama_index.core.llms.custom import CustomLLM
from llama_index.core.llms.structured_llm import StructuredLLM
from llama_index.core.prompts.base import BasePromptTemplate, LangchainPromptTemplate

from mrrag_llamaindex.generation.answer import Answer
from mrrag_llamaindex.generation.scheduling.off_loop import in_thread, iterate
from mrrag_llamaindex.integration.structured_output import (
    MRRAGStructuredLLM,
    filled,
    require_fillable,
)
from mrrag_llamaindex.integration.tickets.host_call import HostCall
from mrrag_llamaindex.integration.tickets.observers import as_sent, unobserved
from mrrag_llamaindex.integration.tickets.readers import TicketReader
from mrrag_llamaindex.integration.tickets.resolve import role_of
from mrrag_llamaindex.integration.tickets.templates import read_template, without_markers
from mrrag_llamaindex.integration.trace import answer_facts


class Reply(NamedTuple):
    """An answer, or how far a stream has come, in a form that both kinds of response take.

    Attributes
    ----------
    text : str
        The text so far.
    delta : str or None
        What is new in it; None for an answer given at once.
    facts : dict
        Facts of the answer; with a stream's last reply only.
    """

    text: str
    delta: str | None
    facts: dict[str, Any]

    @classmethod
    def of(cls, answer: Answer) -> Reply:
        """Return an answer that is given at once."""
        return cls(answer.text, None, answer_facts(answer))

    def completion(self) -> CompletionResponse:
        """Return it as the response to a prompt."""
        return CompletionResponse(text=self.text, delta=self.delta, additional_kwargs=self.facts)

    def chat(self) -> ChatResponse:
        """Return it as the response to messages."""
        message = ChatMessage(role=MessageRole.ASSISTANT, content=self.text)
        return ChatResponse(message=message, delta=self.delta, additional_kwargs=self.facts)


class HostMessages(list[ChatMessage]):
    """Messages of a filled template as observers see them, and the call that they make.

    Attributes
    ----------
    call : HostCall or None
        None for a template that holds no question.
    variables : frozenset of str
        Of the template.
    purpose : str
        See `HostCall`.
    """

    call: HostCall | None = None
    variables: frozenset[str] = frozenset()
    purpose: str = ""


def _bound(prompt: BasePromptTemplate) -> dict[str, Any]:
    """Return the variables that a template holds already."""
    if not isinstance(prompt, LangchainPromptTemplate):
        return prompt.kwargs
    # It hands them on to LangChain's template, which may hold functions as well.
    held = prompt.selector.default_prompt.partial_variables
    return {name: value for name, value in held.items() if not callable(value)}


def _without_markers(
    llm: EntryPoints, name: str, prompt: BasePromptTemplate, **prompt_args: Any
) -> Any:
    """Call ``llm``'s method of the base class with variables that others may see."""
    return getattr(super(EntryPoints, llm), name)(prompt, **without_markers(prompt_args))


def _structured(
    llm: EntryPoints,
    output_cls: type[BaseModel],
    prompt: BasePromptTemplate,
    llm_kwargs: dict[str, Any] | None = None,
    **prompt_args: Any,
) -> BaseModel:
    """Answer a template's question in a schema."""
    require_fillable(output_cls)
    messages = llm._get_messages(prompt, **without_markers(prompt_args))
    response = llm.chat(messages, **(llm_kwargs or {}))
    return filled(output_cls, response.message.content or "", response.additional_kwargs["mrrag"])


async def _astructured(
    llm: EntryPoints,
    output_cls: type[BaseModel],
    prompt: BasePromptTemplate,
    llm_kwargs: dict[str, Any] | None = None,
    **prompt_args: Any,
) -> BaseModel:
    """Answer a template's question in a schema without blocking the event loop."""
    require_fillable(output_cls)
    messages = llm._get_messages(prompt, **without_markers(prompt_args))
    response = await llm.achat(messages, **(llm_kwargs or {}))
    return filled(output_cls, response.message.content or "", response.additional_kwargs["mrrag"])


def _stream_structured(llm: EntryPoints, *args: Any, **kwargs: Any) -> Iterator[BaseModel]:
    """Answer in a schema: it comes as a whole, since a part of it would be no verdict."""
    yield _structured(llm, *args, **kwargs)


async def _astream_structured(
    llm: EntryPoints, *args: Any, **kwargs: Any
) -> AsyncIterator[BaseModel]:
    async def results() -> AsyncIterator[BaseModel]:
        yield await _astructured(llm, *args, **kwargs)

    return results()


class EntryPoints(TicketReader, CustomLLM):
    """An LLM behind one pair of methods: `_answer` for an answer at once, `_open` for a stream.

    `CustomLLM` derives four of the eight calls from the others, and in doing so drops images and
    blocks the event loop; here each is written out.
    """

    # No plain methods: the base class would wrap those in spans, which record their arguments.
    predict: ClassVar[Any] = partialmethod(_without_markers, "predict")
    stream: ClassVar[Any] = partialmethod(_without_markers, "stream")
    apredict: ClassVar[Any] = partialmethod(_without_markers, "apredict")
    astream: ClassVar[Any] = partialmethod(_without_markers, "astream")

    structured_predict: ClassVar[Any] = partialmethod(_structured)
    astructured_predict: ClassVar[Any] = partialmethod(_astructured)
    stream_structured_predict: ClassVar[Any] = partialmethod(_stream_structured)
    astream_structured_predict: ClassVar[Any] = partialmethod(_astream_structured)

    def as_structured_llm(self, output_cls: type[BaseModel], **kwargs: Any) -> StructuredLLM:
        """Return an LLM whose answers are JSON of a schema; see `require_fillable` for which."""
        require_fillable(output_cls)
        return MRRAGStructuredLLM(llm=self, output_cls=output_cls, **kwargs)

    def _get_messages(self, prompt: BasePromptTemplate, **prompt_args: Any) -> list[ChatMessage]:
        fill = partial(super()._get_messages, prompt)
        variables = without_markers({**_bound(prompt), **prompt_args})
        messages = HostMessages(fill(**variables))
        messages.variables = frozenset(variables)
        messages.purpose = str(getattr(prompt.metadata.get("prompt_type"), "value", ""))
        if not role_of(messages.purpose, variables):
            call = read_template(variables, fill, prompt)
            messages.call = None if call is None else replace(call, purpose=messages.purpose)
        return messages

    # Not abstract: what implements an abstract method is wrapped in spans, too.
    def _answer(self, messages: Sequence[ChatMessage], kwargs: dict[str, Any]) -> Answer:
        """Answer the last user message; raise `MRRAGError` if that cannot be done."""
        raise NotImplementedError

    def _open(self, messages: Sequence[ChatMessage], kwargs: dict[str, Any]) -> Iterator[Reply]:
        """Check everything now; generate when the replies are read."""
        raise NotImplementedError

    @unobserved
    @llm_completion_callback()
    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        """Answer a prompt."""
        return Reply.of(self._answer(as_messages(as_sent(prompt)), kwargs)).completion()

    @unobserved
    @llm_completion_callback()
    def stream_complete(
        self, prompt: str, formatted: bool = False, **kwargs: Any
    ) -> CompletionResponseGen:
        """Answer a prompt piece by piece."""
        replies = self._open(as_messages(as_sent(prompt)), kwargs)
        return (reply.completion() for reply in replies)

    @unobserved
    @llm_chat_callback()
    def chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """Answer the last user message."""
        return Reply.of(self._answer(as_sent(messages), kwargs)).chat()

    @unobserved
    @llm_chat_callback()
    def stream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseGen:
        """Answer the last user message piece by piece."""
        replies = self._open(as_sent(messages), kwargs)
        return (reply.chat() for reply in replies)

    @unobserved
    @llm_completion_callback()
    async def acomplete(
        self, prompt: str, formatted: bool = False, **kwargs: Any
    ) -> CompletionResponse:
        """Answer a prompt without blocking the event loop."""
        answer = await in_thread(self._answer, as_messages(as_sent(prompt)), kwargs)
        return Reply.of(answer).completion()

    @unobserved
    @llm_completion_callback()
    async def astream_complete(
        self, prompt: str, formatted: bool = False, **kwargs: Any
    ) -> CompletionResponseAsyncGen:
        """Answer a prompt piece by piece without blocking the event loop."""
        replies = await in_thread(self._open, as_messages(as_sent(prompt)), kwargs)
        return (reply.completion() async for reply in iterate(replies))

    @unobserved
    @llm_chat_callback()
    async def achat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """Answer the last user message without blocking the event loop."""
        answer = await in_thread(self._answer, as_sent(messages), kwargs)
        return Reply.of(answer).chat()

    @unobserved
    @llm_chat_callback()
    async def astream_chat(
        self, messages: Sequence[ChatMessage], **kwargs: Any
    ) -> ChatResponseAsyncGen:
        """Answer the last user message piece by piece without blocking the event loop."""
        replies = await in_thread(self._open, as_sent(messages), kwargs)
        return (reply.chat() async for reply in iterate(replies))


def as_messages(prompt: str) -> list[ChatMessage]:
    """Return a prompt as one user message."""
    return [ChatMessage(role=MessageRole.USER, content=prompt)]
