"""`ChatMRRAG`: the chat model that reads image, scored documents and question of a chain."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any

from langchain_core.language_models import LanguageModelInput
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult, LLMResult
from langchain_core.prompt_values import ChatPromptValue, PromptValue
from langchain_core.runnables import Runnable
from pydantic import Field
from typing_extensions import Self

from mrrag_llamaindex.errors import ModelError
from mrrag_llamaindex.generation.scheduling.off_loop import in_thread, iterate
from mrrag_llamaindex.integration.entry_points import Reply
from mrrag_llamaindex.integration.llm import MRRAGLLaVA
from mrrag_llamaindex.integration.other_hosts.calls import (
    answer,
    follow_up_call,
    question_call,
    replies,
)
from mrrag_llamaindex.integration.tickets.host_call import HostCall
from mrrag_llamaindex.integration.tickets.markers import strip
from mrrag_llamaindex.langchain.messages import require_words, rows_of, without_visible_markers
from mrrag_llamaindex.langchain.processes import StaysInProcess
from mrrag_llamaindex.langchain.structured import verdict_parser

_HOST_FIELDS = frozenset(BaseChatModel.model_fields) - {"cache", "profile"}

_NO_EVIDENCE = (
    "neither documents with their image and scores nor an image arrived. In a chain, put documents "
    "into the prompt with create_stuff_documents_chain or evidence_prompt of "
    "mrrag_llamaindex.langchain; a formatter of your own needs a retriever with stamped=True. To "
    "rephrase follow-up questions, in create_history_aware_retriever or as condense_question_llm, "
    "give it llm.as_condenser(). For other tasks (agents, judges, rewriting queries, extracting, "
    "summaries, the step of map_reduce that joins answers) take another model. To ask about an "
    "image alone, send it in the message"
)
_TOOLS = (
    "a tool was called in this conversation, and neither documents with their image and scores nor "
    "an image arrived: this model answers questions about an image, so let the agent have another "
    "model, and the chain with ChatMRRAG as its tool"
)


class ChatMRRAG(StaysInProcess, BaseChatModel):
    """LLaVA-Med that reads the query image, the scored documents and the question of a chain.

    Documents of `MRRAGRetriever` or `MRRAGCompressor` bring image and scores through
    `evidence_prompt` or `create_stuff_documents_chain`. The answer's facts (p_yes, the documents
    read, their lambdas, steering) are ``response_metadata["mrrag"]``.

    Parameters
    ----------
    llm : MRRAGLLaVA, optional
        A model that is loaded already.
    condenses : bool
        Whether it hands on a question to search by instead of an answer; see `as_condenser`.
    **options
        Those of `MRRAGLLaVA` (``model="phantom"``, ``device``, ``policy``, ...), where no ``llm``
        is given, and LangChain's own: ``callbacks``, ``tags``, ``metadata``, ``rate_limiter``, ...

    Raises
    ------
    ModelError
        At construction, if an option is none of these, or the model cannot be loaded.

    Notes
    -----
    Answers are not cached, not even where the process has a cache set: its key is the text of a
    prompt, which two patients may share.
    """

    llm: MRRAGLLaVA = Field(exclude=True, repr=False)
    condenses: bool = Field(default=False, exclude=True)

    def __init__(self, llm: MRRAGLLaVA | None = None, **options: Any) -> None:
        host = {name: options.pop(name) for name in list(options) if name in _HOST_FIELDS}
        condenses = options.pop("condenses", False)
        if options.pop("cache", None) not in (None, False):
            raise ModelError(
                "ChatMRRAG cannot honour cache: a cache knows a question by its text, and the same "
                "text about two patients' images would get one answer"
            )
        if llm is not None and options:
            raise ModelError(
                f"give llm= or {sorted(options)[0]}=, not both: the model is loaded with its "
                "options already"
            )
        model = MRRAGLLaVA(**options) if llm is None else llm
        super().__init__(llm=model, condenses=condenses, cache=False, **host)

    @property
    def _llm_type(self) -> str:
        return "mrrag"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return {"model_name": self.llm.model}

    def as_condenser(self) -> Self:
        """Return the model that ``create_history_aware_retriever`` asks for a search question.

        It hands a follow-up question on as it is, and rephrases it only if it can and the whole
        conversation is about the image at hand, so that no other patient's words enter it.
        """
        return self.model_copy(update={"condenses": True})

    def get_token_ids(self, text: str) -> list[int]:
        """Return the tokens of a text, by the model's own tokenizer."""
        return list(self.llm.engine.tokenizer.encode(strip(text), add_special_tokens=False))

    def bind_tools(self, tools: Any, **kwargs: Any) -> Runnable[LanguageModelInput, AIMessage]:
        """Refuse: the model calls no tools."""
        raise ModelError(
            "ChatMRRAG takes no tools: it answers questions about an image. Give the agent another "
            "model, and the chain with ChatMRRAG as its tool"
        )

    def with_structured_output(
        self, schema: Any, *, include_raw: bool = False, **kwargs: Any
    ) -> Runnable[LanguageModelInput, Any]:
        """Return a chain that fills a schema with one yes/no verdict; see `require_fillable`."""
        return self | verdict_parser(schema, include_raw, kwargs)

    # Callbacks see what these hand on, so markers leave the messages here.

    def _convert_input(self, model_input: LanguageModelInput) -> PromptValue:
        messages = super()._convert_input(model_input).to_messages()
        return ChatPromptValue(messages=without_visible_markers(messages))

    def generate(self, messages: list[list[BaseMessage]], *args: Any, **kwargs: Any) -> LLMResult:
        """Answer several conversations, one after the other."""
        return super().generate([without_visible_markers(m) for m in messages], *args, **kwargs)

    async def agenerate(
        self, messages: list[list[BaseMessage]], *args: Any, **kwargs: Any
    ) -> LLMResult:
        """Answer several conversations without blocking the event loop."""
        hidden = [without_visible_markers(m) for m in messages]
        return await super().agenerate(hidden, *args, **kwargs)

    def _call(self, messages: Sequence[BaseMessage], stop: Any) -> HostCall:
        if stop:
            raise ModelError(
                "ChatMRRAG does not take 'stop': the answer ends where the model ends it, or at "
                "max_new_tokens"
            )
        rows = rows_of(messages)
        require_words(rows)
        if self.condenses:
            return follow_up_call(rows)
        tools = any(row.role == "tool" for row in rows)
        return question_call(rows, _TOOLS if tools else _NO_EVIDENCE)

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: Any = None,
        **kwargs: Any,
    ) -> ChatResult:
        return self._result(Reply.of(answer(self.llm, self._call(messages, stop), kwargs)))

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: Any = None,
        **kwargs: Any,
    ) -> ChatResult:
        return await in_thread(self._generate, messages, stop, None, **kwargs)

    def _result(self, reply: Reply) -> ChatResult:
        message = AIMessage(content=reply.text, response_metadata=self._facts(reply))
        return ChatResult(generations=[ChatGeneration(message=message)])

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: Any = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        pieces = replies(self.llm, self._call(messages, stop), kwargs)
        for reply in pieces:
            chunk = self._chunk(reply)
            if run_manager is not None and reply.delta:
                run_manager.on_llm_new_token(reply.delta, chunk=chunk)
            yield chunk

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: Any = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        opened: Callable[[], Iterator[Reply]] = lambda: replies(  # noqa: E731
            self.llm, self._call(messages, stop), kwargs
        )
        async for reply in iterate(await in_thread(opened)):
            chunk = self._chunk(reply)
            if run_manager is not None and reply.delta:
                await run_manager.on_llm_new_token(reply.delta, chunk=chunk)
            yield chunk

    def _chunk(self, reply: Reply) -> ChatGenerationChunk:
        metadata = self._facts(reply) if reply.facts else {}
        message = AIMessageChunk(content=reply.delta or "", response_metadata=metadata)
        return ChatGenerationChunk(message=message)

    def _facts(self, reply: Reply) -> dict[str, Any]:
        return {"model_name": self.llm.model, **reply.facts}
