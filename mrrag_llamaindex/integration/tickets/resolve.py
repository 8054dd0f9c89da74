"""From a host's call to a request: tickets, image, documents, question.

One function stands behind all entry points of `MRRAGLLaVA`.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from mrrag_llamaindex.errors import EvidenceError
from mrrag_llamaindex.generation.prompt.request import PromptDocument, PromptRequest
from mrrag_llamaindex.images.query_image import QueryImage
from mrrag_llamaindex.integration.tickets.host_call import TURNS, HostCall, Kind, Turn, TurnRegistry
from mrrag_llamaindex.integration.tickets.host_prompts import readable
from mrrag_llamaindex.integration.tickets.markers import find_segments, find_tickets, strip
from mrrag_llamaindex.integration.tickets.registry import Ticket, TicketRegistry, joined

MissingContext = Literal["error", "warn", "ignore"]

UNATTRIBUTED = "unattributed context"
"""Id of context text that a host added to our documents; it is read, and never steered to. Several
texts, of another retriever for example, are documents of their own, numbered from the second."""

UNSCORED = "unscored"
"""Added to the id of another retriever's document where one of ours has the same."""

_BREAK = "\n\n"
_CITED = re.compile(r"Source \d+:")
_ANSWERED = re.compile(r"(Sub question|Question|Query): .*\n(Response|Answer): ")
"""How stock engines begin what they write anew: numbered sources, and answers of other engines."""
_BLANK_LINE = re.compile(r"\n\s*\n")
"""What a host puts between documents."""


@dataclass(frozen=True)
class Resolved:
    """One LLM call, resolved.

    Attributes
    ----------
    request : PromptRequest
    image : QueryImage or None
    tickets : tuple of Ticket
        Several where an engine retrieved several times for one question.
    kind : str
        "condense" marks a chat engine's request to rephrase a follow-up question.
    follow_up : str
        For "condense", the question that is handed on as it is; empty if the model rephrases it.
    left_out_turns : int
        Turns and other messages of the conversation that are not known to be about this image; the
        prompt lacks them.
    conversation : tuple of Turn
        All of it.
    """

    request: PromptRequest
    image: QueryImage | None
    tickets: tuple[Ticket, ...]
    kind: Kind
    follow_up: str = ""
    left_out_turns: int = 0
    conversation: tuple[Turn, ...] = ()


def resolve(
    call: HostCall,
    registry: TicketRegistry,
    on_missing_context: MissingContext,
    turns: TurnRegistry = TURNS,
) -> Resolved:
    """Resolve one call.

    Raises
    ------
    EvidenceError
        If no evidence arrived and the policy is "error", if it was evicted, or if the evidence of
        two images stands in one prompt.
    """
    if call.kind == "condense":
        return Resolved(PromptRequest(call.text), None, (), "condense", call.question)
    tickets = find_tickets("\n".join(call.contexts), registry)
    image = tickets[0].image if tickets else call.image
    if tickets and call.image is not None and call.image != image:
        raise EvidenceError(
            "the message holds another image than its documents were retrieved for, which could "
            "mix two patients: retrieve for the image that you send, or do not send one"
        )
    if not tickets and image is None:
        _missing(call, on_missing_context)
    history = turns.about(call.history, image)
    request = PromptRequest(
        question=strip(call.question),
        documents=_documents(tickets, call),
        instructions=strip(call.instructions),
        before_question=strip(call.before_question),
        after_question=strip(call.after_question),
        history=tuple((strip(turn.question), strip(turn.answer)) for turn in history),
    )
    left_out = len(call.history) - len(history) + call.left_over
    return Resolved(request, image, tuple(tickets), call.kind, "", left_out, call.history)


def _missing(call: HostCall, policy: MissingContext) -> None:
    message = (
        f"MRRAGLLaVA got no evidence for this question: {_case(call)}. To answer without evidence, "
        'set on_missing_context="warn" or "ignore"'
    )
    if policy == "error":
        raise EvidenceError(message)
    if policy == "warn":
        warnings.warn(message, stacklevel=1)


_ROLES = {
    **dict.fromkeys(("choice_select", "rankgpt_rerank"), "reranker"),
    **dict.fromkeys(
        ("tree_select", "tree_select_multiple", "single_select", "multi_select"), "selector"
    ),
    **dict.fromkeys(("decompose", "sub_question"), "question generator"),
    **dict.fromkeys(
        ("keyword_extract", "query_keyword_extract", "knowledge_triplet_extract", "schema_extract"),
        "extractor",
    ),
    **dict.fromkeys(("insert", "summary"), "summarizer, or writer of hypothetical documents,"),
    **dict.fromkeys(
        (
            "text_to_sql",
            "text_to_graph_query",
            "table_context",
            "pandas",
            "json_path",
            "vector_store_query",
            "sql_response_synthesis",
            "sql_response_synthesis_v2",
        ),
        "engine that asks a database",
    ),
}
"""Who sends the prompts of LlamaIndex that hold no question about an image, by their purpose."""


def role_of(purpose: str, variables: Collection[str]) -> str:
    """Return who sends a template of that purpose; empty where it may ask about an image."""
    if purpose == "summary" and "query_str" in variables:
        return ""  # tree_summarize
    return _ROLES.get(purpose, "")


