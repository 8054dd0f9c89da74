"""What one open tab holds: its films and its questions, in this process, until it is closed."""

from __future__ import annotations

import secrets
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mrrag_llamaindex.serving.page.films import Films

if TYPE_CHECKING:
    from mrrag_llamaindex.generation.attention import AttentionShares
    from mrrag_llamaindex.generation.explanation import FirstToken
    from mrrag_llamaindex.images.query_image import QueryImage
    from mrrag_llamaindex.integration.answers.ask import AskResult
    from mrrag_llamaindex.serving.schemas import AskOptions

MOST_SESSIONS = 64
MOST_TURNS = 30
MOST_BYTES = 2 * 2**30
IDLE_SECONDS = 4 * 3600.0


@dataclass(eq=False)
class Turn:
    """One question of a session, and what is known of its answer.

    Attributes
    ----------
    number : int
        From 1, within the session.
    question : str
    image : QueryImage
        The film or films that it was asked about, whatever the tab shows now.
    options : AskOptions
    nodes : list of NodeWithScore
        The documents, best first.
    results : dict of str to AskResult
        By side, ``"steered"`` and ``"plain"``, as they are done.
    looks : dict of str to AttentionShares
        By side.
    hidden : set of str
        Ids of the documents that the person has taken away.
    without : FirstToken or None
        How the answer begins without those.
    lock : threading.Lock
        Held while ``hidden`` and ``without``, which belong together, change.
    """

    number: int
    question: str
    image: QueryImage
    options: AskOptions
    nodes: list[Any] = field(default_factory=list)
    results: dict[str, AskResult] = field(default_factory=dict)
    looks: dict[str, AttentionShares] = field(default_factory=dict)
    hidden: set[str] = field(default_factory=set)
    without: FirstToken | None = None
    lock: Any = field(default_factory=threading.Lock)


@dataclass(eq=False)
class Session:
    """What one tab holds.

    Attributes
    ----------
    session_id : str
        Unguessable; written into the tab's page, and into nothing that tabs share, as cookies are.
    films : Films
        What is asked about.
    turns : list of Turn
    used : float
        When it was last used, by the monotonic clock.
    lock : threading.Lock
        Held while a turn begins.
    """

    session_id: str = field(default_factory=lambda: secrets.token_urlsafe(24))
    films: Films = field(default_factory=Films)
    turns: list[Turn] = field(default_factory=list)
    used: float = field(default_factory=time.monotonic)
    lock: Any = field(default_factory=threading.Lock)

    @property
    def memory(self) -> int:
        """Bytes held by its films, as files and as samples; of several questions' once."""
        asked = [turn.image for turn in self.turns]
        if self.films.image is not None:
            asked.append(self.films.image)
        views = {id(view): view for image in asked for view in image.views}
        return self.films.memory + sum(view.memory for view in views.values())

    @property
    def latest(self) -> Turn | None:
        """The last turn that was answered."""
        return next((turn for turn in reversed(self.turns) if "steered" in turn.results), None)

    def begin(self, question: str, options: AskOptions, image: QueryImage) -> Turn:
        """Begin another turn."""
        with self.lock:
            number = self.turns[-1].number + 1 if self.turns else 1
            turn = Turn(number, question, image, options)
            self.turns = [*self.turns[1 - MOST_TURNS :], turn]
        return turn

    def turn(self, number: int) -> Turn | None:
        """Return a turn by its number, None where there is none."""
        return next((turn for turn in self.turns if turn.number == number), None)


class Sessions:
    """The open tabs of one server: bounded, and forgotten when closed or left alone.

    Parameters
    ----------
    most : int
        Sessions.
    idle_seconds : float
        How long one is kept that nobody uses.
    most_bytes : int
        Of all films. The session unused for longest is closed first, never the one in use.
    """

    def __init__(
        self,
        most: int = MOST_SESSIONS,
        idle_seconds: float = IDLE_SECONDS,
        most_bytes: int = MOST_BYTES,
    ) -> None:
        self._most, self._idle, self._most_bytes = most, idle_seconds, most_bytes
        self._open: OrderedDict[str, Session] = OrderedDict()
        self._lock = threading.Lock()

    def open(self) -> Session:
        """Open a session; where there are too many, one without a film goes, or the oldest."""
        session = Session()
        with self._lock:
            self._open[session.session_id] = session
            self._forget()
        return session

    def get(self, session_id: str) -> Session | None:
        """Return a session by its id; None if it was closed, or never was."""
        with self._lock:
            session = self._open.get(session_id)
            if session is not None and session.used >= time.monotonic() - self._idle:
                session.used = time.monotonic()
                self._open.move_to_end(session_id)
            self._forget()
            return self._open.get(session_id)

    def close(self, session_id: str) -> None:
        """Forget a session, and all that it holds."""
        with self._lock:
            self._open.pop(session_id, None)

    def __len__(self) -> int:
        return len(self._open)

    def _forget(self) -> None:
        oldest = time.monotonic() - self._idle
        for session in [one for one in self._open.values() if one.used < oldest]:
            del self._open[session.session_id]
        held = sum(session.memory for session in self._open.values())
        while len(self._open) > 1 and (len(self._open) > self._most or held > self._most_bytes):
            *others, _ = self._open.values()
            # Whoever only looks at the page, a monitor for example, displaces nobody's film.
            empty = (one for one in others if one.films.image is None)
            leaves = next(empty, others[0]) if len(self._open) > self._most else others[0]
            held -= leaves.memory
            del self._open[leaves.session_id]
