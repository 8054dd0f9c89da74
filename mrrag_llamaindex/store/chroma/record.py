"""How a pair is written as a Chroma record, and read back.

The record has the shape that LlamaIndex's `ChromaVectorStore` writes and reads (the keys
``_node_content``, ``_node_type``, ``document_id``, ``doc_id``, ``ref_doc_id``), so that a stock
vector store on the same collection returns a `TextNode` whose id is the pair's id and whose text
is the report. The node's JSON is made here rather than by LlamaIndex so that the store does not
need to import it; a test compares the two.

All metadata is excluded from the node's LLM and EMBED text. The report is the document; a label,
a patient or a path in the prompt would be a leak.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike

from mrrag_llamaindex.errors import InputError, StoreError
from mrrag_llamaindex.store.checksums import text_checksum, vector_checksum
from mrrag_llamaindex.store.filters import IDENTIFIERS, Comparison, Filter
from mrrag_llamaindex.store.hits import StoredPair
from mrrag_llamaindex.store.pair import MetadataValue

FINGERPRINT_KEY: Final = "mrrag_fingerprint"

CHECKSUM_KEY: Final = "mrrag_checksum"
"""Of the vector, then of the texts: 16 hexadecimal digits each."""

MOST_KEYS: Final = 5_000
"""Metadata of a pair. From about 5,450 on, Chroma cannot apply a record, and from then on fails at
whatever is asked of the collection."""

_FIELDS: Final = ("image_path", "patient_id", "missing")
"""Fields of a pair that are metadata of its record, under their own names, as everywhere else."""

_LLAMAINDEX = frozenset({"_node_content", "_node_type", "document_id", "doc_id", "ref_doc_id"})


def encode(pair: StoredPair) -> tuple[str, dict[str, MetadataValue]]:
    """Return the Chroma document (the report) and the flat metadata of a pair.

    Raises
    ------
    InputError
        If there are more than `MOST_KEYS`.
    """
    if len(pair.metadata) > MOST_KEYS:
        raise InputError(
            f"pair {pair.pair_id!r} has {len(pair.metadata):,} metadata, and Chroma keeps "
            f"{MOST_KEYS:,} at most: leave some out, or use another store"
        )
    node_metadata: dict[str, MetadataValue] = dict(pair.metadata)
    for name in _FIELDS:
        if (value := getattr(pair, name)) is not None:
            node_metadata[name] = value
    hidden = list(node_metadata)
    node = {
        "id_": pair.pair_id,
        "embedding": None,
        "metadata": node_metadata,
        "excluded_embed_metadata_keys": hidden,
        "excluded_llm_metadata_keys": hidden,
        "relationships": {},
        "metadata_template": "{key}: {value}",
        "metadata_separator": "\n",
        "text": "",
        "mimetype": "text/plain",
        "start_char_idx": None,
        "end_char_idx": None,
        "text_template": "{metadata_str}\n\n{content}",
        "class_name": "TextNode",
    }
    record = dict(node_metadata)
    record[FINGERPRINT_KEY] = pair.fingerprint
    record["_node_content"] = json.dumps(node, ensure_ascii=False)
    record[CHECKSUM_KEY] = vector_checksum(pair.vector.astype("<f4").tobytes()) + text_checksum(
        pair.pair_id, pair.report, str(record["_node_content"])
    )
    record["_node_type"] = "TextNode"
    # LlamaIndex's word for "this node has no source document".
    record.update({"document_id": "None", "doc_id": "None", "ref_doc_id": "None"})
    return pair.report, record


def decode(
    pair_id: str,
    metadata: Mapping[str, Any] | None,
    vector: ArrayLike | None = None,
    document: str | None = None,
) -> StoredPair:
    """Return what `encode` was given; a record written by others gives what can be known of it.

    Parameters
    ----------
    pair_id, metadata
        The record's, as Chroma returns them.
    vector, document
        Left out of a record that was not fetched completely.

    Raises
    ------
    StoreError
        If a complete record does not have the checksum that it was written with.
    """
    top = dict(metadata or {})
    checksum = top.get(CHECKSUM_KEY)
    if vector is not None and isinstance(checksum, str):
        values = np.asarray(vector, dtype="<f4").tobytes()
        texts = text_checksum(pair_id, document or "", str(top.get("_node_content")))
        if checksum != vector_checksum(values) + texts:
            raise StoreError(
                f"the record of pair {pair_id!r} is not as it was written: the store is damaged, "
                "or another program has changed it; see `mrrag verify`"
            )
    # The node's own copy is preferred: a pair's metadata may hold a key (such as doc_id) that
    # LlamaIndex overwrites on the record.
    own = {key: value for key, value in top.items() if key not in _LLAMAINDEX}
    content = top.get("_node_content")
    if isinstance(content, str):
        try:
            node = json.loads(content)
        except json.JSONDecodeError:
            node = None
        if isinstance(node, dict) and isinstance(node.get("metadata"), dict):
            own = node["metadata"]
    ours = {FINGERPRINT_KEY, CHECKSUM_KEY, *_FIELDS}
    return StoredPair(
        pair_id=pair_id,
        report=document or "",
        **{name: own.get(name) or None for name in _FIELDS},
        metadata={key: value for key, value in own.items() if key not in ours},
        vector=np.asarray([] if vector is None else vector, dtype=np.float32),
        fingerprint=top.get(FINGERPRINT_KEY) or "",
    )


def where_of(condition: Filter | None) -> dict[str, Any] | None:
    """Return a Chroma ``where`` that every matching record satisfies, `None` if there is none.

    Only what selects is translated. What leaves out (``!=``, ``nin``, "not") leaves most records,
    whose ids Chroma would list first: fetching more candidates and dropping some costs less.
    """
    if condition is None:
        return None
    if isinstance(condition, Comparison):
        return _comparison(condition)
    parts = [where_of(part) for part in condition.filters]
    if condition.condition == "and":
        return _joined("$and", [part for part in parts if part is not None])
    if condition.condition == "or" and None not in parts:
        return _joined("$or", parts)
    return None


def _comparison(condition: Comparison) -> dict[str, Any] | None:
    key, value = condition.key, condition.value
    if condition.operator in ("==", "in") and key != "pair_id" and key not in _LLAMAINDEX:
        values = [spelt for item in condition.values for spelt in _spellings(key, item)]
        return _joined("$or", [{key: {"$eq": item}} for item in values])
    symbol = {">": "$gt", ">=": "$gte", "<": "$lt", "<=": "$lte"}.get(condition.operator)
    # Chroma orders numbers only.
    if symbol and isinstance(value, (int, float)) and not isinstance(value, bool):
        if isinstance(value, float) and math.isfinite(value) and not value.is_integer():
            # It drops a bound's fraction before it compares integers: 40 would not be below 40.5.
            below = condition.operator in ("<", "<=")
            return {key: {"$lte": math.ceil(value)} if below else {"$gte": math.floor(value)}}
        return {key: {symbol: value}}
    return None


def _spellings(key: str, value: MetadataValue) -> list[MetadataValue]:
    """Return the values whose text is the same, where an identifier may have been a number."""
    values = [value]
    if key in IDENTIFIERS:
        for kind in (int, float):
            try:
                number = kind(value)
            except ValueError:
                continue
            if str(number) == value:
                values.append(number)
        if value in ("True", "False"):
            values.append(value == "True")
    return values


def _joined(symbol: str, parts: list[Any]) -> dict[str, Any] | None:
    """Chroma joins two or more."""
    return {symbol: parts} if len(parts) > 1 else parts[0] if parts else None
