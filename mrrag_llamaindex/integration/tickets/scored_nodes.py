"""Scored nodes: documents whose metadata says how they were ranked, hidden from LLM text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from llama_index.core.schema import BaseNode, NodeWithScore, TextNode

from mrrag_llamaindex.steering.ifa import min_max_lambdas

if TYPE_CHECKING:
    from mrrag_llamaindex.store.hits import Hit

METADATA_KEY = "mrrag"


def scored_node(node: BaseNode, score: float | None, facts: Mapping[str, Any]) -> NodeWithScore:
    """Return a copy of ``node`` whose ``metadata["mrrag"]`` holds its score and ``facts``.

    Parameters
    ----------
    node : BaseNode
        Not changed.
    score : float or None
        Fused MCR score; None for a node that is kept without one.
    facts : mapping of str to value
        For example the similarity terms. LLM and embedding text hold none of them.
    """
    fields = node.model_dump(exclude={"class_name"})
    fields["metadata"] = {**node.metadata, METADATA_KEY: {"score": score, **facts}}
    for keys in ("excluded_llm_metadata_keys", "excluded_embed_metadata_keys"):
        fields[keys] = [*fields[keys], METADATA_KEY]
    return NodeWithScore(node=type(node)(**fields), score=score)


def node_of_hit(hit: Hit) -> NodeWithScore:
    """Return a hit as a scored node whose only LLM text is the report.

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
    return scored_node(node, hit.score, hit.terms)


def add_ranks(nodes: Sequence[NodeWithScore], facts: Sequence[Mapping[str, Any]]) -> None:
    """Add rank, lambda and further facts to ``metadata["mrrag"]`` of scored nodes, in place.

    Parameters
    ----------
    nodes : sequence of NodeWithScore
        All that one query returns, best first; made by this module.
    facts : sequence of mapping
        One per node.

    Notes
    -----
    ``rank`` counts from 1. ``lambda`` is min-max of the scores over ``nodes``. An LLM call takes
    it anew over the documents that its prompt really holds, see `Answer.lambdas`.
    """
    lambdas = min_max_lambdas([item.score for item in nodes])
    rows = zip(nodes, lambdas, facts, strict=True)
    for rank, (item, lambda_, more) in enumerate(rows, start=1):
        item.node.metadata[METADATA_KEY].update({"rank": rank, "lambda": lambda_, **more})
