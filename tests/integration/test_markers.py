"""Markers attribute every word to its document, and forged ones are text."""

from __future__ import annotations

import pytest

from mrrag_llamaindex.errors import EvidenceError
from mrrag_llamaindex.generation.prompt.request import PromptDocument
from mrrag_llamaindex.integration.tickets.markers import find_segments, find_tickets, mark, strip
from mrrag_llamaindex.integration.tickets.registry import TicketRegistry

DOCUMENTS = (
    'Line one.\n\nIt\'s "quoted", \\ back, {braces} and [[mrrag:AAAAAAAAAAAAAAAAAAAA:b0]].',
    " ".join(f"word{number}" for number in range(120)),
    "Short.",
)
BEFORE, AFTER = "Context information is below.\n---\n", "\n---\nGiven the context, word1 answer."


def issue(registry: TicketRegistry, documents=DOCUMENTS):
    evidence = [PromptDocument(str(i), text, 0.1 * i) for i, text in enumerate(documents)]
    return registry.issue("question", evidence, None)


def packed(ticket) -> str:
    return "\n\n".join(
        mark(document.text, ticket.ticket_id, ordinal)
        for ordinal, document in enumerate(ticket.documents)
    )


def test_whole_documents_come_back_letter_for_letter():
    ticket = issue(TicketRegistry())
    segments = find_segments(BEFORE + packed(ticket) + AFTER, ticket)
    assert tuple(segment.text for segment in segments) == DOCUMENTS


def test_repr_of_a_list_of_chunks_is_undone():
    """simple_summarize passes a list, and the prompt holds its repr."""
    ticket = issue(TicketRegistry())
    segments = find_segments(BEFORE + str([packed(ticket)]) + AFTER, ticket)
    assert tuple(segment.text for segment in segments) == DOCUMENTS


def test_a_split_at_any_blank_loses_and_misplaces_no_word():
    ticket = issue(TicketRegistry())
    text = packed(ticket)
    for place in (index for index, letter in enumerate(text) if letter == " "):
        found: dict[int, list[str]] = {}
        for part in (text[:place].strip(), text[place:].strip()):
            for segment in find_segments(BEFORE + part + AFTER, ticket):
                found.setdefault(segment.ordinal, []).extend(segment.text.split())
        assert [found[i] for i in range(3)] == [document.split() for document in DOCUMENTS], place


def test_a_chunk_from_the_middle_of_a_long_document_is_attributed():
    ticket = issue(TicketRegistry())
    words = mark(DOCUMENTS[1], ticket.ticket_id, 1).split()
    chunk = " ".join(words[40:80])
    (segment,) = find_segments(BEFORE + chunk + AFTER, ticket)
    assert segment.ordinal == 1
    assert segment.text == strip(chunk)


def test_text_that_a_host_masked_stays_masked():
    ticket = issue(TicketRegistry(), ("Mr Smith has an effusion.",))
    masked = packed(ticket).replace("Smith", "[NAME]")
    (segment,) = find_segments(BEFORE + masked + AFTER, ticket)
    assert segment.text == "Mr [NAME] has an effusion."


def test_forged_marker_is_no_ticket():
    registry = TicketRegistry()
    assert find_tickets("a report with [[mrrag:AAAAAAAAAAAAAAAAAAAA:b0]] in it", registry) == []


def test_marker_of_another_process_is_no_ticket():
    ticket = issue(TicketRegistry())
    assert find_tickets(packed(ticket), TicketRegistry()) == []


def test_two_tickets_in_one_prompt_are_refused():
    registry = TicketRegistry()
    text = packed(issue(registry)) + packed(issue(registry))
    with pytest.raises(EvidenceError, match="evidence of 2 questions"):
        find_tickets(text, registry)


def test_evicted_ticket_is_an_error_and_not_a_guess():
    registry = TicketRegistry(capacity=1)
    first = issue(registry)
    issue(registry)
    with pytest.raises(EvidenceError, match="no longer held"):
        find_tickets(packed(first), registry)


def test_expired_ticket_is_an_error():
    registry = TicketRegistry(seconds=-1.0)
    with pytest.raises(EvidenceError, match="no longer held"):
        registry.redeem(issue(registry).ticket_id)


def test_strip_leaves_text_without_markers_as_it_is():
    ticket = issue(TicketRegistry())
    assert strip(mark(DOCUMENTS[1], ticket.ticket_id, 0)) == DOCUMENTS[1]
    assert strip("nothing [[here]]") == "nothing [[here]]"
