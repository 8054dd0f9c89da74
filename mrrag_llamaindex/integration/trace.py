"""What happened behind a response: documents read, their lambda, and what steering did."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from mrrag_llamaindex.errors import EvidenceError
from mrrag_llamaindex.generation.answer import Answer, SteeringOutcome
from mrrag_llamaindex.integration.tickets.nodes import METADATA_KEY, ticket_of

if TYPE_CHECKING:
    from llama_index.core.base.response.schema import RESPONSE_TYPE
    from llama_index.core.schema import NodeWithScore


def answer_trace(source_nodes: Sequence[NodeWithScore] | RESPONSE_TYPE) -> list[Answer]:
    """Return every LLM call that was made with the evidence of a response.

    Parameters
    ----------
    source_nodes : sequence of NodeWithScore, or a response
        ``response.source_nodes`` of any query or chat engine, or the response itself.

    Returns
    -------
    list of Answer
        In order of completion, those of all sub-questions and sub-engines whose sources these are;
        empty while a stream has not been read to its end.

    Raises
    ------
    EvidenceError
        If no source node carries a ticket, or those that did have travelled between processes.

    Examples
    --------
    >>> response = engine.query(bundle)                        # doctest: +SKIP
    >>> answer_trace(response.source_nodes)[-1].p_yes          # doctest: +SKIP
    0.93
    """
    items = source_nodes if isinstance(source_nodes, Sequence) else source_nodes.source_nodes
    nodes = [item.node for item in items]
    tickets = {id(one): one for node in nodes if (one := ticket_of(node)) and one.shown}
    if not tickets and any(getattr(node, "_travelled", False) for node in nodes):
        raise EvidenceError(
            "these source nodes were pickled, and what was read and steered stays in the process "
            "that answered: take answer_trace(...) there, and send what it returns"
        )
    if not tickets:
        raise EvidenceError(
            "no source node carries a ticket, so no LLM call of MRRAGLLaVA can be traced: the "
            "response is another LLM's, or of an engine that writes nodes anew "
            "(index.as_citation_engine(llm=llm) keeps them)"
        )
    calls = {number: answer for one in tickets.values() for number, answer in one.calls}
    return [calls[number] for number in sorted(calls)]


def answer_facts(answer: Answer) -> dict[str, Any]:
    """Return an answer without its text, for ``additional_kwargs`` of a LlamaIndex response."""
    facts = asdict(answer)
    del facts["text"]
    return {"mrrag": facts}


def note_influence(source_nodes: Sequence[NodeWithScore], answer: Answer) -> None:
    """Write into each node's ``metadata["mrrag"]`` how much its document moved an answer.

    The key is ``influence``, with ``points`` and ``flips`` of `Influence`; None for a document
    that the prompt did not hold. Without `Answer.influence` nothing is written.

    Parameters
    ----------
    source_nodes : sequence of NodeWithScore
        Ticketed nodes: copies that belong to one query.
    answer : Answer
    """
    if answer.influence is None:
        return
    for item in source_nodes:
        influence = answer.influence.get(item.node.node_id)
        facts = item.node.metadata.get(METADATA_KEY)
        if isinstance(facts, dict):
            facts["influence"] = None if influence is None else asdict(influence)


def verbatim_answer(text: str) -> Answer:
    """Return text that was passed on unchanged, without generation, as an answer."""
    outcome = SteeringOutcome(False, reason="nothing was generated")
    return Answer(text, 0.0, 0.0, (), {}, (), outcome, False, 0, 0, 0.0)