def _case(call: HostCall) -> str:
    """Say which way led here, and what to do there."""
    if call.missing:
        return call.missing
    role = role_of(call.purpose, call.variables)
    if role:
        article = "an" if role[0] in "aeiou" else "a"
        return (
            f"a prompt of {article} {role} arrived. This model answers questions about an image: "
            f"give the {role} another LLM"
        )
    joins = call.purpose == "summary"
    context = next((text.strip() for text in call.contexts if text.strip()), "")
    if _CITED.match(context):
        return (
            "what arrived was written anew by a stock CitationQueryEngine, which knows neither "
            "pairs nor scores: take index.as_citation_engine(llm=llm)"
        )
    if _ANSWERED.match(context):
        return (
            "what arrived are answers to other questions, and an answer is no evidence. What is to "
            "join the answers of sub-questions, of steps, or of an engine inside a retriever needs "
            "another LLM: give it to response_synthesizer"
        )
    if context and joins:
        return (
            "texts without a ticket arrived to be summarised. At the second level of "
            "tree_summarize, which more text than one call holds leads to, take "
            'response_mode="compact"; what is to join the answers of routed engines needs another '
            "LLM, given to summarizer; and documents of another retriever need "
            "MRRAGPostprocessor(index) last in node_postprocessors"
        )
    if context:
        return (
            "documents arrived without a ticket, so neither the query image nor their scores are "
            "known. If another retriever brought them, put MRRAGPostprocessor(index) last in "
            "node_postprocessors, or build the engine from the index "
            "(index.as_query_engine(llm=llm)). If they are this index's, something between wrote "
            "nodes anew, or your own code packed their text: retrieve with "
            "index.as_retriever(stamped=True). Pickled and stored nodes keep no ticket: retrieve "
            "anew. And a judge or a reranker that reads documents needs another LLM"
        )
    if call.variables - {"query_str"}:
        names = ", ".join(sorted(call.variables))
        return (
            f"a prompt with the variables {names} arrived, as selectors, judges, question "
            "generators and rerankers send them. This model answers questions about an image: give "
            "the selector, evaluator or generator another LLM"
        )
    if call.variables:
        return (
            'the host passed on the question alone, as response_mode="generation" does, or an '
            "engine that found no documents: use another response mode, or look at what was "
            "retrieved"
        )
    return (
        "finished text arrived, with neither documents nor an image, as agents, simple chat "
        "engines, memories that summarise or extract facts, and direct calls send it. Give such a "
        "memory another LLM; let an agent have index.as_query_engine(llm=llm) as a "
        'tool and give the agent itself another LLM; take chat_mode="context"; or send the image '
        "in the message, as an ImageBlock"
    )


def _documents(tickets: Sequence[Ticket], call: HostCall) -> tuple[PromptDocument, ...]:
    """Documents of this call, best first, then text that the host added.

    A refine step reads every document shown so far rather than an earlier answer: steering
    weighs documents against each other, so they must stand side by side, and an answer is no
    evidence.
    """
    documents: dict[str, PromptDocument] = {}
    added = list(call.contexts)
    for ticket in tickets:
        texts: dict[int, str] = {}
        for place, context in enumerate(added):
            segments = find_segments(context, ticket)
            for segment in segments:
                texts[segment.ordinal] = joined(texts.get(segment.ordinal, ""), segment.text)
            for segment in reversed(segments):
                context = context[: segment.start] + _BREAK + context[segment.stop :]
            added[place] = context
        for document in ticket.show(texts, earlier=call.kind == "refine"):
            known = documents.get(document.document_id, document)
            documents[document.document_id] = replace(
                document, text=joined(known.text, document.text), score=_higher(known, document)
            )
    order = sorted(documents.values(), key=_descending) if len(tickets) > 1 else documents.values()
    added = [strip(context) for context in added]
    others = _others(tickets, added, documents)
    rest = [text for context in added for text in _BLANK_LINE.split(context)]
    extra = [text for text in map(readable, rest) if text]
    names = [UNATTRIBUTED, *(f"{UNATTRIBUTED} {n}" for n in range(2, len(extra) + 1))]
    unread = (one for ticket in tickets for one in ticket.withheld)
    return (*order, *others, *map(PromptDocument, names, extra), *unread)


def _others(
    tickets: Sequence[Ticket], contexts: list[str], known: Collection[str]
) -> list[PromptDocument]:
    """Take the documents of other retrievers out of ``contexts``: without a score, by their ids."""
    beside = {text: name for ticket in tickets for text, name in ticket.beside.items() if text}
    found: dict[str, PromptDocument] = {}
    for text, name in sorted(beside.items(), key=lambda item: len(item[0]), reverse=True):
        for place, context in enumerate(contexts):
            before, middle, after = context.partition(text)
            if middle:
                contexts[place] = before + _BREAK + after
                name = f"{name} ({UNSCORED})" if name in known else name
                found[text] = PromptDocument(name, text)
    return [found[text] for text in beside if text in found]


def _higher(first: PromptDocument, second: PromptDocument) -> float | None:
    """Score of a document that was found by several of a question's retrievals."""
    return max((one.score for one in (first, second) if one.score is not None), default=None)


def _descending(document: PromptDocument) -> float:
    return float("inf") if document.score is None else -document.score
