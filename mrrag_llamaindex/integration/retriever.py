"""`MRRAGRetriever`: one fused query over image/report pairs, inside any LlamaIndex engine."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Literal

from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.callbacks import CallbackManager
from llama_index.core.schema import NodeWithScore, QueryBundle

from mrrag_llamaindex import defaults
from mrrag_llamaindex.errors import EvidenceError, InputError
from mrrag_llamaindex.images import load_image
from mrrag_llamaindex.integration.pair_nodes import evidence_of
from mrrag_llamaindex.integration.query_image import image_of
from mrrag_llamaindex.integration.stamping import plain_nodes, stamp
from mrrag_llamaindex.retrieval.score import FusionWeights
from mrrag_llamaindex.retrieval.store import Exclusion, PairStore

if TYPE_CHECKING:
    from mrrag_llamaindex.images import ImageSource
    from mrrag_llamaindex.retrieval.store import Hit
    from mrrag_llamaindex.towers.protocol import DualTower


class MRRAGRetriever(BaseRetriever):
    """Retrieve pairs by the fused score of image-text, image-image and text-text similarity.

    The query image is ``QueryBundle.image_path``, or that of an enclosing `query_image` block.

    Parameters
    ----------
    store : PairStore
    towers : DualTower
        The towers that the store was made with; others are refused.
    weights : FusionWeights
    similarity_top_k : int
        Documents returned.
    candidates : int
        Pairs fetched; at least ``similarity_top_k``.
    exclude : Exclusion
        Pairs, patients and studies that may not be evidence, in an evaluation for example.
    on_missing_image : {"error", "ignore"}
        What to do with a question without an image; "ignore" ranks by text alone.
    stamped : bool
        Whether nodes carry a ticket for `MRRAGLLaVA`. Turn it off for any other LLM.

    Raises
    ------
    StoreError
        If the store was made with other towers.
    """

    def __init__(
        self,
        store: PairStore,
        towers: DualTower,
        weights: FusionWeights | None = None,
        *,
        similarity_top_k: int = defaults.MAX_DOCUMENTS,
        candidates: int = defaults.CANDIDATES,
        exclude: Exclusion | None = None,
        on_missing_image: Literal["error", "ignore"] = "error",
        stamped: bool = True,
        callback_manager: CallbackManager | None = None,
    ) -> None:
        if similarity_top_k < 1:
            raise ValueError(f"similarity_top_k must be at least 1, not {similarity_top_k}")
        store.check_towers(towers.identity)
        self.store = store
        self.towers = towers
        self.weights = weights or FusionWeights()
        self.similarity_top_k = similarity_top_k
        self.candidates = max(candidates, similarity_top_k)
        self.exclude = exclude or Exclusion()
        self.on_missing_image = on_missing_image
        self.stamped = stamped
        super().__init__(callback_manager=callback_manager)

    def hits(self, question: str, image: ImageSource | None) -> list[Hit]:
        """Return the candidates of a question with their three terms, best first."""
        image_vector = text_vector = None
        if image is not None:
            loaded = load_image(image, what="query image")
            image_vector = self.towers.embed_images([loaded])[0]
        if question.strip():
            text_vector = self.towers.embed_texts([question])[0]
        return self.store.query(
            image_vector, text_vector, self.weights, self.candidates, exclude=self.exclude
        )

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        image = image_of(query_bundle)
        question = query_bundle.query_str
        if image is None and self.on_missing_image == "error":
            raise InputError(
                "the question has no image: pass QueryBundle(question, image_path=...) or ask "
                'inside "with query_image(...)"; to search by text alone, build the retriever '
                'with on_missing_image="ignore"'
            )
        if image is None and not question.strip():
            raise InputError("there is neither an image nor a question to search with")
        hits = self.hits(question, image)[: self.similarity_top_k]
        if not hits:
            raise EvidenceError(
                f"no documents found: the store holds {len(self.store)} pairs and none of them is "
                "left for this question; ingest pairs, or exclude fewer"
            )
        evidence = [evidence_of(hit) for hit in hits]
        if not self.stamped:
            return plain_nodes(evidence)
        return stamp(evidence, question=question, image=image)

    async def _aretrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return await asyncio.to_thread(self._retrieve, query_bundle)
