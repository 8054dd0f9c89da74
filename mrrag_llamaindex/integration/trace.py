"""What happened behind a response: documents read, their lambda, and what steering did."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from mrrag_llamaindex.errors import EvidenceError
from mrrag_llamaindex.generation.answer import Answer, SteeringOutcome
from mrrag_llamaindex.integration.tickets.nodes import ticket_of
from mrrag_llamaindex.integration.tickets.scored_nodes import METADATA_KEY

if TYPE_CHECKING:
    from llama_index.core.schema import NodeWithScore


def answer_trace(source_nodes: list[NodeWithScore]) -> list[Answer]:
    """Return every LLM call that was made with the evidence of a response.

    Parameters
    ----------
    source_nodes : list of NodeWithScore
        ``response.source_nodes`` of any query or chat engine.

    Returns
    -------
    list of Answer
        In order of completion; empty while a stream has not been read to its end.

    Raises
    ------
    EvidenceError
        If no source node carries a ticket, or the nodes come from two queries.

    Examples
    --------
    >>> response = engine.query(bundle)                        # doctest: +SKIP
    >>> answer_trace(response.source_nodes)[-1].p_yes          # doctest: +SKIP
    0.93
    """
    tickets = {
        id(ticket): ticket
        for ticket in (ticket_of(item.node) for item in source_nodes)
        if ticket is not None
    }
    if len(tickets) != 1:
        raise EvidenceError(
            f"the source nodes carry {len(tickets)} tickets, and a trace needs exactly one; they "
            "must come from one query of an MRRAGRetriever or MRRAGPostprocessor"
        )
    return list(tickets.popitem()[1].answers)


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
