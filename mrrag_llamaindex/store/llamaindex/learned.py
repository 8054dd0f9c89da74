"""What was learned for a store, in nodes beside its pairs.

An engine may limit a text, and weights that depend on the question are long: so a text is several
nodes. The first says how many there are and what all of them give, since nothing makes an engine
write them at once.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from mrrag_llamaindex.errors import StoreError
from mrrag_llamaindex.store.checksums import text_checksum
from mrrag_llamaindex.store.llamaindex.engine import Engine
from mrrag_llamaindex.store.llamaindex.record import make_node, node_id
from mrrag_llamaindex.store.schema import StoreSchema

MOST_CHARACTERS: Final = 16_000
"""Of a node; of four bytes each, the 65,535 that Milvus keeps hold them."""

_PARTS: Final = "mrrag_parts"
_CHECKSUM: Final = "mrrag_checksum"


def read(engine: Engine, name: str) -> str | None:
    """Return the text that is kept under a name, None for none.

    Raises
    ------
    StoreError
        If it is not all there.
    """
    with engine.lock:
        first = engine.get([_id(name, 0)])
        if not first:
            return None
        metadata = first[0].metadata
        count = int(metadata.get(_PARTS, 1))
        names = [_id(name, part) for part in range(count)]
        texts = {node.node_id: node.get_content() for node in engine.get(names)}
    text = "".join(texts.get(one, "") for one in names)
    if metadata.get(_CHECKSUM, text_checksum(text)) != text_checksum(text):
        raise StoreError(
            f"{name} in {engine.name} was not written to its end: copy the store again, or delete "
            "the nodes of that name"
        )
    return text


def keep(engine: Engine, schema: StoreSchema, name: str, text: str) -> None:
    """Keep a text under a name, in place of an earlier one."""
    starts = range(0, max(len(text), 1), MOST_CHARACTERS)
    parts = [text[start : start + MOST_CHARACTERS] for start in starts]
    whole = {_PARTS: len(parts), _CHECKSUM: text_checksum(text)}
    unit = np.eye(1, schema.length, dtype=np.float32)[0]
    nodes = [
        make_node("learned", _part_name(name, number), unit, part, **whole)
        for number, part in enumerate(parts)
    ]
    with engine.lock:
        earlier = engine.get([_id(name, 0)])
        before = max((int(node.metadata.get(_PARTS, 1)) for node in earlier), default=0)
        names = [node.node_id for node in nodes]
        present = [node.node_id for node in engine.get(names, vectors=False)]
        engine.add(nodes, present)
        engine.delete([_id(name, number) for number in range(len(parts), before)])


def _part_name(name: str, number: int) -> str:
    return f"{name}/{number}" if number else name


def _id(name: str, number: int) -> str:
    return node_id("learned", _part_name(name, number))
