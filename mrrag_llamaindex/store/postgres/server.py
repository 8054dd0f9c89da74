"""A server's database: connections that are made when needed, kept, and shared by threads."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Mapping, Sequence
from queue import Empty, LifoQueue
from typing import Any, Final

import numpy as np
import psycopg
from psycopg.adapt import Dumper
from psycopg.sql import SQL
from psycopg.types import TypeInfo

from mrrag_llamaindex.errors import StoreError
from mrrag_llamaindex.files.forks import ForkGuard
from mrrag_llamaindex.store.postgres.address import Address
from mrrag_llamaindex.store.postgres.connection import (
    DAMAGE,
    DamagedIndex,
    Late,
    LimitedConnection,
    Row,
    Statement,
    VectorDumper,
    cancel,
    has_news,
    reason,
)

READ_SECONDS: Final = 15.0
"""A server may take to answer."""

SCAN_SECONDS: Final = 60.0
"""The same where it reads all pairs."""

WRITE_SECONDS: Final = 120.0
"""The same for a statement that writes: it extends its index meanwhile."""

MOST_CONNECTIONS: Final = 8
"""Of one store; a call that finds none free waits."""

_SETTINGS: Final = SQL(
    "SELECT set_config(name, value, true) "
    "FROM unnest(%s::text[], %s::text[]) AS setting (name, value)"
)


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
                self._vectors = type("_Vectors", (VectorDumper,), {"oid": found.oid})
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
            raise self._late(connection, seconds) from None
        except psycopg.Error as error:
            if connection is not None and connection.late:
                raise self._late(connection, seconds) from None
            kind = DamagedIndex if error.sqlstate in DAMAGE else StoreError
            raise kind(f"{self.name}: {reason(error)}") from None
        finally:
            if connection is not None:
                connection.close()
            self._free.release()

    def _late(self, connection: LimitedConnection | None, seconds: float) -> StoreError:
        if connection is not None:
            cancel(connection)
        return StoreError(f"{self.name} did not answer within {seconds:g} s")

    def _kept(self) -> LimitedConnection | None:
        """Return a connection from before that the server has not closed."""
        with contextlib.suppress(Empty):
            while True:
                connection = self._idle.get_nowait()
                if not connection.closed and not has_news(connection):
                    return connection
                connection.close()
        return None

    def _connect(self) -> LimitedConnection:
        # Prepared statements would get plans that do not know how many rows are wanted.
        connection = LimitedConnection.connect(**self._parameters, prepare_threshold=None)
        encoding = connection.info.parameter_status("server_encoding")
        if encoding != "UTF8":
            connection.close()
            raise StoreError(
                f"{self.name} has the encoding {encoding}, which cannot keep every report as it is "
                "written: make a database for the pairs with CREATE DATABASE cases ENCODING 'UTF8' "
                "TEMPLATE template0"
            )
        if self._vectors is not None:
            connection.adapters.register_dumper(np.ndarray, self._vectors)
        return connection


def _set(connection: LimitedConnection, seconds: float, settings: Mapping[str, str]) -> None:
    """Change settings of the server for the transaction in hand."""
    every = {"statement_timeout": str(int(1000 * seconds)), **settings}
    connection.execute(_SETTINGS, [list(every), list(every.values())])
