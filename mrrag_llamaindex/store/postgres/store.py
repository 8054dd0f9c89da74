"""The pair store in one table of PostgreSQL, ranked by pgvector: ``-(a <#> b)`` is the score.

What is excluded and filtered is part of the search. An index finds the nearest first, of which a
selective condition then drops most; so a search that returns fewer than were asked for is followed
by an exact one, and nothing is missing for want of looking.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Final

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Self

from mrrag_llamaindex.errors import StoreError
from mrrag_llamaindex.store.backends import Where
from mrrag_llamaindex.store.filters import Filter
from mrrag_llamaindex.store.hits import Exclusion, StoredPair
from mrrag_llamaindex.store.postgres.address import Address, driver
from mrrag_llamaindex.store.protocol import PairStore
from mrrag_llamaindex.store.schema import HNSWSettings, StoreSchema

driver()  # what follows imports it

from mrrag_llamaindex.store.postgres import layout, statements  # noqa: E402
from mrrag_llamaindex.store.postgres.conditions import Conditions  # noqa: E402
from mrrag_llamaindex.store.postgres.connection import DamagedIndex  # noqa: E402
from mrrag_llamaindex.store.postgres.record import decode, encode  # noqa: E402
from mrrag_llamaindex.store.postgres.server import SCAN_SECONDS, WRITE_SECONDS, Server  # noqa: E402
from mrrag_llamaindex.store.postgres.vector_index import VectorIndex  # noqa: E402

MAX_RECORDS: Final = 500
"""Rows sent or asked for at once."""

RARE: Final = 8
"""So many searches more may find enough; where a condition leaves fewer, all that match are few
enough to be compared one by one."""

logger = logging.getLogger(__name__)


class PostgresPairStore(PairStore):
    """Pairs in one table of a PostgreSQL database with pgvector.

    Any number of processes may read and write; what a role may do, the server decides.
    """

    _leaves_out: ClassVar[bool] = True

    def __init__(self, server: Server, found: layout.Collection) -> None:
        name = f"collection {found.name!r} of {server.name}"
        super().__init__(name, StoreSchema.from_metadata(found.metadata, name))
        hnsw = self.schema.hnsw or HNSWSettings()
        self._server = server
        self._collection = found.name
        self._number = found.number
        self._tenant = found.tenant
        self._index = VectorIndex(self.schema.length, found.pgvector, hnsw, half=found.halved)
        self._sql = statements.Statements(layout.table_of(found.number), self._index)
        if found.length != self.schema.length:
            raise StoreError(
                f"{name} holds vectors of length {found.length}, but says that its towers give "
                f"{self.schema.length}: something else has changed it; ingest again"
            )
        if self._index.exists and not found.indexed:
            logger.warning(
                "%s has no valid index: every question is compared with all pairs; see "
                "docs/stores.md on making it anew",
                name,
            )

    @classmethod
    def _create(cls, where: Where, collection: str, schema: StoreSchema) -> Self:
        schema = replace(schema, hnsw=schema.hnsw or HNSWSettings())
        server = Server(Address.parse(str(where)))
        try:
            pgvector = layout.require_pgvector(server)
            layout.make_collection(server, collection, schema, pgvector)
            return cls._found(server, collection)
        except BaseException:
            server.close()
            raise

    @classmethod
    def _open(cls, where: Where, collection: str) -> Self:
        server = Server(Address.parse(str(where)))
        try:
            layout.bring_up_to_date(server)
            return cls._found(server, collection)
        except BaseException:
            server.close()
            raise

    @classmethod
    def _found(cls, server: Server, collection: str) -> Self:
        found = layout.find_collection(server, collection)
        if found is None:
            raise StoreError(
                f"{server.name} has no collection {collection!r}; it has: "
                f"{', '.join(layout.collection_names(server)) or 'none'}"
            )
        server.learn_vectors()
        return cls(server, found)

    @classmethod
    def _exists(cls, where: Where, collection: str) -> bool:
        server = Server(Address.parse(str(where)))
        try:
            known = layout.version_of(server) is not None
            return known and collection in layout.collection_names(server)
        finally:
            server.close()

    def close(self) -> None:
        """Close the connections. May be called again."""
        self._server.close()

    def _check_contents(self) -> int:
        found = layout.find_collection(self._server, self._collection)
        if found is None or (self._index.exists and not found.indexed):
            raise StoreError(
                f"{self.name} has no valid index (answers are right without one, and slow); see "
                "docs/stores.md on making it anew"
            )
        return 0

    def _count(self) -> int:
        rows = self._server.rows(self._sql.count, self._own.parameters, seconds=SCAN_SECONDS)
        return int(rows[0][0])

    def _pair_ids(self) -> Iterable[str]:
        rows = self._server.rows(self._sql.pair_ids, self._own.parameters, seconds=SCAN_SECONDS)
        return [row[0] for row in rows]

    @property
    def _own(self) -> Conditions:
        return Conditions(self._tenant)

    def _fetch(self, pair_ids: Sequence[str], *, complete: bool) -> Iterator[StoredPair]:
        for start in range(0, len(pair_ids), MAX_RECORDS):
            asked = {"ids": list(pair_ids[start : start + MAX_RECORDS]), "tenant": self._tenant}
            yield from map(decode, self._server.rows(self._sql.fetch(complete), asked))

    def _nearest(
        self,
        vector: NDArray[np.float32],
        count: int,
        filters: Filter | None,
        *,
        complete: bool,
        width: int = 0,
        exclude: Exclusion | None = None,
    ) -> Sequence[tuple[float, StoredPair]]:
        conditions = Conditions(self._tenant, filters, exclude)
        parameters = {"vector": vector, **conditions.parameters}
        rows = self._searched(conditions, parameters, count, width, complete)
        if len(rows) < count:
            rows = self._server.rows(
                self._sql.scan(conditions, count, complete), parameters, seconds=SCAN_SECONDS
            )
        return [(float(score), decode(record)) for score, *record in rows]

    def _searched(
        self,
        conditions: Conditions,
        parameters: dict[str, Any],
        count: int,
        width: int,
        complete: bool,
    ) -> list[tuple[Any, ...]]:
        """Return the best rows that the index finds; too few, where those are not sure to be it."""
        # At the edge of what a search looks at, the index misses some.
        enough = 2 * count if conditions.selective else count
        if not self._index.suffices(enough):
            return []
        width = self._index.width(enough, width)
        for goes_on in self._index.passes(width, conditions.selective):
            candidates = self._index.candidates(enough, width, goes_on)
            try:
                rows = self._server.rows(
                    self._sql.search(conditions, enough, candidates, complete),
                    parameters,
                    settings=self._index.settings(width, goes_on),
                )
            except DamagedIndex as error:
                logger.warning("%s; comparing with all pairs", error)
                return []
            if len(rows) >= enough:
                return rows[:count]
            if len(rows) < enough // RARE:
                break
        return []

    def _write(self, pairs: Sequence[StoredPair]) -> None:
        """Write the pairs and the entry in the log in one transaction: all of them or none.

        Every writer takes its rows in the order of their ids, so that no two wait for each other.
        The numbers keep the order in which the pairs came.
        """
        ids = [pair.pair_id for pair in pairs]
        with self._server.transaction() as connection:
            known = connection.execute(self._sql.known, {"ids": ids, "tenant": self._tenant})
            replaces, now = known.fetchone() or (False, 0)
            first = max(int(now), self._next_number)
            self._next_number = first + len(pairs)
            ordered = sorted(enumerate(pairs, first), key=lambda item: item[1].pair_id)
            for start in range(0, len(ordered), MAX_RECORDS):
                connection.limit(WRITE_SECONDS)
                part = ordered[start : start + MAX_RECORDS]
                rows = [(self._tenant, number, *encode(pair)) for number, pair in part]
                connection.cursor().executemany(self._sql.upsert, rows)
            connection.execute(statements.LOG, [self._tenant, self._collection, "write", ids])
        self._replaced = self._replaced or replaces

    def _delete(self, pair_ids: Sequence[str]) -> None:
        ids = sorted(pair_ids)
        gone: list[str] = []
        with self._server.transaction() as connection:
            for start in range(0, len(ids), MAX_RECORDS):
                connection.limit(WRITE_SECONDS)
                with connection.pipeline():  # one by one, in the order in which rows are written
                    found = [
                        connection.execute(self._sql.delete, [self._tenant, pair_id])
                        for pair_id in ids[start : start + MAX_RECORDS]
                    ]
                gone += [row[0] for cursor in found for row in cursor]
            if gone:
                connection.execute(statements.LOG, [self._tenant, self._collection, "delete", gone])
        self._replaced = self._replaced or bool(gone)
        self._erase_replaced()

    def _learned(self, name: str) -> str | None:
        rows = self._server.rows(statements.LEARNED, [self._number, self._tenant, name])
        return str(rows[0][0]) if rows else None

    def _keep_learned(self, name: str, text: str) -> None:
        with self._server.transaction() as connection:
            connection.execute(statements.KEEP_LEARNED, [self._number, self._tenant, name, text])

    _next_number = 0
    _replaced = False

    def _erase_replaced(self) -> None:
        """Free the room of rows that are gone, so that it is written over.

        The server passes over a role that does not own the table, and vacuums by itself in time.
        """
        if not self._replaced:
            return
        self._replaced = False
        try:
            self._server.maintain(self._sql.vacuum)
        except StoreError as error:
            # The pairs are gone for every role; their room is not yet.
            logger.warning("%s: VACUUM did not end (%s)", self.name, error)
