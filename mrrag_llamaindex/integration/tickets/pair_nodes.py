"""Pairs as LlamaIndex nodes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from llama_index.core.schema import NodeWithScore, TextNode

from mrrag_llamaindex.integration.tickets.stamping import METADATA_KEY, Evidence

if TYPE_CHECKING:
    from mrrag_llamaindex.store.chroma.store import Hit


def evidence_of(hit: Hit) -> Evidence:
    """Turn a hit into a node whose only LLM text is the report.

    Patient id, study id, image path and the user's metadata stay in ``node.metadata`` for the
    application to read; all of them are excluded from LLM and embedding text.
    """
    own = {
        "patient_id": hit.patient_id,
        "study_id": hit.study_id,
        "image_path": hit.image_path,
        "missing": hit.missing,
    }
    metadata = {**hit.metadata, **{key: value for key, value in own.items() if value is not None}}
    node = TextNode(
        id_=hit.pair_id,
        text=hit.report,
        metadata=metadata,
        excluded_llm_metadata_keys=sorted(metadata),
        excluded_embed_metadata_keys=sorted(metadata),
    )
    return Evidence(node, hit.score, terms_of(hit))


def terms_of(hit: Hit) -> dict[str, float]:
    """Return the four similarity terms of a hit; the last counts only where it has a weight."""
    return {
        "image_text": hit.image_text,
        "image_image": hit.image_image,
        "text_text": hit.text_text,
        "text_image": hit.text_image,
    }


def add_facts(nodes: Sequence[NodeWithScore], facts: Sequence[Mapping[str, Any]]) -> None:
    """Add to what ``metadata["mrrag"]`` says of nodes that were made for this query."""
    for item, more in zip(nodes, facts, strict=True):
        item.node.metadata[METADATA_KEY].update(more)
