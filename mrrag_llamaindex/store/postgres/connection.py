"""Connections to one server: each call has a deadline, each failure is one line.

A server ends statements by itself (``statement_timeout``). One that hangs, or that the network has
lost, does not; so each wait on a connection ends here as well, the server is asked to cancel, and
the connection is given up. What PostgreSQL says of a row may quote the row: only its words about
connections, rights and room are passed on.
"""

from __future__ import annotations

import contextlib
import selectors
import threading
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from queue import Empty, LifoQueue
from typing import Any, Final, TypeAlias

import numpy as np
import psycopg
from psycopg.adapt import Dumper
from psycopg.pq import Format
from psycopg.sql import SQL, Composed
from psycopg.types import TypeInfo

from mrrag_llamaindex.errors import StoreError
from mrrag_llamaindex.files.forks import ForkGuard
from mrrag_llamaindex.store.postgres.address import Address

Statement: TypeAlias = SQL | Composed
Row: TypeAlias = tuple[Any, ...]

READ_SECONDS: Final = 15.0
"""A server may take to answer."""

SCAN_SECONDS: Final = 60.0
"""The same where it reads all pairs."""

WRITE_SECONDS: Final = 120.0
"""The same for a statement that writes: it extends its index meanwhile."""

CANCEL_SECONDS: Final = 2.0
"""To hear of a cancellation."""

MOST_CONNECTIONS: Final = 8
"""Of one store; a call that finds none free waits."""

_DAMAGE: Final = ("22000", "XX000", "XX001", "XX002")
"""Codes of what pgvector says of its index, and PostgreSQL of a page."""

_SETTINGS: Final = SQL(
    "SELECT set_config(name, value, true) "
    "FROM unnest(%s::text[], %s::text[]) AS setting (name, value)"
)


class Late(Exception):  # noqa: N818 (caught in this file, where it becomes a StoreError)
    """A server did not answer in time."""


class DamagedIndex(StoreError):  # noqa: N818 (of no use to a caller of the store)
    """The vector index holds what cannot be; the table need not be damaged."""


class LimitedConnection(psycopg.Connection[Row]):
    """A connection on which no wait lasts longer than `limit` allows."""

    _end = float("inf")

    def limit(self, seconds: float) -> None:
        """Let whatever is asked from now on end within so many seconds."""
        self._end = time.monotonic() + seconds

    def wait(self, gen: Generator[Any, Any, Any], *args: Any, **kwargs: Any) -> Any:
        """Drive a call of psycopg's until it has ended or is late."""
        return super().wait(self._until_late(gen), *args, **kwargs)

    def _until_late(self, gen: Generator[Any, Any, Any]) -> Generator[Any, Any, Any]:
        ready = None
        while True:
            try:
                wanted = gen.send(ready)
            except StopIteration as end:
                return end.value
            ready = yield wanted
            if time.monotonic() > self._end:
                with contextlib.suppress(Exception):  # what it would still ask cannot be answered
                    gen.close()
                raise Late


