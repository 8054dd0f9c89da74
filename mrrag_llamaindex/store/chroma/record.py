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
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mrrag_llamaindex.store.pair import STUDY_KEY, MetadataValue, Pair

PATIENT_KEY = "mrrag_patient_id"
MISSING_KEY = "mrrag_missing"
FINGERPRINT_KEY = "mrrag_fingerprint"
IMAGE_PATH_KEY = "image_path"

_OURS = frozenset({PATIENT_KEY, MISSING_KEY, FINGERPRINT_KEY, IMAGE_PATH_KEY})
_LLAMAINDEX = frozenset({"_node_content", "_node_type", "document_id", "doc_id", "ref_doc_id"})


@dataclass(frozen=True)
class RecordFields:
    """A record's metadata, decoded."""

    patient_id: str | None
    study_id: str | None
    image_path: str | None
    missing: str | None
    metadata: dict[str, MetadataValue]


def encode(pair: Pair, fingerprint: str) -> tuple[str, dict[str, MetadataValue]]:
    """Return the Chroma document and metadata of a pair.

    Parameters
    ----------
    pair
        The pair; an image that is a path is stored as its absolute path, any other image is not
        stored at all.
    fingerprint
        Digest of the pair's contents, ``""`` for none.

    Returns
    -------
    document : str
        The report, ``""`` when there is none.
    metadata : dict
        Flat metadata, including the LlamaIndex node.
    """
    node_metadata: dict[str, MetadataValue] = dict(pair.metadata)
    if isinstance(pair.image, (str, os.PathLike)):
        node_metadata[IMAGE_PATH_KEY] = str(Path(pair.image).absolute())
    if pair.patient_id is not None:
        node_metadata[PATIENT_KEY] = pair.patient_id
    if pair.missing is not None:
        node_metadata[MISSING_KEY] = pair.missing
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
    record[FINGERPRINT_KEY] = fingerprint
    record["_node_content"] = json.dumps(node, ensure_ascii=False)
    record["_node_type"] = "TextNode"
    # LlamaIndex's word for "this node has no source document".
    record.update({"document_id": "None", "doc_id": "None", "ref_doc_id": "None"})
    return pair.report or "", record


def decode(metadata: Mapping[str, Any] | None) -> RecordFields:
    """Return what `encode` stored; a record written by others gives what can be known of it.

    Parameters
    ----------
    metadata
        The record's metadata as Chroma returns it.
    """
    top = dict(metadata or {})
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
    study = own.get(STUDY_KEY)
    return RecordFields(
        patient_id=own.get(PATIENT_KEY) or None,
        study_id=None if study is None else str(study),
        image_path=own.get(IMAGE_PATH_KEY) or None,
        missing=own.get(MISSING_KEY) or None,
        metadata={key: value for key, value in own.items() if key not in _OURS},
    )


def removals(old: Iterable[str], new: Mapping[str, MetadataValue]) -> dict[str, None]:
    """Return the keys of `old` that `new` lacks, as Chroma deletes them.

    Chroma merges metadata on upsert: without this, a replaced record would keep the study, the
    path or the labels of the record before it.
    """
    return {key: None for key in old if key not in new}
