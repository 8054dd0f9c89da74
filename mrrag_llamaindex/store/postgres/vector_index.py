"""The HNSW index of a collection: what pgvector can index, and how wide it is searched.

pgvector indexes vectors of up to 2,000 numbers as they are and of up to 4,000 in half precision
(from its version 0.7 on). The stored vector is always the whole one, and what an index finds is
scored by it. Longer ones are compared one by one.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Final

from psycopg.sql import SQL, Composable, Identifier, Literal

from mrrag_llamaindex.errors import StoreError
from mrrag_llamaindex.store.postgres.connection import Statement
from mrrag_llamaindex.store.schema import HNSWSettings

MOST_NUMBERS: Final = 16_000
"""Of a vector in pgvector."""

MOST_INDEXED: Final = 2_000
MOST_HALVED: Final = 4_000

WIDEST: Final = 1_000
"""Largest ``hnsw.ef_search``."""

_HALVES: Final = (0, 7)
_ITERATIVE: Final = (0, 8)
"""Versions of pgvector."""

_LIMITS: Final = {"max_neighbors": (2, 100), "ef_construction": (4, 1000), "ef_search": (1, WIDEST)}

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class VectorIndex:
    """How the vectors of a collection are searched.

    Parameters
    ----------
    length
        Of a vector.
    version
        Of pgvector.
    hnsw
        Settings of the index.
    half
        Whether an index of half precision was made in place of a whole one.

    Raises
    ------
    StoreError
        If pgvector cannot keep such vectors, or has no such settings.
    """

    length: int
    version: tuple[int, ...]
    hnsw: HNSWSettings
    half: bool = False

    def __post_init__(self) -> None:
        if self.length > MOST_NUMBERS:
            raise StoreError(
                f"a pair's vector has {self.length:,} numbers, and pgvector keeps {MOST_NUMBERS:,} "
                "at most: use towers of a smaller dimension, or another store"
            )
        for name, (least, most) in _LIMITS.items():
            value = getattr(self.hnsw, name)
            if not least <= value <= most:
                raise StoreError(f"{name} is {value}; pgvector takes {least} to {most}")
        if self.hnsw.ef_construction < 2 * self.hnsw.max_neighbors:
            raise StoreError(
                f"ef_construction is {self.hnsw.ef_construction}; pgvector needs at least twice "
                f"max_neighbors, {2 * self.hnsw.max_neighbors}"
            )

    @property
    def halved(self) -> bool:
        """Whether the index holds the vectors in half precision."""
        long = MOST_INDEXED < self.length <= MOST_HALVED
        return self.half or (long and self.version >= _HALVES)

    @property
    def exists(self) -> bool:
        """Whether there is an index at all."""
        return self.length <= MOST_INDEXED or self.halved

    @property
    def iterative(self) -> bool:
        """Whether a search goes on until enough has been found, see `settings`."""
        return self.version >= _ITERATIVE

    @property
    def indexed(self) -> Composable:
        """What the index holds of a row, and what it compares a question's ``%(vector)s`` with."""
        half = SQL("embedding::halfvec({})").format(Literal(self.length))
        return SQL("({})").format(half) if self.halved else Identifier("embedding")

    @property
    def question(self) -> Composable:
        """The question in the index's own type."""
        half = SQL("%(vector)s::vector::halfvec({})").format(Literal(self.length))
        return half if self.halved else SQL("%(vector)s")

    def statement(self, table: Identifier) -> Statement | None:
        """Return what makes the index, None if there is to be none."""
        if not self.exists:
            logger.warning(
                "vectors of %d numbers have no index in this pgvector (%s): every question is "
                "compared with all pairs",
                self.length,
                ".".join(map(str, self.version)),
            )
            return None
        operators = SQL("halfvec_ip_ops" if self.halved else "vector_ip_ops")
        return SQL(
            "CREATE INDEX ON {} USING hnsw ({} {}) WITH (m = {}, ef_construction = {})"
        ).format(
            table,
            self.indexed,
            operators,
            Literal(self.hnsw.max_neighbors),
            Literal(self.hnsw.ef_construction),
        )

    def width(self, count: int, asked: int) -> int:
        """Return how many candidates a search keeps that must return `count`."""
        return max(count, asked, self.hnsw.ef_search)

    def passes(self, width: int, selective: bool) -> list[bool]:
        """Return the searches to try in turn, each by whether it goes on until it has enough.

        Going on is dear where a condition leaves out nearly all, so that it comes second; but only
        so can more candidates be kept than `WIDEST`.
        """
        if self.iterative and width > WIDEST:
            return [True]
        return [False, True] if self.iterative and selective else [False]

    def settings(self, width: int, goes_on: bool) -> dict[str, str]:
        """Return the server's settings for a search of that width."""
        # What the planner thinks of a condition must not decide whether the index is used.
        settings = {"hnsw.ef_search": str(min(width, WIDEST)), "enable_sort": "off"}
        if goes_on:
            settings["hnsw.iterative_scan"] = "relaxed_order"
        return settings

    def candidates(self, count: int, width: int, goes_on: bool) -> int:
        """Return how many of the index's candidates are scored to find the best `count`.

        More than those, where the index orders by other numbers than the score (half precision),
        or may return a worse pair before a better one: a search that goes on is less thorough the
        further out it gets.
        """
        if self.halved or width > WIDEST:
            return width
        return max(2 * count, WIDEST // 10) if goes_on else count

    def suffices(self, count: int) -> bool:
        """Return whether a search of the index can return so many."""
        return self.exists and (self.iterative or count <= WIDEST)
