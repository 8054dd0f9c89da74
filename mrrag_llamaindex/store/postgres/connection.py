"""A connection on which each wait has an end, and what its failures are called.

A server ends statements by itself (``statement_timeout``). One that hangs, or that the network has
lost, does not; so each wait on a connection ends here as well, the server is asked to cancel, and
the connection is given up. What PostgreSQL says of a row may quote the row: only its words about
connections, rights and room are passed on.
"""

from __future__ import annotations

import contextlib
import selectors
import time
from collections.abc import Generator
from typing import Any, Final, TypeAlias

import numpy as np
import psycopg
from psycopg.adapt import Dumper
from psycopg.pq import Format
from psycopg.sql import SQL, Composed

from mrrag_llamaindex.errors import StoreError

Statement: TypeAlias = SQL | Composed
Row: TypeAlias = tuple[Any, ...]

CANCEL_SECONDS: Final = 2.0
"""To hear of a cancellation."""

DAMAGE: Final = ("22000", "XX000", "XX001", "XX002")
"""Codes of what pgvector says of its index, and PostgreSQL of a page."""


class Late(Exception):  # noqa: N818 (caught in this file, where it becomes a StoreError)
    """A server did not answer in time."""


class DamagedIndex(StoreError):  # noqa: N818 (of no use to a caller of the store)
    """The vector index holds what cannot be; the table need not be damaged."""


class LimitedConnection(psycopg.Connection[Row]):
    """A connection on which no wait lasts longer than `limit` allows."""

    _end = float("inf")
    late = False
    """Whether a wait has lasted too long: what psycopg then raises may be something else."""

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
                self.late = True
                raise Late


class VectorDumper(Dumper):
    """Sends an array, shape (l,), as pgvector's binary form of a vector."""

    format = Format.BINARY

    def dump(self, obj: Any) -> bytes:
        """Return the number of dimensions, nothing, and the numbers."""
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
    if error.sqlstate in DAMAGE:
        return f"{told}: the vector index is damaged; docs/stores.md says how to make it anew"
    if isinstance(error, (psycopg.OperationalError, psycopg.errors.ReadOnlySqlTransaction)):
        if error.sqlstate or "FATAL" in told:  # a server that is there has refused it
            return told
        again = "nothing that was acknowledged is lost, and the call can be made again"
        return f"{told or type(error).__name__}; {again}"
    return f"{type(error).__name__} (SQLSTATE {error.sqlstate})"


def has_news(connection: LimitedConnection) -> bool:
    """Return whether an idle connection has something to read: its end, as a rule."""
    with selectors.DefaultSelector() as selector:
        selector.register(connection.pgconn.socket, selectors.EVENT_READ)
        return bool(selector.select(0))


def cancel(connection: LimitedConnection) -> None:
    """Ask the server to stop what it is doing, and do not wait long for it."""
    connection.limit(CANCEL_SECONDS)
    if psycopg.capabilities.has_cancel_safe():  # older ones wait without limit
        with contextlib.suppress(psycopg.Error, OSError):
            connection.cancel_safe(timeout=CANCEL_SECONDS)
