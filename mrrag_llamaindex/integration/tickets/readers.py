"""Who reads a node's text: only for an LLM that redeems tickets do markers stand in it.

A node is asked for its text by whatever packs a prompt, which knows its LLM, and by rerankers,
tools, judges and the application itself, which would show the markers to others. LlamaIndex hands
over no name; the caller's frame has it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from types import FrameType
from typing import Any, NamedTuple

from llama_index.core.base.base_query_engine import BaseQueryEngine
from llama_index.core.chat_engine.types import BaseChatEngine
from llama_index.core.llms.structured_llm import StructuredLLM
from llama_index.core.response_synthesizers.base import BaseSynthesizer
from llama_index.core.response_synthesizers.context_only import ContextOnly
from llama_index.core.schema import NodeWithScore, QueryBundle

_PACKERS = (BaseSynthesizer, BaseQueryEngine, BaseChatEngine)
_LLM_NAMES = ("_llm", "llm", "_multi_modal_llm")
_ON_THE_WAY = ("llama_index.core.schema", "mrrag_llamaindex.integration.tickets.")
_INNER = ("<listcomp>", "<genexpr>", "<lambda>", "<setcomp>", "<dictcomp>")


class TicketReader:
    """An LLM that redeems tickets: the one reader whose prompts may hold markers."""


def reads_tickets(llm: Any) -> bool:
    """Whether an LLM redeems tickets, itself or behind a schema."""
    return isinstance(inner_llm(llm), TicketReader)


def inner_llm(llm: Any) -> Any:
    """Return the LLM behind a structured one, and any other as it is."""
    return llm.llm if isinstance(llm, StructuredLLM) else llm


class Reading(NamedTuple):
    """Someone's reading of a node's text.

    Attributes
    ----------
    shown : bool
        Whether the markers are shown.
    packed : bool
        Whether a prompt is packed from it.
    query : QueryBundle or None
        The question that it is packed for, where that is known.
    nodes : sequence of NodeWithScore
        All that are packed, those of other retrievers too, where they are known.
    """

    shown: bool
    packed: bool = False
    query: QueryBundle | None = None
    nodes: Sequence[NodeWithScore] = ()


def reading(elsewhere: bool) -> Reading:
    """Return who reads, and whether it is a prompt for an LLM that redeems tickets.

    Parameters
    ----------
    elsewhere : bool
        Whether code that is not LlamaIndex's sees markers: an application that builds prompts by
        itself says so.
    """
    frame = _caller()
    if frame is None:
        return Reading(elsewhere)
    owner = frame.f_locals.get("self")
    if isinstance(owner, ContextOnly):  # it has an LLM, and shows the text to the user
        return Reading(elsewhere)
    if isinstance(owner, _PACKERS):
        llms = [llm for name in _LLM_NAMES if (llm := getattr(owner, name, None)) is not None]
        if llms:
            known = (frame.f_locals.get(name) for name in ("query", "query_bundle"))
            query = next((one for one in known if isinstance(one, QueryBundle)), None)
            nodes = frame.f_locals.get("nodes") or ()
            return Reading(all(map(reads_tickets, llms)), True, query, nodes)
    return Reading(elsewhere and not _module(frame).startswith("llama_index."))


def _caller() -> FrameType | None:
    """Return the frame that asked for a node's text, past what only hands the request on."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and (
        _module(frame).startswith(_ON_THE_WAY) or frame.f_code.co_name in _INNER
    ):
        frame = frame.f_back
    return frame


def _module(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", ""))
