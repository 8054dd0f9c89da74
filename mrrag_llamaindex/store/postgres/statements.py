"""What is asked of a collection's table, in SQL."""

from __future__ import annotations

from typing import Final

from psycopg.sql import SQL, Composable, Composed, Identifier, Literal, Placeholder

from mrrag_llamaindex.store.postgres.conditions import Conditions
from mrrag_llamaindex.store.postgres.connection import Statement
from mrrag_llamaindex.store.postgres.record import BRIEF, COMPLETE, WRITTEN
from mrrag_llamaindex.store.postgres.vector_index import VectorIndex

LOG: Final = SQL(
    "INSERT INTO mrrag.log (tenant, collection, action, pair_ids) VALUES (%s, %s, %s, %s::text[])"
)
"""An entry in the log: tenant, collection, what was done, and to which pairs."""

LEARNED: Final = SQL(
    "SELECT content FROM mrrag.learned WHERE collection = %s AND tenant = %s AND name = %s"
)
"""What was learned for a collection and is kept under a name."""

KEEP_LEARNED: Final = SQL(
    "INSERT INTO mrrag.learned (collection, tenant, name, content) VALUES (%s, %s, %s, %s) "
    "ON CONFLICT (collection, tenant, name) DO UPDATE SET content = excluded.content"
)
"""Keep it, in place of an earlier one."""


class Statements:
    """Statements on one table; what a role's tenant is, is a parameter of each.

    Parameters
    ----------
    table
        Of the collection.
    index
        How its vectors are searched.
    """

    def __init__(self, table: Identifier, index: VectorIndex) -> None:
        self._table = table
        self._index = index
        self.count = self._of("SELECT count(*) FROM {table} WHERE tenant = %(c0)s")
        self.pair_ids = self._of(
            "SELECT pair_id FROM {table} WHERE tenant = %(c0)s ORDER BY number, pair_id"
        )
        some = "tenant = %(tenant)s AND pair_id = ANY (%(ids)s::text[])"
        # With the server's time in microseconds, by which pairs are numbered.
        self.known = self._of(
            f"SELECT EXISTS (SELECT FROM {{table}} WHERE {some}), "
            "(extract(epoch FROM clock_timestamp()) * 1000000)::bigint"
        )
        self.delete = self._of(
            "DELETE FROM {table} WHERE tenant = %s AND pair_id = %s RETURNING pair_id"
        )
        # Not the indexes: an HNSW index takes hours at millions of pairs, and before pgvector 0.8.4
        # an insertion at that moment could damage it. What it still names is passed over.
        self.vacuum = self._of("VACUUM (SKIP_LOCKED, INDEX_CLEANUP OFF) {table}")
        self._fetch = [
            self._of(f"SELECT {columns} FROM {{table}} WHERE {some}")
            for columns in (BRIEF, COMPLETE)
        ]
        columns = ("tenant", "number", *WRITTEN)
        self.upsert = SQL(
            "INSERT INTO {} ({}) OVERRIDING SYSTEM VALUE VALUES ({}) "
            "ON CONFLICT (tenant, pair_id) DO UPDATE SET {}"
        ).format(
            table,
            SQL(", ").join(map(Identifier, columns)),
            SQL(", ").join([Placeholder()] * len(columns)),
            SQL(", ").join(
                SQL("{0} = excluded.{0}").format(Identifier(name)) for name in WRITTEN[1:]
            ),
        )

    def fetch(self, complete: bool) -> Statement:
        """Return what finds pairs by their ids."""
        return self._fetch[complete]

    def search(
        self, conditions: Conditions, count: int, candidates: int, complete: bool
    ) -> Statement:
        """Return what asks the index, and scores its candidates by the whole vectors."""
        return self._of(
            "SELECT -(embedding <#> %(vector)s) AS score, {columns} FROM ("
            "SELECT * FROM {table} WHERE {condition} ORDER BY {indexed} <#> {question} LIMIT {most}"
            ") AS nearest ORDER BY score DESC, {by_id} LIMIT {count}",
            complete,
            condition=conditions.sql,
            indexed=self._index.indexed,
            question=self._index.question,
            most=Literal(candidates),
            count=Literal(count),
        )

    def scan(self, conditions: Conditions, count: int, complete: bool) -> Statement:
        """Return what compares a question with every pair; no index orders by a negated number."""
        return self._of(
            "SELECT score, {columns} FROM ("
            "SELECT *, -(embedding <#> %(vector)s) AS score FROM {table} WHERE {condition} "
            "ORDER BY score DESC, {by_id} LIMIT {count}"
            ") AS best",
            complete,
            condition=conditions.sql,
            count=Literal(count),
        )

    def _of(self, text: str, complete: bool = False, **parts: Composable) -> Composed:
        columns = SQL(COMPLETE if complete else BRIEF)
        # As Python orders texts, whatever the database's language.
        by_id = SQL('pair_id COLLATE "C"')
        return SQL(text).format(table=self._table, columns=columns, by_id=by_id, **parts)
