"""The engines of an index of pairs: stock ones, with tickets for `MRRAGLLaVA` alone."""

from __future__ import annotations

from typing import Any

from llama_index.core.base.base_query_engine import BaseQueryEngine
from llama_index.core.chat_engine import (
    CondenseQuestionChatEngine,
    ContextChatEngine,
    SimpleChatEngine,
)
from llama_index.core.chat_engine.types import BaseChatEngine, ChatMode
from llama_index.core.data_structs import IndexDict
from llama_index.core.indices.base import BaseIndex
from llama_index.core.llms import LLM
from llama_index.core.llms.utils import LLMType
from llama_index.core.query_engine import CitationQueryEngine, RetrieverQueryEngine
from llama_index.core.response_synthesizers import ResponseMode
from llama_index.core.response_synthesizers.context_only import ContextOnly
from llama_index.core.settings import Settings

from mrrag_llamaindex.integration.engines.citations import MRRAGCitationQueryEngine
from mrrag_llamaindex.integration.engines.condensing import MRRAGCondensePlusContextChatEngine
from mrrag_llamaindex.integration.engines.conversations import (
    require_memory,
    require_prefix,
    require_templates,
)
from mrrag_llamaindex.integration.engines.stamping import TicketPostprocessor, reader_of
from mrrag_llamaindex.integration.inputs.answering import (
    require_answerable,
    require_postprocessors,
    require_synthesizer,
    resolved_llm,
)
from mrrag_llamaindex.integration.inputs.options import parameters, require_one_of, shared_out
from mrrag_llamaindex.integration.inputs.room import question_room
from mrrag_llamaindex.integration.retriever import MRRAGRetriever
from mrrag_llamaindex.integration.tickets.readers import reads_tickets
from mrrag_llamaindex.mcr.weights_file import AnyWeights
from mrrag_llamaindex.store.learned_files import calibration_of, weights_of
from mrrag_llamaindex.store.protocol import PairStore

RETRIEVER_OPTIONS = parameters(MRRAGRetriever, "store", "towers", "callback_manager")
QUERY_ENGINE_OPTIONS = parameters(RetrieverQueryEngine.from_args, "llm", "retriever")
CITATION_OPTIONS = parameters(
    CitationQueryEngine.from_args,
    "index",
    "llm",
    "retriever",
    "citation_chunk_size",
    "citation_chunk_overlap",
    "text_splitter",
    "metadata_mode",
)
CHAT_ENGINES: dict[ChatMode, Any] = {
    ChatMode.BEST: MRRAGCondensePlusContextChatEngine,
    ChatMode.CONDENSE_PLUS_CONTEXT: MRRAGCondensePlusContextChatEngine,
    ChatMode.CONDENSE_QUESTION: CondenseQuestionChatEngine,
    ChatMode.CONTEXT: ContextChatEngine,
    ChatMode.SIMPLE: SimpleChatEngine,
}


