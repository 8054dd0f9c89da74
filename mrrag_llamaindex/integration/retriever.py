"""`MRRAGRetriever`: one fused query over image/report pairs, inside any LlamaIndex engine."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.callbacks import CallbackManager
from llama_index.core.schema import NodeWithScore, QueryBundle

from mrrag_llamaindex import defaults
from mrrag_llamaindex.errors import EvidenceError, InputError
from mrrag_llamaindex.images.query_image import QueryImage
from mrrag_llamaindex.integration.query_image import MissingImage, read_query_image
from mrrag_llamaindex.integration.selection import Selection
from mrrag_llamaindex.integration.tickets.nodes import with_ticket
from mrrag_llamaindex.integration.tickets.scored_nodes import add_ranks, node_of_hit
from mrrag_llamaindex.mcr.score import FusionWeights
from mrrag_llamaindex.store.hits import Exclusion
from mrrag_llamaindex.store.protocol import PairStore

if TYPE_CHECKING:
    from mrrag_llamaindex.images.load import ImageSource
    from mrrag_llamaindex.mcr.calibration import Calibration
    from mrrag_llamaindex.mcr.weights_file import AnyWeights
    from mrrag_llamaindex.store.hits import Hit
    from mrrag_llamaindex.towers.protocol import DualTower


class MRRAGRetriever(BaseRetriever):
    """Retrieve pairs by the fused score of image-text, image-image and text-text similarity.

    The query image is ``QueryBundle.image_path``, or that of an enclosing `query_image` block.

    Parameters
    ----------
    store : PairStore
    towers : DualTower
        The towers that the store was made with; others are refused.
    weights : FusionWeights or QueryGatedWeights
        The second gives each question its own; ``metadata["mrrag"]["weights"]`` of every node says
        which were used.
    similarity_top_k : int
        Documents returned; with ``minimum_probability`` their maximum number.
    candidates : int
        Pairs fetched; at least ``similarity_top_k``.
    exclude : Exclusion
        Pairs, patients and studies that may not be evidence, in an evaluation for example.
    on_missing_image : {"error", "ignore"}
        What to do with a question without an image; "ignore" ranks by text alone.
    stamped : bool
        Whether nodes carry a ticket for `MRRAGLLaVA`. Turn it off for any other LLM.
    calibration : Calibration, optional
        Gives every node a ``probability`` that it supports a right answer, in its
        ``metadata["mrrag"]``; the two options below need it.
    minimum_probability : float, optional
        Leave out documents that are less probable than this; ``left_out`` in the metadata says how
        many of the ``similarity_top_k`` were.
    minimum_documents : int
        Minimum documents kept, however improbable.
    abstain : bool
        Raise `NoRelevantCase` where the best document's probability is below the threshold for
        which the calibration showed its error rate.

    Raises
    ------
    StoreError
        If the store was made with other towers.
    InputError
        If the calibration belongs to other towers or weights, or an option needs one, or needs a
        threshold that it does not have.
    """

    def __init__(
        self,
        store: PairStore,
        towers: DualTower,
        weights: AnyWeights | None = None,
        *,
        similarity_top_k: int = defaults.MAX_DOCUMENTS,
        candidates: int = defaults.CANDIDATES,
        exclude: Exclusion | None = None,
        on_missing_image: MissingImage = "error",
        stamped: bool = True,
        calibration: Calibration | None = None,
        minimum_probability: float | None = None,
        minimum_documents: int = 1,
        abstain: bool = False,
        callback_manager: CallbackManager | None = None,
    ) -> None:
        store.check_towers(towers.identity)
        self.store = store
        self.towers = towers
        self.selection = Selection(
            similarity_top_k, calibration, minimum_probability, minimum_documents, abstain
        )
        self.weights = weights or FusionWeights()
        self.candidates = max(candidates, similarity_top_k)
        self.exclude = exclude or Exclusion()
        self.on_missing_image = on_missing_image
        self.stamped = stamped
        super().__init__(callback_manager=callback_manager)

    @property
    def weights(self) -> AnyWeights:
        """What the terms are fused by; a calibration that belongs to others refuses them."""
        return self._weights

    @weights.setter
    def weights(self, weights: AnyWeights) -> None:
        self.selection.check(self.towers.identity, weights)
        self._weights = weights

    @property
    def similarity_top_k(self) -> int:
        """Maximum number of documents returned."""
        return self.selection.maximum_documents

    def hits(self, question: str, image: ImageSource | None) -> list[Hit]:
        """Return the candidates of a question with their similarity terms, best first."""
        return self._search(question, None if image is None else QueryImage.read(image))[0]

    def _search(self, question: str, image: QueryImage | None) -> tuple[list[Hit], FusionWeights]:
        image_vector = text_vector = None
        if image is not None:
            image_vector = self.towers.embed_images([image.rgb])[0]
        if question.strip():
            text_vector = self.towers.embed_texts([question])[0]
        weights = self.weights.weights_for(image_vector, text_vector)
        hits = self.store.query(
            image_vector, text_vector, weights, self.candidates, exclude=self.exclude
        )
        return hits, weights

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        image = read_query_image(query_bundle, self.on_missing_image)
        question = query_bundle.query_str
        if image is None and not question.strip():
            raise InputError("there is neither an image nor a question to search with")
        hits, weights = self._search(question, image)
        if not hits:
            raise EvidenceError(
                f"no documents found: the store holds {len(self.store)} pairs and none of them is "
                "left for this question; ingest pairs, or exclude fewer"
            )
        complete = image is not None and bool(question.strip())
        facts = self.selection.select([hit.score for hit in hits], complete=complete)
        nodes = [node_of_hit(hit) for hit in hits[: len(facts)]]
        add_ranks(nodes, [{"weights": weights.as_dict(), **more} for more in facts])
        return with_ticket(nodes, question=question, image=image) if self.stamped else nodes

    async def _aretrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return await asyncio.to_thread(self._retrieve, query_bundle)
