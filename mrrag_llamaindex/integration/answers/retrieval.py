"""The documents of one question, with all that is known of each, and no answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mrrag_llamaindex.integration.inputs.images import QuestionImages, read_image
from mrrag_llamaindex.integration.tickets.nodes import METADATA_KEY
from mrrag_llamaindex.mcr.score import ALL_TERMS

if TYPE_CHECKING:
    from llama_index.core.schema import NodeWithScore

    from mrrag_llamaindex.integration.index import MRRAGIndex


def retrieve(
    index: MRRAGIndex, image: QuestionImages | None, question: str, **options: Any
) -> list[dict[str, Any]]:
    """Return the documents for a question about ``image``, best first, as plain values.

    Of each its pair id, further views, rank, score, similarity terms, the weights that fused them,
    lambda, probability (None without a calibration), report, patient, study, and whether it has an
    image.

    Parameters
    ----------
    index : MRRAGIndex
    image : path, bytes, PIL.Image.Image, QueryImage, a list of these, or None
        None ranks by the question alone.
    question : str
        May be empty where there is an image.
    **options
        Those of `MRRAGRetriever`.

    Raises
    ------
    MRRAGError
    """
    retriever = index.as_retriever(stamped=False, **options)
    return [node_facts(item) for item in retriever.nodes_about(question, read_image(image))]


def node_facts(item: NodeWithScore) -> dict[str, Any]:
    """Return what is known of a retrieved document, as `retrieve` does."""
    facts = item.node.metadata[METADATA_KEY]
    return {
        **score_facts(item),
        "rank": facts["rank"],
        "weights": facts["weights"],
        "report": item.node.get_content(),
        "patient_id": item.node.metadata.get("patient_id"),
        "study_id": item.node.metadata.get("study_id"),
        "has_image": item.node.metadata.get("image_path") is not None,
    }


def score_facts(item: NodeWithScore) -> dict[str, Any]:
    """Return how a retrieved document was ranked: score, similarity terms, lambda, probability."""
    facts = item.node.metadata[METADATA_KEY]
    return {
        "pair_id": item.node.node_id,
        "views": facts.get("views", []),
        "score": facts["score"],
        **{name: facts[name] for name in ALL_TERMS if name in facts},
        "lambda": facts["lambda"],
        "probability": facts.get("probability"),
    }