class IndexEngines(BaseIndex[IndexDict]):
    """What an index of pairs makes engines of; `MRRAGIndex` says where its pairs are."""

    store: PairStore
    towers: Any
    weights: AnyWeights
    calibration: Any

    def as_retriever(self, *, llm: LLM | None = None, **options: Any) -> MRRAGRetriever:
        """Build the retriever.

        Weights and calibration are the index's unless others are given; other weights need a
        calibration of their own, or ``calibration=False``.

        Parameters
        ----------
        llm : LLM, optional
            The one that the nodes are for: they carry no ticket for any but `MRRAGLLaVA`. Without
            it they carry one, which nobody else sees.
        **options
            Those of `MRRAGRetriever`.

        Raises
        ------
        InputError
            If an option is none of them.
        """
        (given,) = shared_out(options, "as_retriever", RETRIEVER_OPTIONS)
        if llm is not None and not reads_tickets(resolved_llm(llm, "as_retriever")):
            given.setdefault("stamped", False)
        return self._retriever(given)

    def _retriever(self, options: dict[str, Any]) -> MRRAGRetriever:
        weights, calibration = self.weights, self.calibration
        if options.get("weights") is not None:
            weights = weights_of(self.store, options["weights"])
        if options.get("calibration") is not None:
            calibration = calibration_of(self.store, weights, options["calibration"])
        return MRRAGRetriever(
            self.store,
            self.towers,
            callback_manager=self._callback_manager,
            **{**options, "weights": weights, "calibration": calibration},
        )

    def as_query_engine(self, llm: LLMType | None = None, **options: Any) -> BaseQueryEngine:
        """Build a stock query engine.

        Parameters
        ----------
        llm : LLM, optional
            Default: that of ``response_synthesizer``, else ``Settings.llm``. Only `MRRAGLLaVA` gets
            tickets in its prompts.
        **options
            Those of `MRRAGRetriever` and of ``RetrieverQueryEngine.from_args``.

        Raises
        ------
        InputError
            If an option is none of them.
        """
        for_retriever, for_engine = shared_out(
            options, "as_query_engine", RETRIEVER_OPTIONS, QUERY_ENGINE_OPTIONS
        )
        llm = self._llm(llm, options, "as_query_engine")
        require_answerable(llm, for_engine, "as_query_engine")
        retriever, tickets = self._steps(llm, for_retriever, for_engine)
        for_engine["node_postprocessors"] = [*(options.get("node_postprocessors") or ()), tickets]
        return RetrieverQueryEngine.from_args(retriever, llm=llm, **for_engine)

    def as_citation_engine(self, llm: LLMType | None = None, **options: Any) -> BaseQueryEngine:
        """Build a query engine whose answers may cite the pairs as numbered sources.

        Parameters
        ----------
        llm : LLM, optional
            As for `as_query_engine`.
        **options
            Those of `MRRAGRetriever` and of ``CitationQueryEngine.from_args``; a pair is one
            source, so it takes none on how sources are cut.

        Raises
        ------
        InputError
            If an option is none of them.
        """
        for_retriever, for_engine = shared_out(
            options, "as_citation_engine", RETRIEVER_OPTIONS, CITATION_OPTIONS
        )
        llm = self._llm(llm, options, "as_citation_engine")
        require_answerable(llm, for_engine, "as_citation_engine")
        retriever, tickets = self._steps(llm, for_retriever, for_engine)
        engine = MRRAGCitationQueryEngine.from_args(
            self, llm=llm, retriever=retriever, **for_engine
        )
        assert isinstance(engine, MRRAGCitationQueryEngine)
        engine.tickets = tickets
        return engine

    def as_chat_engine(
        self, chat_mode: ChatMode = ChatMode.BEST, llm: LLMType | None = None, **options: Any
    ) -> BaseChatEngine:
        """Build a stock chat engine; ask inside ``with query_image(...)``, or give ``image=``.

        Parameters
        ----------
        chat_mode : ChatMode
        llm : LLM, optional
            Default: ``Settings.llm``.
        **options
            Those of `MRRAGRetriever` and of the ``from_defaults`` of the mode's engine; in mode
            "condense_question" also those of `as_query_engine`.

        Raises
        ------
        InputError
            If an option is none of them, or a memory, a template or ``prefix_messages`` cannot be
            used; see `require_memory`, `require_templates` and `require_prefix`.
        """
        llm = self._llm(llm, options, "as_chat_engine")
        require_postprocessors(options.get("node_postprocessors"), "as_chat_engine")
        if chat_mode not in CHAT_ENGINES:
            return super().as_chat_engine(chat_mode, llm=llm)  # says why there is none
        engine = self._chat_engine(ChatMode(chat_mode), llm, options)
        if reads_tickets(llm):
            require_prefix(options.get("prefix_messages"))
            require_templates(options)
            require_memory(engine._memory)  # type: ignore[attr-defined]
        return engine

    def _chat_engine(self, mode: ChatMode, llm: LLM, options: dict[str, Any]) -> BaseChatEngine:
        kind = CHAT_ENGINES[mode]
        own = parameters(kind.from_defaults, "llm", "retriever", "query_engine")
        caller = f"as_chat_engine(chat_mode={mode.value!r})"
        if kind is SimpleChatEngine:
            (given,) = shared_out(options, caller, own)
            return SimpleChatEngine.from_defaults(llm=llm, **given)
        if kind is CondenseQuestionChatEngine:
            below = (RETRIEVER_OPTIONS | QUERY_ENGINE_OPTIONS) - {"verbose"}
            given, engine_options = shared_out(options, caller, own, below)
            return CondenseQuestionChatEngine.from_defaults(
                query_engine=self.as_query_engine(llm, **engine_options), llm=llm, **given
            )
        for_retriever, given = shared_out(options, caller, RETRIEVER_OPTIONS, own)
        retriever, tickets = self._steps(llm, for_retriever, {})
        given["node_postprocessors"] = [*(options.get("node_postprocessors") or ()), tickets]
        engine: BaseChatEngine = kind.from_defaults(retriever=retriever, llm=llm, **given)
        return engine

    def _llm(self, llm: LLMType | None, options: dict[str, Any], caller: str) -> LLM:
        synthesizer = options.get("response_synthesizer")
        if llm is not None:
            llm = resolved_llm(llm, caller, self._callback_manager)
        require_synthesizer(synthesizer, llm, caller)
        if synthesizer is not None:
            return synthesizer._llm  # type: ignore[no-any-return]
        return Settings.llm if llm is None else llm

    def _steps(
        self, llm: LLM, for_retriever: dict[str, Any], for_engine: dict[str, Any]
    ) -> tuple[MRRAGRetriever, TicketPostprocessor]:
        """Return the first and the last step before the LLM: what is between reads plain text."""
        shows_text = for_engine.get("response_mode") == ResponseMode.CONTEXT_ONLY or isinstance(
            for_engine.get("response_synthesizer"), ContextOnly
        )
        asked = for_retriever.pop("stamped", None)
        require_one_of("stamped", asked, (None, True, False))
        stamped = (reads_tickets(llm) and not shows_text) if asked is None else asked
        retriever = self._retriever({**for_retriever, "stamped": False})
        tickets = TicketPostprocessor(
            stamped=stamped,
            elsewhere=asked is True,
            image=retriever.image,
            reader=reader_of(llm) if stamped else None,
            room=question_room(llm) if stamped else None,
            on_missing_image=retriever.on_missing_image,
        )
        return retriever, tickets
