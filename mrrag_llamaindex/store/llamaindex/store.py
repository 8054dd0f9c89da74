"""The pair store in a vector store of LlamaIndex: ids from its search, scores from its vectors."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
from llama_index.core.schema import BaseNode
from numpy.typing import NDArray
from typing_extensions import Self

from mrrag_llamaindex.errors import StoreError
from mrrag_llamaindex.store.backends import Where, store_errors
from mrrag_llamaindex.store.filters import Filter
from mrrag_llamaindex.store.hits import Exclusion, StoredPair
from mrrag_llamaindex.store.llamaindex import learned
from mrrag_llamaindex.store.llamaindex.engine import Engine
from mrrag_llamaindex.store.llamaindex.engines import engine_of
from mrrag_llamaindex.store.llamaindex.narrowing import allowing, narrowed
from mrrag_llamaindex.store.llamaindex.probe import probe_nodes, prove, prove_removal
from mrrag_llamaindex.store.llamaindex.record import (
    ADDED_KEY,
    ID_KEY,
    KIND_KEY,
    decode,
    encode,
    make_node,
    node_id,
)
from mrrag_llamaindex.store.protocol import PairStore
from mrrag_llamaindex.store.schema import StoreSchema

_SCHEMA = node_id("manifest", "schema")


class VectorStorePairStore(PairStore):
    """Pairs in a vector store of LlamaIndex, which proves at each opening that its order is ours.

    Beside the pairs it holds a node with the schema and the known vectors of `probe`.
    """

    def __init__(self, engine: Engine, schema: StoreSchema) -> None:
        super().__init__(engine.name, schema)
        self._engine = engine
        self._last_added = 0
        self._asked: dict[str, int | None] = {}  # by the last `fingerprints`; None: not there

    @classmethod
    def _create(cls, where: Where, collection: str, schema: StoreSchema) -> Self:
        engine = engine_of(where, collection)
        try:
            with store_errors(f"creating {engine.name}", detail=True):
                if engine.exists() and _manifest(engine) is not None:
                    raise StoreError(
                        f"{engine.name} exists already: open it, or choose another collection"
                    )
                schema = replace(schema, hnsw=engine.create(schema.length, schema.hnsw))
            unit = np.eye(1, schema.length, dtype=np.float32)[0]
            content = json.dumps(schema.to_metadata())
            nodes = [*probe_nodes(schema), make_node("manifest", "schema", unit, content)]
            try:
                with store_errors(f"writing to {engine.name}"):
                    engine.add(nodes, [])
                prove(engine, schema)
                prove_removal(engine, schema)
            except BaseException as error:
                _undo(engine, [node.node_id for node in nodes], error)
                raise
        except BaseException:
            engine.close()
            raise
        return cls(engine, schema)

    @classmethod
    def _open(cls, where: Where, collection: str) -> Self:
        engine = engine_of(where, collection)
        try:
            with store_errors(f"opening {engine.name}", detail=True):
                if not engine.exists():
                    raise StoreError(f"there is no {engine.name}: make it with `mrrag ingest`")
                engine.check()
                content = _manifest(engine)
            metadata = None if content is None else json.loads(content)
            schema = StoreSchema.from_metadata(metadata, engine.name)
            prove(engine, schema)
        except BaseException:
            engine.close()
            raise
        return cls(engine, schema)

    @classmethod
    def _exists(cls, where: Where, collection: str) -> bool:
        engine = engine_of(where, collection)
        try:
            with store_errors(f"looking for {engine.name}", detail=True):
                return engine.exists() and _manifest(engine) is not None
        finally:
            engine.close()

    def close(self) -> None:
        """Release the place; a store in memory ends here. May be called again."""
        self._engine.close()

    def _learned(self, name: str) -> str | None:
        return learned.read(self._engine, name)

    def _keep_learned(self, name: str, text: str) -> None:
        learned.keep(self._engine, self.schema, name, text)

    def _count(self) -> int:
        return self._engine.count()

    def _pair_ids(self) -> Iterable[str]:
        return [pair_id for _, pair_id in sorted(self._engine.listing())]

    def _fetch(self, pair_ids: Sequence[str], *, complete: bool) -> Iterable[StoredPair]:
        names = [node_id("pair", pair_id) for pair_id in pair_ids]
        nodes = self._engine.get(names, vectors=complete)
        if not complete:
            self._asked = {**dict.fromkeys(pair_ids), **_added(nodes)}
        return [decode(node) for node in nodes]

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
        narrow = None
        if self._engine.filterable:
            narrow = narrowed(allowing(exclude or Exclusion(), filters))
        width = max(width, self.schema.hnsw.ef_search if self.schema.hnsw else 0)
        names = self._engine.search(vector, count, "pair", narrow, width)
        pairs = self._decoded(names, fresh=False)
        if len(pairs) < count and len(pairs) < self._engine.count(narrow):
            # An index may give up early among few matches, an engine has a limit, and what was
            # found may have been deleted since: all of them are scored.
            listed = [node_id("pair", pair_id) for _, pair_id in self._engine.listing(narrow)]
            pairs = self._decoded(listed)
        scored = [(float(pair.vector @ vector), pair) for pair in pairs]
        return sorted(scored, key=lambda item: (-item[0], item[1].pair_id))[:count]

    def _decoded(self, names: Sequence[str], *, fresh: bool = True) -> list[StoredPair]:
        return [decode(node) for node in self._engine.get(names, fresh=fresh)]

    def _write(self, pairs: Sequence[StoredPair]) -> None:
        with self._engine.lock:
            earlier = self._earlier([pair.pair_id for pair in pairs])
            now = max(time.time_ns() // 1000, self._last_added + 1)
            self._last_added = now + len(pairs)
            nodes = [
                encode(
                    pair,
                    earlier.get(pair.pair_id, now + place),
                    filterable=self._engine.filterable,
                )
                for place, pair in enumerate(pairs)
            ]
            self._engine.add(nodes, [node_id("pair", pair_id) for pair_id in earlier])

    def _earlier(self, pair_ids: Sequence[str]) -> dict[str, int]:
        """Return when those of the pairs that are stored were first written.

        An ingest has asked for their fingerprints just now. An engine that replaces a node by
        itself needs no surer answer: what another thread has written since only changes its place
        in the order.
        """
        asked, self._asked = self._asked, {}
        if self._engine.filterable and all(pair_id in asked for pair_id in pair_ids):
            known = ((pair_id, asked[pair_id]) for pair_id in pair_ids)
            return {pair_id: added for pair_id, added in known if added is not None}
        names = [node_id("pair", pair_id) for pair_id in pair_ids]
        return _added(self._engine.get(names, vectors=False))

    def _delete(self, pair_ids: Sequence[str]) -> None:
        with self._engine.lock:
            self._engine.delete([node_id("pair", pair_id) for pair_id in pair_ids])


def _undo(engine: Engine, names: Sequence[str], error: BaseException) -> None:
    """Remove what was written to a store that is refused, and say so if that fails as well."""
    try:
        engine.drop(names)
    except Exception:
        raise StoreError(
            f"{error}. What was written to find that out, nodes with {KIND_KEY!r}, could not be "
            "removed: remove them"
        ) from error


def _added(nodes: Iterable[BaseNode]) -> dict[str, int]:
    return {str(node.metadata[ID_KEY]): int(node.metadata[ADDED_KEY]) for node in nodes}


def _manifest(engine: Engine) -> str | None:
    """Return the schema of a collection as it is kept, None if it holds none."""
    nodes = engine.get([_SCHEMA])
    return nodes[0].get_content() if nodes else None
