"""Tickets: how image, question and scores of one query reach the LLM call they belong to.

LlamaIndex forwards only text to an LLM. The evidence of a query therefore waits here, in a
bounded in-process registry, and the text carries an unguessable ticket id. Context variables
would be simpler and are wrong: two interleaved streams would answer with each other's image.
"""

from __future__ import annotations

import base64
import hmac
import secrets
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

from mrrag_llamaindex import defaults
from mrrag_llamaindex.errors import EvidenceError
from mrrag_llamaindex.generation.prompt.request import PromptDocument

if TYPE_CHECKING:
    from mrrag_llamaindex.generation.answer import Answer
    from mrrag_llamaindex.images.query_image import QueryImage

_NONCE_BYTES, _SEAL_BYTES = 9, 6  # 72 bits cannot be guessed; together 20 characters


@dataclass(eq=False)
class Ticket:
    """The evidence of one query.

    Attributes
    ----------
    ticket_id : str
    image : QueryImage or None
        The query image as it was at retrieval.
    question : str
    documents : tuple of PromptDocument
    withheld : tuple of PromptDocument
        Those of the query that are too long to be shown, without their text.
    calls : list of (int, Answer)
        One per LLM call made with this evidence, with its number in order of completion.
    shown : bool
        Whether its markers have been put into a text.
    packed_for : object
        The question that a prompt was last packed for, if it was found to be about the same image.
    beside : dict of str to str
        Ids of other retrievers' documents that were packed into one prompt with these, by text.
    texts : dict of int to str
        Text of each document as LLM calls have seen it so far, by ordinal: refine steps build
        on it. It is the host's text, which a postprocessor may have masked.
    words : str
        What the first call says beside the documents, of hosts that send finished text alone.
    used : float
        When it was last issued or redeemed, by the monotonic clock.
    """

    ticket_id: str
    image: QueryImage | None
    question: str
    documents: tuple[PromptDocument, ...]
    withheld: tuple[PromptDocument, ...] = ()
    calls: list[tuple[int, Answer]] = field(default_factory=list)
    shown: bool = False
    packed_for: object = None
    beside: dict[str, str] = field(default_factory=dict)
    texts: dict[int, str] = field(default_factory=dict)
    words: str = ""
    used: float = field(default_factory=time.monotonic)
    _text_memory: int = field(init=False)

    def __post_init__(self) -> None:
        self._text_memory = sum(sys.getsizeof(document.text) for document in self.documents)

    def __deepcopy__(self, _: Any) -> Ticket:
        """Return the ticket itself: copies of a response belong to the same query."""
        return self

    @property
    def memory(self) -> int:
        """Bytes held by the query image, the documents' texts, and those that calls have seen."""
        return self._text_memory + (0 if self.image is None else self.image.memory)

    def show(self, texts: Mapping[int, str], *, earlier: bool) -> list[PromptDocument]:
        """Note what an LLM call sees of the documents, and return what it is to read, best first.

        Parameters
        ----------
        texts : mapping of int to str
            By ordinal.
        earlier : bool
            Whether it reads what earlier calls have seen as well.
        """
        for ordinal, text in texts.items():
            before = self.texts.get(ordinal, "")
            self.texts[ordinal] = after = joined(before, text)
            # Kept, since the registry adds it up over all tickets at every question.
            self._text_memory += sys.getsizeof(after) - (sys.getsizeof(before) if before else 0)
        read = sorted((self.texts.copy() if earlier else texts).items())
        return [replace(self.documents[ordinal], text=text) for ordinal, text in read]

    def record(self, answer: Answer, number: int) -> None:
        """Note an LLM call's answer, and keep of the image only what a further call needs.

        A host does not say which call is the last one. The decoded pixels of a file are dropped,
        since a further call can decode its bytes again; everything else stays until it is evicted.
        """
        self.calls.append((number, answer))
        self.rest()

    def rest(self) -> None:
        """Let go of decoded pixels after a call, also one that was cut off or failed."""
        if self.image is not None:
            self.image.release_pixels()


def joined(first: str, second: str) -> str:
    """Join two parts of one document whose ends may overlap by some words."""
    head, tail = first.split(), second.split()
    if not head or _contains(tail, head):
        return second
    if _contains(head, tail):
        return first
    for size in range(min(len(head), len(tail)), 0, -1):
        if head[-size:] == tail[:size]:
            return " ".join(head + tail[size:])
    for size in range(min(len(head), len(tail)), 0, -1):
        if tail[-size:] == head[:size]:
            return " ".join(tail + head[size:])
    return f"{first} {second}"


def _contains(words: Sequence[str], part: Sequence[str]) -> bool:
    size = len(part)
    return any(words[i : i + size] == part for i in range(len(words) - size + 1))


