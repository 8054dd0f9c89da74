"""What stands in a database's schema ``mrrag``: found, made, migrated, and refused if newer."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from typing import Any, Final

from psycopg.sql import SQL, Identifier, Literal

from mrrag_llamaindex.errors import StoreError
from mrrag_llamaindex.store.postgres.connection import LimitedConnection
from mrrag_llamaindex.store.postgres.server import Server
from mrrag_llamaindex.store.postgres.tables import MIGRATIONS, PAIRS, TABLES
from mrrag_llamaindex.store.postgres.vector_index import VectorIndex
from mrrag_llamaindex.store.schema import StoreSchema

LAYOUT: Final = 2
"""Version of what stands in the schema ``mrrag``."""

logger = logging.getLogger(__name__)

_LOCK = SQL("SELECT pg_advisory_xact_lock(hashtext('mrrag layout'))")
"""Two that make or migrate the tables at once go one behind the other."""

_COLLECTION: Final = SQL("""
SELECT c.id, c.metadata::text, mrrag.tenant(), a.atttypmod, extversion, (
    SELECT array_agg(pg_get_indexdef(k.oid)) FROM pg_index i JOIN pg_class k ON k.oid = i.indexrelid
    JOIN pg_am m ON m.oid = k.relam
    WHERE i.indrelid = a.attrelid AND i.indisvalid AND m.amname = 'hnsw'
)
FROM mrrag.collections c, pg_extension, pg_attribute a
JOIN pg_class t ON t.oid = a.attrelid JOIN pg_namespace n ON n.oid = t.relnamespace
WHERE c.name = %s AND extname = 'vector' AND a.attname = 'embedding'
    AND n.nspname = 'mrrag' AND t.relname = 'pairs_' || c.id
""")


@dataclass(frozen=True)
class Collection:
    """A collection as it stands in a database.

    Parameters
    ----------
    name
        The collection's.
    number
        Of its table.
    metadata
        The schema's, see `StoreSchema.to_metadata`.
    tenant
        Whose rows this role sees.
    length
        Of the vectors.
    pgvector
        Version.
    indexed
        Whether there is a valid HNSW index.
    halved
        Whether all of them hold it in half precision.
    """

    name: str
    number: int
    metadata: dict[str, Any]
    tenant: str
    length: int
    pgvector: tuple[int, ...]
    indexed: bool
    halved: bool


def version_of(server: Server) -> int | None:
    """Return the version of the tables, None where there are none."""
    present = server.rows(
        SQL(
            "SELECT 1 FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
            "WHERE n.nspname = 'mrrag' AND c.relname = 'layout'"
        )
    )
    return int(server.rows(SQL("SELECT version FROM mrrag.layout"))[0][0]) if present else None


def collection_names(server: Server) -> list[str]:
    """Return the names of the collections, in order."""
    return [
        str(row[0]) for row in server.rows(SQL("SELECT name FROM mrrag.collections ORDER BY 1"))
    ]


def find_collection(server: Server, name: str) -> Collection | None:
    """Return a collection, None if there is none of that name."""
    rows = server.rows(_COLLECTION, [name])
    if not rows:
        return None
    number, metadata, tenant, length, pgvector, indexes = rows[0]
    halved = bool(indexes) and all("halfvec_ip_ops" in index for index in indexes)
    return Collection(
        name,
        number,
        json.loads(metadata),
        tenant,
        length,
        _numbers(pgvector),
        bool(indexes),
        halved,
    )


def require_pgvector(server: Server) -> tuple[int, ...]:
    """Return the version of pgvector; make the extension if the role may.

    Raises
    ------
    StoreError
        If it is not there and cannot be made.
    """
    wanted = SQL("SELECT extversion FROM pg_extension WHERE extname = 'vector'")
    rows = server.rows(wanted)
    if not rows:
        try:
            with server.transaction() as connection:
                connection.execute(SQL("CREATE EXTENSION IF NOT EXISTS vector"))
        except StoreError as error:
            raise StoreError(
                f"{server.name} has no pgvector, and this role cannot make it ({error}): install "
                "pgvector on the server and let a superuser run CREATE EXTENSION vector in this "
                "database"
            ) from None
        rows = server.rows(wanted)
    return _numbers(rows[0][0])


def bring_up_to_date(server: Server) -> None:
    """Migrate older tables; refuse newer ones, and a database without.

    Raises
    ------
    StoreError
        If a later release made them, or this role may not change them.
    """
    version = version_of(server)
    if version is None:
        raise StoreError(f"{server.name} holds no pair store: make one with `mrrag ingest`")
    _require_known(server, version)
    if version == LAYOUT:
        return
    try:
        with server.transaction() as connection:
            _migrate(connection)
    except StoreError as error:
        raise StoreError(
            f"{server.name} has tables of layout {version}, and this release needs {LAYOUT}: open "
            f"the store once as the role that owns the schema mrrag ({error})"
        ) from None
    logger.warning("%s: tables brought from layout %d to %d", server.name, version, LAYOUT)


def make_collection(
    server: Server, name: str, schema: StoreSchema, pgvector: tuple[int, ...]
) -> None:
    """Make a collection, and before it what all share, unless that is there.

    Raises
    ------
    StoreError
        If there is one of that name, or this role may not make any.
    """
    assert schema.hnsw is not None
    index = VectorIndex(schema.length, pgvector, schema.hnsw)
    version = version_of(server)
    if version is not None:
        _require_known(server, version)
    with server.transaction() as connection:
        connection.execute(_LOCK)
        (present,) = connection.execute("SELECT to_regclass('mrrag.layout')").fetchone() or [None]
        if present is None:
            connection.execute(TABLES)
        _migrate(connection)
        row = connection.execute(
            "INSERT INTO mrrag.collections (name, metadata) VALUES (%s, %s) "
            "ON CONFLICT DO NOTHING RETURNING id",
            [name, json.dumps(schema.to_metadata())],
        ).fetchone()
        if row is None:
            raise StoreError(
                f"{server.name} already holds a collection {name!r}: open it, or choose another "
                "name"
            )
        table = table_of(row[0])
        comment = Literal(f"pairs of the collection {name}")
        length = Literal(schema.length)
        connection.execute(SQL(PAIRS).format(table=table, length=length, comment=comment))
        if (statement := index.statement(table)) is not None:
            connection.execute(statement)


def table_of(number: int) -> Identifier:
    """Return the table of the collection with a number."""
    return Identifier("mrrag", f"pairs_{number}")


def _require_known(server: Server, version: int) -> None:
    if version > LAYOUT:
        raise StoreError(
            f"{server.name} has tables of layout {version}, made by a later release; this one "
            f"knows {LAYOUT}: upgrade mrrag-llamaindex"
        )


def _migrate(connection: LimitedConnection) -> None:
    connection.execute(_LOCK)
    (version,) = connection.execute("SELECT version FROM mrrag.layout").fetchone() or [LAYOUT]
    for step in range(version, LAYOUT):
        connection.execute(MIGRATIONS[step])
        connection.execute(SQL("UPDATE mrrag.layout SET version = {}").format(step + 1))


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())
