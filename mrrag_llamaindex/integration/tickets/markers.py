"""Marker text: write a document with its ticket, and find the documents in a host's prompt.

A marker holds a ticket id, a kind and an ordinal; it has no blank, quote or backslash, so that
splitters do not cut it and ``repr`` does not change it. Between the begin and the end marker a
continuation marker stands every few words, because a host may split a document over two calls.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from mrrag_llamaindex import defaults
from mrrag_llamaindex.errors import EvidenceError
from mrrag_llamaindex.integration.tickets.registry import Ticket, TicketRegistry

_MARKER = re.compile(r"\[\[mrrag:([A-Za-z0-9_=-]{20}):([bce])(\d{1,6})(?:\.(\d{1,6}))?\]\]")
_ANY_MARKER = re.compile(r"\[\[mrrag:[A-Za-z0-9_=-]*:[bce][\d.]*\]\]")
"""Also what only looks like a marker: no reader needs to see it."""
_LABEL = re.compile(
    r"^((?:(?!\[\[).)+)"  # no other mark is on its line
    r"((?:\[\[[0-9a-f]+\(\]\])?\[\[mrrag:[A-Za-z0-9_=-]{20}:b\d{1,6}\]\])",
    re.MULTILINE,
)
"""What stands before a document on its line, and its first marker."""


@dataclass(frozen=True)
class Segment:
    """Part of one document, as one LLM call shows it.

    Attributes
    ----------
    ordinal : int
        Position of the document in its ticket.
    start, stop : int
        Character range in the host's text, markers included.
    text : str
        The document's text in that range, without markers.
    """

    ordinal: int
    start: int
    stop: int
    text: str


def mark(text: str, ticket_id: str, ordinal: int) -> str:
    """Write ``text`` between markers, with a continuation marker every `CONTINUATION_WORDS`."""
    stride = defaults.CONTINUATION_WORDS

    def marker(kind: str) -> str:
        return f"[[mrrag:{ticket_id}:{kind}]]"

    pieces = [marker(f"b{ordinal}")]
    position = 0
    for count, word in enumerate(re.finditer(r"\S+", text)):
        if count and count % stride == 0:
            pieces += [text[position : word.start()], marker(f"c{ordinal}.{count}"), " "]
            position = word.start()
    return "".join([*pieces, text[position:], marker(f"e{ordinal}")])


def find_tickets(text: str, registry: TicketRegistry) -> list[Ticket]:
    """Find the tickets whose markers stand in ``text``, in the order of their first markers.

    Several belong to one question if its engine retrieved several times, with generated questions
    for example; then their images are the same.

    Raises
    ------
    EvidenceError
        If they have different images, which would mix two patients, or if one was evicted.
    """
    ids = dict.fromkeys(match[1] for match in _MARKER.finditer(text))
    tickets = [registry.redeem(ticket_id) for ticket_id in ids if registry.is_ours(ticket_id)]
    images = {ticket.image for ticket in tickets}
    if len(images) > 1 or (None in images and len(tickets) > 1):
        raise EvidenceError(
            f"one prompt holds the evidence of {len(tickets)} questions that are not about one "
            "image, which could mix two patients: ask about one image at a time"
        )
    return tickets


def strip(text: str, ticket_id: str | None = None) -> str:
    """Remove markers: those of ``ticket_id``, or every one."""

    def keep(match: re.Match[str]) -> str:
        if ticket_id is not None and match[1] != ticket_id:
            return match[0]
        # The blank after a continuation marker was written with it.
        return ""

    text = re.sub(_MARKER.pattern.replace("([bce])", "(c)") + " ?", keep, text)
    return (_ANY_MARKER if ticket_id is None else _MARKER).sub(keep, text)


def labels_inside(text: str) -> str:
    """Move what stands before each document on its line, a number for example, inside its markers.

    It was written for this document, and would be a text without one otherwise. What stands before
    one document alone is a heading of all of them, and stays.
    """
    labels = [match[1] for match in _LABEL.finditer(text)]
    if len(labels) < 2:
        return text
    # The first one's line may begin with a heading, which the second label does not have.
    usual = re.sub(r"\d+", r"\\d+", re.escape(labels[1]))

    def moved(match: re.Match[str]) -> str:
        own = re.search(rf"(?:{usual})\Z", match[1])
        start = own.start() if own else 0
        return match[1][:start] + match[2] + match[1][start:]

    return _LABEL.sub(moved, text)


def holds_whole_documents(text: str, marked: str, foreign: str = "") -> bool:
    """Whether ``text``, made of the marked documents of ``marked``, has each of them whole or not.

    A document that something has cut or turned round has other markers than before, or in another
    order, as have markers whose letters were changed. What looks like a marker in ``foreign``, text
    of a person for example, does not count.
    """
    before, after, others = _by_document(marked), _by_document(text), _by_document(foreign)
    return all(
        name in before and marks == before[name] * (len(marks) // len(before[name]))
        for name, marks in after.items()
        if name not in others
    )


def _by_document(text: str) -> dict[tuple[str, str], list[str]]:
    marks: dict[tuple[str, str], list[str]] = {}
    for match in _MARKER.finditer(text):
        marks.setdefault((match[1], match[3]), []).append(match[0])
    return marks


def with_marked_ends(text: str) -> str:
    """Return context with markers at its very ends, where a host cut it within a document.

    The words at the ends are known by comparing them with the document's: not if they are changed.
    """
    marks = list(_MARKER.finditer(text))
    if not marks:
        return text
    first, last = marks[0], marks[-1]
    head, tail = text[: first.start()].split(), text[last.end() :].split()
    if first[2] != "b" and 0 < len(head) <= defaults.CONTINUATION_WORDS:
        text = f"[[mrrag:{first[1]}:c{first[3]}.0]] {text}"
    if last[2] != "e" and 0 < len(tail) <= defaults.CONTINUATION_WORDS:
        text = f"{text}[[mrrag:{last[1]}:c{last[3]}.999999]]"
    return text


def marked_range(text: str, ends: tuple[str, str]) -> tuple[int, int] | None:
    """Return the range from the first marker in ``text`` to the last, None if there is none.

    Parameters
    ----------
    text : str
    ends : (str, str)
        Further marks, of where marked text begins and ends.
    """
    marks = list(re.finditer("|".join([_MARKER.pattern, *map(re.escape, ends)]), text))
    return (marks[0].start(), marks[-1].end()) if marks else None


def find_segments(text: str, ticket: Ticket) -> list[Segment]:
    """Find which parts of which documents of ``ticket`` stand in ``text``, in order.

    Complete documents lie between their begin and end markers. A part cut by a splitter lacks one
    of them: its words before the first marker and after the last are distinguished from the host's
    own by comparing them with the document's words.
    """
    marks = [
        match
        for match in _MARKER.finditer(text)
        if match[1] == ticket.ticket_id and int(match[3]) < len(ticket.documents)
    ]
    segments: list[Segment] = []
    floor = 0
    index = 0
    while index < len(marks):
        ordinal = int(marks[index][3])
        last = index
        while (
            marks[last][2] != "e"
            and last + 1 < len(marks)
            and int(marks[last + 1][3]) == ordinal
            and marks[last + 1][2] != "b"
        ):
            last += 1
        ceiling = marks[last + 1].start() if last + 1 < len(marks) else len(text)
        words = ticket.documents[ordinal].text.split()
        first_mark, last_mark = marks[index], marks[last]
        start, stop = first_mark.start(), last_mark.end()
        if first_mark[2] != "b":
            offset = int(first_mark[4]) if first_mark[2] == "c" else len(words)
            start = _reach_back(text, floor, start, words[:offset])
        if last_mark[2] != "e":
            offset = int(last_mark[4] or 0)
            stop = _reach_forward(text, stop, ceiling, words[offset:])
        raw = strip(text[start:stop], ticket.ticket_id)
        segments.append(Segment(ordinal, start, stop, _clean(raw, ticket.documents[ordinal].text)))
        floor, index = stop, last + 1
    return segments


def _reach_back(text: str, floor: int, start: int, words: list[str]) -> int:
    for word, match in zip(
        reversed(words), reversed(list(re.finditer(r"\S+", text[floor:start]))), strict=False
    ):
        if match[0] != word:
            break
        start = floor + match.start()
    return start


def _reach_forward(text: str, stop: int, ceiling: int, words: list[str]) -> int:
    reached = stop
    for word, match in zip(words, _words(text[stop:ceiling]), strict=False):
        if match[0] != word:
            break
        reached = stop + match.end()
    return reached


def _words(text: str) -> Iterator[re.Match[str]]:
    return re.finditer(r"\S+", text)


def _clean(raw: str, original: str) -> str:
    """Undo what hosts do to text without changing its words: ``repr`` and white space.

    Text that says something else was changed on purpose, by a masking postprocessor for
    example, and is kept as it is.
    """
    if raw == original or raw.split() == original.split():
        return original
    if raw in (repr(original)[1:-1], repr(original + '"')[1:-2], repr(original + "'\"")[1:-3]):
        return original
    return raw.strip()
