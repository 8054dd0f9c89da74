"""Tickets: how image, question and scores of one query reach the LLM call they belong to.

LlamaIndex forwards only text to an LLM. The evidence of a query therefore waits here, in a
bounded in-process registry, and the text carries an unguessable ticket id. Context variables
would be simpler and are wrong: two interleaved streams would answer with each other's image.
"""

from __future__ import annotations

import base64
import hmac
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import TYPE_CHECKING

from mrrag_llamaindex import defaults
from mrrag_llamaindex.errors import EvidenceError
from mrrag_llamaindex.generation.prompt.request import PromptDocument

if TYPE_CHECKING:
    from mrrag_llamaindex.generation.answer import Answer
    from mrrag_llamaindex.images.load import ImageSource

_NONCE_BYTES, _SEAL_BYTES = 9, 6  # 72 bits cannot be guessed; together 20 characters


@dataclass(eq=False)
class Ticket:
    """The evidence of one query.

    Attributes
    ----------
    ticket_id : str
    image : ImageSource or None
        The query image as the user gave it.
    image_digest : str or None
        Its digest at retrieval; generation refuses an image that has changed since.
    question : str
    documents : tuple of PromptDocument
    answers : list of Answer
        One per LLM call made with this evidence, in order of completion.
    shown : dict of int to str
        Text of each document as LLM calls have seen it so far, by ordinal: refine steps build
        on it. It is the host's text, which a postprocessor may have masked.
    """

    ticket_id: str
    image: ImageSource | None
    image_digest: str | None
    question: str
    documents: tuple[PromptDocument, ...]
    answers: list[Answer] = field(default_factory=list)
    shown: dict[int, str] = field(default_factory=dict)


class TicketRegistry:
    """Bounded, locked map from ticket id to `Ticket`.

    Parameters
    ----------
    capacity : int
        Most tickets held; the least recently used leaves first.
    seconds : float
        How long a ticket is held after its last use.
    """

    def __init__(
        self,
        capacity: int = defaults.TICKET_CAPACITY,
        seconds: float = defaults.TICKET_SECONDS,
    ) -> None:
        self.capacity = capacity
        self.seconds = seconds
        self._tickets: OrderedDict[str, tuple[float, Ticket]] = OrderedDict()
        self._lock = threading.Lock()
        self._key = secrets.token_bytes(32)

    def issue(
        self,
        question: str,
        documents: Sequence[PromptDocument],
        image: ImageSource | None,
        image_digest: str | None,
    ) -> Ticket:
        """Register the evidence of one query and return its ticket."""
        nonce = secrets.token_bytes(_NONCE_BYTES)
        ticket_id = base64.urlsafe_b64encode(nonce + self._seal(nonce)).decode()
        ticket = Ticket(ticket_id, image, image_digest, question, tuple(documents))
        now = time.monotonic()
        with self._lock:
            self._tickets[ticket_id] = (now, ticket)
            for old_id, (used, _) in list(self._tickets.items()):
                if len(self._tickets) <= self.capacity and now - used <= self.seconds:
                    break  # the rest was used later still
                del self._tickets[old_id]
        return ticket

    def is_ours(self, ticket_id: str) -> bool:
        """Whether this registry issued ``ticket_id``, held or evicted; forgeries are not ours."""
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
            entry = self._tickets.pop(ticket_id, None)
            if entry is not None and now - entry[0] <= self.seconds:
                self._tickets[ticket_id] = (now, entry[1])
                return entry[1]
        raise EvidenceError(
            f"the evidence of this question is no longer held (more than {self.capacity} questions "
            f"or {self.seconds:.0f} s ago); ask the question again"
        )

    def _seal(self, nonce: bytes) -> bytes:
        return blake2b(nonce, key=self._key, digest_size=_SEAL_BYTES).digest()


TICKETS = TicketRegistry()
"""The registry of this process."""