class TicketRegistry:
    """Bounded, locked map from ticket id to `Ticket`.

    Parameters
    ----------
    capacity : int
        Maximum number of tickets held; the least recently used leaves first.
    memory : int
        Maximum number of bytes held. Where it is exceeded, the decoded pixels of the least recently
        used tickets are dropped first, then the tickets themselves. The newest ticket always stays,
        however large its image is.
    seconds : float
        How long a ticket is held after its last use.
    """

    def __init__(
        self,
        capacity: int = defaults.TICKET_CAPACITY,
        seconds: float = defaults.TICKET_SECONDS,
        memory: int = defaults.TICKET_BYTES,
    ) -> None:
        self.capacity = capacity
        self.seconds = seconds
        self.memory = memory
        self._tickets: OrderedDict[str, Ticket] = OrderedDict()
        self._counted = 0  # bytes, when they were last added up, and of what came since
        self._uses = 0  # since then
        self._lock = threading.RLock()  # a stream that is garbage drops its ticket at any moment
        self._key = secrets.token_bytes(32)

    def issue(
        self,
        question: str,
        documents: Sequence[PromptDocument],
        image: QueryImage | None,
        withheld: Sequence[PromptDocument] = (),
    ) -> Ticket:
        """Register the evidence of one query and return its ticket."""
        ticket = self.draw(question, documents, image, withheld)
        self.hold(ticket)
        return ticket

    def draw(
        self,
        question: str,
        documents: Sequence[PromptDocument],
        image: QueryImage | None,
        withheld: Sequence[PromptDocument] = (),
    ) -> Ticket:
        """Return a ticket for the evidence of one query; it can be redeemed once it is held."""
        nonce = secrets.token_bytes(_NONCE_BYTES)
        ticket_id = base64.urlsafe_b64encode(nonce + self._seal(nonce)).decode()
        return Ticket(ticket_id, image, question, tuple(documents), tuple(withheld))

    def hold(self, ticket: Ticket) -> None:
        """Hold a ticket, also one that was evicted, as the newest."""
        ticket.used, ticket.shown = time.monotonic(), True
        with self._lock:
            self._tickets[ticket.ticket_id] = ticket
            self._tickets.move_to_end(ticket.ticket_id)
            self._counted += ticket.memory
            self._evict()

    def drop(self, ticket: Ticket) -> None:
        """Hold a ticket no longer: its question is over for whoever asked it."""
        with self._lock:
            self._tickets.pop(ticket.ticket_id, None)
        ticket.rest()

    def _evict(self) -> None:
        """Bring what is held within the bounds, least recently used first; the newest stays.

        Images are decoded and texts read at any time, so what is held has to be added up. That is
        done once in a while: at every question it would be most of the question's cost, where
        thousands of tickets are held.
        """
        newest = next(reversed(self._tickets.values()))
        while len(self._tickets) > 1:
            oldest = next(iter(self._tickets.values()))
            expired = newest.used - oldest.used > self.seconds
            if len(self._tickets) <= self.capacity and not expired:
                break  # the rest was used later still
            del self._tickets[oldest.ticket_id]
        self._uses += 1
        if self._counted <= self.memory and 16 * self._uses < len(self._tickets):
            return
        *older, newest = self._tickets.values()
        self._counted = newest.memory + sum(ticket.memory for ticket in older)
        self._uses = 0
        for ticket in older:
            if self._counted > self.memory and ticket.image is not None:
                before = ticket.memory
                ticket.image.release_pixels()
                self._counted -= before - ticket.memory
        for ticket in older:
            if self._counted <= self.memory:
                break
            self._tickets.pop(ticket.ticket_id, None)
            self._counted -= ticket.memory

    def is_ours(self, ticket_id: str) -> bool:
        """Whether this registry issued ``ticket_id``, which may be evicted by now."""
        try:
            raw = base64.urlsafe_b64decode(ticket_id)
        except ValueError:
            return False
        nonce, seal = raw[:_NONCE_BYTES], raw[_NONCE_BYTES:]
        return hmac.compare_digest(self._seal(nonce), seal)

    def redeem(self, ticket_id: str) -> Ticket:
        """Return a ticket that this registry issued; it stays valid.

        Raises
        ------
        EvidenceError
            If it has been evicted: the query image and the scores are gone, and answering
            without them would be a guess.
        """
        now = time.monotonic()
        with self._lock:
            ticket = self._tickets.pop(ticket_id, None)
            if ticket is not None and now - ticket.used <= self.seconds:
                ticket.used = now
                self._tickets[ticket_id] = ticket
                self._evict()  # images have been decoded, and texts read, since the last one
                return ticket
        raise EvidenceError(
            f"the evidence of this question is no longer held (at most {self.capacity} questions, "
            f"{self.memory:,} bytes and {self.seconds:.0f} s); ask the question again"
        )

    def _seal(self, nonce: bytes) -> bytes:
        return blake2b(nonce, key=self._key, digest_size=_SEAL_BYTES).digest()


TICKETS = TicketRegistry()
"""The registry of this process."""