class Server:
    """A server's database: connections are made when needed, kept, and shared by threads.

    Parameters
    ----------
    address
        Where it is.
    """

    def __init__(self, address: Address) -> None:
        self.name = address.name
        self._parameters = address.parameters
        self._idle: LifoQueue[LimitedConnection] = LifoQueue()
        self._free = threading.BoundedSemaphore(MOST_CONNECTIONS)
        self._process = ForkGuard()
        self._closed = False
        self._vectors: type[Dumper] | None = None

    def rows(
        self,
        statement: Statement,
        parameters: Mapping[str, Any] | Sequence[Any] = (),
        *,
        seconds: float | None = None,
        settings: Mapping[str, str] | None = None,
    ) -> list[Row]:
        """Return what one statement returns, in a transaction of its own and one round trip.

        Parameters
        ----------
        statement, parameters
            As psycopg takes them. The results come in binary.
        seconds
            It may take; `READ_SECONDS` if not given.
        settings
            Of the server, for this statement alone.
        """
        with self._connection(seconds or READ_SECONDS) as connection:
            with connection.pipeline():
                _set(connection, seconds or READ_SECONDS, settings or {})
                cursor = connection.execute(statement, parameters, binary=True)
                connection.commit()
            return cursor.fetchall()

    @contextlib.contextmanager
    def transaction(self, seconds: float | None = None) -> Iterator[LimitedConnection]:
        """Yield a connection in a transaction that is committed behind the block.

        Each statement may take so many seconds, `WRITE_SECONDS` if not given; see
        `LimitedConnection.limit` for several.
        """
        seconds = seconds or WRITE_SECONDS
        with self._connection(seconds) as connection:
            _set(connection, seconds, {})
            yield connection
            connection.limit(seconds)
            connection.commit()

    def maintain(self, statement: Statement) -> None:
        """Run a statement that no transaction may hold, as VACUUM."""
        with self._connection(WRITE_SECONDS) as connection:
            connection.autocommit = True
            connection.execute(statement)
            connection.autocommit = False

    def learn_vectors(self) -> bool:
        """Look for the type ``vector``; return whether the extension is there."""
        with self._connection(READ_SECONDS) as connection:
            found = TypeInfo.fetch(connection, "vector")
            connection.commit()
            if found is not None:
                self._vectors = type("_Vectors", (_VectorDumper,), {"oid": found.oid})
                connection.adapters.register_dumper(np.ndarray, self._vectors)
        return found is not None

    def close(self) -> None:
        """Close the connections; behind a fork they are left to the process that made them."""
        if self._process.behind_fork:
            return
        self._closed = True
        with contextlib.suppress(Empty):
            while True:
                self._idle.get_nowait().close()

    @contextlib.contextmanager
    def _connection(self, seconds: float) -> Iterator[LimitedConnection]:
        """Yield a connection; it is kept if the block ends well, and closed otherwise."""
        self._process.check(f"{self.name} was", StoreError)
        if self._closed:
            raise StoreError(f"{self.name} has been closed")
        if not self._free.acquire(timeout=READ_SECONDS):
            raise StoreError(
                f"{self.name}: all {MOST_CONNECTIONS} connections have been busy for "
                f"{READ_SECONDS:g} s; ask less at once"
            )
        connection = None
        try:
            connection = self._kept() or self._connect()
            connection.limit(seconds)
            yield connection
            if not self._closed:
                self._idle.put(connection)
                connection = None
        except Late:
            assert connection is not None
            _cancel(connection)
            raise StoreError(f"{self.name} did not answer within {seconds:g} s") from None
        except psycopg.Error as error:
            kind = DamagedIndex if error.sqlstate in _DAMAGE else StoreError
            raise kind(f"{self.name}: {reason(error)}") from None
        finally:
            if connection is not None:
                connection.close()
            self._free.release()

    def _kept(self) -> LimitedConnection | None:
        """Return a connection from before that the server has not closed."""
        with contextlib.suppress(Empty):
            while True:
                connection = self._idle.get_nowait()
                if not connection.closed and not _has_news(connection):
                    return connection
                connection.close()
        return None

    def _connect(self) -> LimitedConnection:
        # Prepared statements would get plans that do not know how many rows are wanted.
        connection = LimitedConnection.connect(**self._parameters, prepare_threshold=None)
        if self._vectors is not None:
            connection.adapters.register_dumper(np.ndarray, self._vectors)
        return connection


class _VectorDumper(Dumper):
    """Sends an array, shape (l,), as pgvector's binary form of a vector."""

    format = Format.BINARY

    def dump(self, obj: Any) -> bytes:
        values: bytes = obj.astype(">f4").tobytes()
        return len(obj).to_bytes(2, "big") + b"\0\0" + values


def vector_of(values: bytes) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Return pgvector's binary form of a vector as an array, shape (l,)."""
    return np.frombuffer(values, ">f4", offset=4).astype(np.float32)


def reason(error: psycopg.Error) -> str:
    """Return in one line what PostgreSQL refused or failed at, without what it says of rows."""
    if isinstance(error, psycopg.errors.QueryCanceled):
        return "the server ended a statement that took too long"
    told = " ".join((error.diag.message_primary or str(error)).split())[:300]
    if isinstance(error, psycopg.errors.InsufficientPrivilege):
        return f"{told}: this role lacks the right; docs/stores.md says what to grant"
    if error.sqlstate in _DAMAGE:
        return f"{told}: the vector index is damaged; docs/stores.md says how to make it anew"
    if isinstance(error, (psycopg.OperationalError, psycopg.errors.ReadOnlySqlTransaction)):
        lost = (
            ""
            if error.sqlstate
            else ("; nothing that was acknowledged is lost, and the call can be made again")
        )
        return (told or type(error).__name__) + lost
    return f"{type(error).__name__} (SQLSTATE {error.sqlstate})"


def _set(connection: LimitedConnection, seconds: float, settings: Mapping[str, str]) -> None:
    """Change settings of the server for the transaction in hand."""
    every = {"statement_timeout": str(int(1000 * seconds)), **settings}
    connection.execute(_SETTINGS, [list(every), list(every.values())])


def _has_news(connection: LimitedConnection) -> bool:
    """Return whether an idle connection has something to read: its end, as a rule."""
    with selectors.DefaultSelector() as selector:
        selector.register(connection.pgconn.socket, selectors.EVENT_READ)
        return bool(selector.select(0))


def _cancel(connection: LimitedConnection) -> None:
    """Ask the server to stop what it is doing, and do not wait long for it."""
    connection.limit(CANCEL_SECONDS)
    if psycopg.capabilities.has_cancel_safe():  # older ones wait without limit
        with contextlib.suppress(psycopg.Error, OSError):
            connection.cancel_safe(timeout=CANCEL_SECONDS)
