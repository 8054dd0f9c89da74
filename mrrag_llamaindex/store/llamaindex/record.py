"""How a pair is written as a LlamaIndex node, and read back.

A vector store may keep a node's metadata in columns of one type each, and its ids as UUIDs. Hence
the id is one that is made of the pair's, and the pair is one text of JSON beside its report. All
metadata is excluded from what a language model or an embedding reads of the node.
"""

from __future__ import annotations

import json
import re
import uuid
from typing import Any, Final, Literal, TypeAlias

import numpy as np
from llama_index.core.schema import BaseNode, MetadataMode, TextNode
from numpy.typing import NDArray

from mrrag_llamaindex.errors import StoreError
from mrrag_llamaindex.store.checksums import text_checksum, vector_checksum
from mrrag_llamaindex.store.hits import StoredPair
from mrrag_llamaindex.store.pair import STUDY_KEY

Kind: TypeAlias = Literal["pair", "probe", "manifest", "learned"]
"""A pair; a known vector by which the order is proven; the schema; a file of learned values."""

KIND_KEY: Final = "mrrag_kind"
ID_KEY: Final = "mrrag_id"
ADDED_KEY: Final = "mrrag_added"
"""When the pair was first written, microseconds since 1970: the order of pairs."""

FILTER_PREFIX: Final = "pair_"
"""Before the keys that only filters read."""

_RECORD_KEY: Final = "mrrag_record"
_NAMESPACE: Final = uuid.UUID("5b0c8b1e-5c86-5f0e-9d2f-6d72726167aa")
_FILTERABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
_FIELDS: Final = ("pair_id", "patient_id", "image_path", "missing", "metadata", "fingerprint")


def node_id(kind: Kind, name: str) -> str:
    """Return the id of a node: the same for the same name, whoever writes it."""
    return str(uuid.uuid5(_NAMESPACE, f"{kind}:{name}"))


def make_node(
    kind: Kind, name: str, vector: NDArray[np.float32], text: str = "", **metadata: Any
) -> TextNode:
    """Return a node of a kind; `metadata` is flat."""
    values = {KIND_KEY: kind, ID_KEY: name, **metadata}
    return TextNode(
        id_=node_id(kind, name),
        text=text,
        embedding=vector.tolist(),
        metadata=values,
        excluded_embed_metadata_keys=list(values),
        excluded_llm_metadata_keys=list(values),
    )


def is_filterable(key: str) -> bool:
    """Return whether a key of the metadata is written where the filters of an engine see it."""
    return _FILTERABLE.fullmatch(key) is not None


def encode(pair: StoredPair, added: int, *, filterable: bool) -> TextNode:
    """Return the node of a pair.

    Parameters
    ----------
    pair, added
        The pair, and its place in the order.
    filterable
        Whether to write what a filter sees beside the record: needs a store that takes other
        keys for each node.
    """
    record = json.dumps({name: getattr(pair, name) for name in _FIELDS}, ensure_ascii=False)
    values: dict[str, Any] = {}
    if filterable:
        seen = {key: value for key, value in pair.filter_values.items() if is_filterable(key)}
        # Always there: what is compared with a key that is absent is unknown to some engines.
        seen |= {key: getattr(pair, key) or "" for key in ("patient_id", STUDY_KEY)}
        values = {FILTER_PREFIX + key: value for key, value in seen.items()}
    values |= {
        ADDED_KEY: added,
        _RECORD_KEY: _checksum(pair.vector, pair.report, record) + record,
    }
    return make_node("pair", pair.pair_id, pair.vector, pair.report, **values)


def decode(node: BaseNode) -> StoredPair:
    """Return what `encode` was given, without its vector where the node has none.

    Raises
    ------
    StoreError
        If it is not as it was written.
    """
    stored = str(node.metadata.get(_RECORD_KEY, ""))
    checksum, record = stored[:32], stored[32:]
    report = node.get_content(metadata_mode=MetadataMode.NONE)
    vector = np.asarray(node.embedding if node.embedding is not None else [], dtype=np.float32)
    try:
        fields = json.loads(record)
        if node.embedding is not None and checksum != _checksum(vector, report, record):
            raise ValueError
        return StoredPair(report=report, vector=vector, **fields)
    except (ValueError, TypeError):
        raise StoreError(
            f"the record of pair {node.metadata.get(ID_KEY)!r} is not as it was written: the store "
            "is damaged, or another program has changed it; see `mrrag verify`"
        ) from None


def _checksum(vector: NDArray[np.float32], report: str, record: str) -> str:
    values = vector.astype("<f4").tobytes()
    return vector_checksum(values) + text_checksum(report, record)
