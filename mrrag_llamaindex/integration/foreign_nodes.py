"""Nodes that another retriever brought: which pair they are, and what scores without one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from llama_index.core.schema import BaseNode, MetadataMode
from PIL.Image import Image

from mrrag_llamaindex.images.load import load_image
from mrrag_llamaindex.integration.inputs.images import image_of_node
from mrrag_llamaindex.integration.inputs.study_scores import AskedView
from mrrag_llamaindex.mcr.blocks import Blocks
from mrrag_llamaindex.mcr.score import fuse, similarity_terms
from mrrag_llamaindex.towers.protocol import DualTower

Scored = tuple[float, dict[str, float]]
"""A fused score and the similarity terms that it is made of."""


def pair_ids(node: BaseNode) -> list[str]:
    """Return the ids under which a node's pair may be stored, the likeliest first."""
    ids = (node.metadata.get("pair_id"), node.node_id, node.ref_doc_id)
    return [str(pair_id) for pair_id in ids if pair_id]


def with_report(node: BaseNode, report: str) -> BaseNode:
    """Return a node of a known pair; one without text, as an image node, gets the pair's report."""
    if not report or node.get_content(metadata_mode=MetadataMode.NONE).strip():
        return node
    copy = node.model_copy()
    copy.set_content(report)
    return copy


def score_unknown(
    nodes: Mapping[int, BaseNode],
    towers: DualTower,
    views: Sequence[AskedView],
) -> dict[int, Scored]:
    """Embed the text and the image of nodes that are no known pairs, and score them.

    Parameters
    ----------
    nodes : mapping of int to BaseNode
        By position. A half that a node lacks stays zero, as in the store: its terms are exactly 0.
    towers : DualTower
        Those that the question's vectors are from.
    views : sequence of AskedView
        The question's; a node has the best score that one of them gives it.
    """
    texts = {i: node.get_content(metadata_mode=MetadataMode.NONE) for i, node in nodes.items()}
    texts = {i: text for i, text in texts.items() if text.strip()}
    images = {i: image for i, node in nodes.items() if (image := _image(node)) is not None}
    blocks = Blocks.of(towers)
    image_half = np.zeros((len(nodes), blocks.image), np.float32)
    text_half = np.zeros((len(nodes), blocks.text), np.float32)
    row = {position: index for index, position in enumerate(nodes)}
    if texts:
        text_half[[row[i] for i in texts]] = towers.embed_texts(list(texts.values()))
    if images:
        image_half[[row[i] for i in images]] = towers.embed_images(list(images.values()))
    scored: dict[int, Scored] = {}
    for view in views:
        terms = similarity_terms(
            view.image, view.text, image_half, text_half, terms=blocks.terms, blocks=blocks
        )
        scores = fuse(terms, view.weights)
        for position, i in row.items():
            if position not in scored or scores[i] > scored[position][0]:
                own = dict(zip(blocks.terms, terms[i].tolist(), strict=True))
                scored[position] = float(scores[i]), view.told(own)
    return scored


def _image(node: BaseNode) -> Image | None:
    source = image_of_node(node)
    return None if source is None else load_image(source, what=f"image of node {node.node_id!r}")
