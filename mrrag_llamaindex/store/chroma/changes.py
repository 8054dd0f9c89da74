"""What other processes write to a folder while stores of this process have it open.

Chroma keeps an index in memory once it has searched it, and never looks whether its file is newer:
pairs that another process adds are not found, and one that it replaces is found where the old one
was. So before each reading call the database's file is looked at, and where pairs have been written
since, all stores of this process close the folder and open it again: one Chroma of a process serves
all of them.

Not while the other process has the folder for writing, since it may save the index just then. Until
it has ended, pairs that it deletes are not found (Chroma asks its database for each), those that it
adds are not found yet, and one that it replaces is an error, by its checksum.
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, Protocol
from weakref import WeakSet, WeakValueDictionary

from mrrag_llamaindex.errors import StoreError
from mrrag_llamaindex.files.digests import file_state
from mrrag_llamaindex.store.chroma.integrity import SQLITE_FILE, written_up_to

logger = logging.getLogger(__name__)

PATIENCE: Final = 30.0
"""Seconds that calls at work may take to end before the folder is opened anew."""


class Member(Protocol):
    """A store that has the folder open: a `Connection`."""

    @property
    def writes(self) -> bool:
        """Whether it has the folder for writing."""
        ...

    def let_go(self) -> Any:
        """Close the client; returns what it was a client of."""
        ...

    def open_again(self) -> Any:
        """Open what was let go; returns what it is a client of."""
        ...


class OpenFolder:
    """One folder that stores of this process have open; see `of`.

    Parameters
    ----------
    opened : Path
        What Chroma has open: the folder itself, or a copy of one that cannot be written.
    folder : Path
        Of the store.
    """

    def __init__(self, opened: Path, folder: Path) -> None:
        self.opened = opened
        self._database = folder / SQLITE_FILE
        self._members: WeakSet[Member] = WeakSet()
        self._turn = threading.Condition(threading.RLock())
        self._at_work = 0
        self._catching_up = False
        self._state: tuple[int, int, int] | None = None
        self._position: int | None = None
        self._written_here = False  # by a store of this process, which all of them see

    @classmethod
    def of(cls, opened: Path, folder: Path, position: int | None) -> OpenFolder:
        """Return what the stores of this process share of a folder.

        Parameters
        ----------
        opened, folder
            As for the class.
        position
            Of the last write, from before the folder was opened.
        """
        with _registry:
            known = _folders.get(opened)
            if known is None or not known._members:  # nothing is open any more
                known = _folders[opened] = cls(opened, folder)
                known._position = position
            return known

    def join(self, member: Member) -> None:
        """Let a store be opened again with the others."""
        self._members.add(member)
        self._written_here |= member.writes

    def leave(self, member: Member) -> None:
        """Forget a store that is closed."""
        self._members.discard(member)

    @contextlib.contextmanager
    def reading(
        self, quiet: Callable[[], contextlib.AbstractContextManager[bool]]
    ) -> Iterator[None]:
        """See that what is read is not older than what others have written; not to be nested.

        Parameters
        ----------
        quiet
            Whether no other process writes, and none begins to while the block lasts.
        """
        with self._turn:
            self._catch_up(quiet)
            self._at_work += 1
        try:
            yield
        finally:
            with self._turn:
                self._at_work -= 1
                self._turn.notify_all()

    def catch_up(self) -> None:
        """Open the folder anew where others have written to it; for whoever is its one writer."""
        with self._turn:
            self._compare()
            self._written_here = True

    def written(self) -> None:
        """Take what is there for known; for the one writer, before it lets others write."""
        with self._turn, contextlib.suppress(StoreError):  # else the next reader does
            self._compare()

    def _catch_up(self, quiet: Callable[[], contextlib.AbstractContextManager[bool]]) -> None:
        self._turn.wait_for(lambda: not self._catching_up)
        if self._current() or any(member.writes for member in self._members):
            return  # while a store of this process is the writer, nobody else is
        with quiet() as nobody_writes:
            if nobody_writes:
                self._compare()
            else:
                logger.debug("another process writes: what it adds is seen when it has ended")

    def _current(self) -> bool:
        return self._state == file_state(self._database)

    def _compare(self) -> None:
        self._catching_up = True
        try:
            if not self._turn.wait_for(lambda: not self._at_work, PATIENCE):
                raise StoreError("the store was changed, and calls that read it do not end")
            state = file_state(self._database)
            position = position_of(self._database)
            # Opening a folder changes its file, too, and no pair.
            changed = position != self._position and not self._written_here
            self._state, self._position = state, position
            self._written_here = any(member.writes for member in self._members)
            if changed:
                logger.info("another process has changed the store: opening it again")
                self._open_again()
        finally:
            self._catching_up = False
            self._turn.notify_all()

    def _open_again(self) -> None:
        members = list(self._members)
        earlier = [member.let_go() for member in members]
        again, gone = [], None
        for member in members:
            try:
                again.append(member.open_again())
            except StoreError as error:  # its collection was deleted, say: the others go on
                gone = error
        if any(client in earlier for client in again):
            logger.warning(
                "a store was changed by another process, and something else in this process has it "
                "open (a store that was not closed, or a client of chromadb): what was added is "
                "found once that is closed"
            )
        if gone is not None:
            raise gone


_folders: WeakValueDictionary[Path, OpenFolder] = WeakValueDictionary()
_registry = threading.Lock()


def position_of(database: Path) -> int | None:
    """Return the number of the last write to any collection of a folder, None if unknown.

    Not while this process reads the file by Chroma's own SQLite: closing it here lets go of what
    that one has locked.
    """
    try:
        with contextlib.closing(
            sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True)
        ) as connection:
            return written_up_to(connection)
    except sqlite3.Error:
        return None
