"""`MRRAGRetriever`: one fused query over image/report pairs, inside any LlamaIndex engine."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import replace
from typing import TYPE_CHECKING

from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.callbacks import CallbackManager
from llama_index.core.indices.vector_store import VectorIndexRetriever
from llama_index.core.schema import NodeWithScore, QueryBundle
from typing_extensions import Self

from mrrag_llamaindex import defaults
from mrrag_llamaindex.errors import EvidenceError, InputError
from mrrag_llamaindex.generation.scheduling.off_loop import in_thread
from mrrag_llamaindex.images.query_image import QueryImage
from mrrag_llamaindex.integration.inputs.filters import GivenFilters, store_filter
from mrrag_llamaindex.integration.inputs.images import QuestionImages, read_image
from mrrag_llamaindex.integration.inputs.options import (
    parameters,
    require_count,
    require_one_of,
)
from mrrag_llamaindex.integration.inputs.study_scores import (
    COMBINE_IMAGES,
    CombineImages,
    asked_views,
    query_views,
)
from mrrag_llamaindex.integration.inputs.vectors import study_vectors
from mrrag_llamaindex.integration.query_image import (
    MissingImage,
    enclosing_image,
    read_query_image,
)
from mrrag_llamaindex.integration.selection import Selection
from mrrag_llamaindex.integration.tickets.nodes import Evidence, add_ranks, node_of_hit
from mrrag_llamaindex.integration.tickets.stamps import stamp
from mrrag_llamaindex.mcr.blocks import Blocks
from mrrag_llamaindex.mcr.score import FusionWeights
from mrrag_llamaindex.store.hits import ONE_PER, Exclusion, OnePer, one_per_case
from mrrag_llamaindex.store.learned_files import require_weights
from mrrag_llamaindex.store.protocol import PairStore

if TYPE_CHECKING:
    from mrrag_llamaindex.mcr.calibration import Calibration
    from mrrag_llamaindex.mcr.weights_file import AnyWeights
    from mrrag_llamaindex.store.filters import Filter
    from mrrag_llamaindex.store.hits import Hit
    from mrrag_llamaindex.towers.protocol import DualTower


_PRIVATE_OF_STOCK = frozenset(
    f"_{name}" for name in parameters(VectorIndexRetriever) - parameters(BaseRetriever)
) - {"_index"}


class MRRAGRetriever(BaseRetriever):
    """Retrieve pairs by the fused score of image-text, image-image and text-text similarity.

    The query image is ``QueryBundle.image_path``, or that of an enclosing `query_image` block.
    ``QueryBundle.embedding`` is not read: stock retrievers that share the question put the vector
    of their own model there.

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
    one_per : {"study", "patient", "none"}
        What takes one place at most. Of several views of one study, or of all that is stored of a
        patient, the best stands for all, and its ``metadata["mrrag"]["views"]`` names the others;
        further pairs are fetched, so that as many documents are returned. See `one_per_case`.
    combine_images : {"mean", "max"}
        Score of a pair where the question has several images, see `inputs.study_scores`.
    candidates : int
        Pairs fetched; at least ``similarity_top_k``.
    exclude : Exclusion
        Pairs, patients and studies that may not be evidence, in an evaluation for example.
    on_missing_image : {"error", "ignore"}
        What to do with a question without an image; "ignore" ranks by text alone.
    stamped : bool, optional
        Nodes carry a ticket, which engines and synthesizers of `MRRAGLLaVA` see in their LLM text
        and nobody else. True: code of your own that reads it sees the markers, too. False: none.
    filters : MetadataFilters, Comparison or Combination, optional
        What a pair's metadata must be.
    node_ids, doc_ids : sequence of str, optional
        Only these pairs; a pair is its own document.
    image : path, bytes, PIL.Image.Image, ImageDocument, ImageBlock, optional
        The image that every question is about, read here, once.
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
    callback_manager : CallbackManager, optional
        LlamaIndex's, for the events of retrieval. Default: a new one.

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
        one_per: OnePer = "study",
        combine_images: CombineImages = "mean",
        candidates: int = defaults.CANDIDATES,
        exclude: Exclusion | None = None,
        on_missing_image: MissingImage = "error",
        stamped: bool | None = None,
        filters: GivenFilters = None,
        node_ids: Sequence[str] | None = None,
        doc_ids: Sequence[str] | None = None,
        image: QuestionImages | None = None,
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
        self.candidates = max(require_count("candidates", candidates), similarity_top_k)
        if not isinstance(exclude, (Exclusion, type(None))):
            raise InputError(f"exclude is a {type(exclude).__name__}; give Exclusion(...)")
        require_one_of("one_per", one_per, ONE_PER)
        self.one_per = one_per
        require_one_of("combine_images", combine_images, COMBINE_IMAGES)
        self.combine_images = combine_images
        require_one_of("on_missing_image", on_missing_image, ("error", "ignore"))
        require_one_of("stamped", stamped, (None, True, False))
        self.exclude = exclude or Exclusion()
        self.on_missing_image = on_missing_image
        self.stamped = stamped
        self._restriction = store_filter(filters, node_ids, doc_ids)
        self.image = image
        super().__init__(callback_manager=callback_manager)

    def __deepcopy__(self, _: object) -> Self:
        """Return a copy over the same store and towers."""
        return copy(self)

    @property
    def weights(self) -> AnyWeights:
        """What the terms are fused by; a calibration that belongs to others refuses them."""
        return self._weights

    @weights.setter
    def weights(self, weights: AnyWeights) -> None:
        require_weights(weights)
        if self.selection.calibration is not None:
            self.selection.check(self.towers.identity, weights)
        self._weights = weights

    @property
    def filters(self) -> Filter | None:
        """What a pair must be, ids included; assigning replaces all of it."""
        return self._restriction

    @filters.setter
    def filters(self, filters: GivenFilters) -> None:
        self._restriction = store_filter(filters)

    @property
    def image(self) -> QueryImage | None:
        """The image that every question is about; any form of one may be assigned, and is read."""
        return self._image

    @image.setter
    def image(self, image: QuestionImages | None) -> None:
        self._image = read_image(image)

    def __setattr__(self, name: str, value: object) -> None:
        """Refuse what apps assign to a stock retriever past its options, which would do nothing."""
        if name in _PRIVATE_OF_STOCK:
            raise InputError(
                f"MRRAGRetriever has no {name!r}: give {name[1:]}= to as_retriever, or assign to "
                "similarity_top_k, filters, image or weights"
            )
        super().__setattr__(name, value)

    @property
    def similarity_top_k(self) -> int:
        """Maximum number of documents returned."""
        return self.selection.maximum_documents

    @similarity_top_k.setter
    def similarity_top_k(self, number: int) -> None:
        self.selection = replace(self.selection, maximum_documents=number)
        self.candidates = max(self.candidates, number)

    def hits(self, question: str, image: QuestionImages | None) -> list[Hit]:
        """Return the candidates of a question with their similarity terms, best first."""
        return self._search([question], read_image(image), self.candidates)[0]

    def _cases(
        self, texts: Sequence[str], image: QueryImage | None
    ) -> tuple[list[tuple[Hit, tuple[str, ...]]], FusionWeights]:
        """Search for enough hits of different cases, each with the ids of the case's others."""
        count = self.candidates
        while True:
            hits, weights = self._search(texts, image, count)
            cases = one_per_case(hits, self.one_per)
            if len(cases) >= self.similarity_top_k or len(hits) < count:
                return cases, weights
            count *= 2

    def _search(
        self, texts: Sequence[str], image: QueryImage | None, count: int
    ) -> tuple[list[Hit], FusionWeights]:
        images, text = study_vectors(self.towers, texts, image)
        views, weights = asked_views(
            images, text, self.weights, Blocks.of(self.towers), self.combine_images
        )
        excluded = self.store.with_views(self.exclude)
        return query_views(self.store, views, count, excluded, self._restriction), weights

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return self._about(query_bundle, enclosing_image(self.image))

    async def _aretrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        # The block around the question is known here and not in the thread.
        return await in_thread(self._about, query_bundle, enclosing_image(self.image))

    def _about(
        self, query_bundle: QueryBundle, enclosing: QueryImage | None
    ) -> list[NodeWithScore]:
        image = read_query_image(query_bundle, self.on_missing_image, enclosing=enclosing)
        return self.nodes_about(query_bundle.query_str, image, query_bundle.embedding_strs)

    def nodes_about(
        self, question: str, image: QueryImage | None, texts: Sequence[str] | None = None
    ) -> list[NodeWithScore]:
        """Return the nodes for a question about ``image``; ``texts`` stand for it in the search."""
        if image is None and not question.strip():
            raise InputError("there is neither an image nor a question to search with")
        cases, weights = self._cases([question] if texts is None else texts, image)
        if not cases:
            raise EvidenceError(
                f"no documents found: the store holds {len(self.store)} pairs and none of them is "
                "left for this question; ingest pairs, exclude fewer, or look at filters and ids"
            )
        complete = image is not None and bool(question.strip())
        facts = self.selection.select([hit.score for hit, _ in cases], complete=complete)
        evidence = Evidence(question, image)
        kept = list(zip(cases, facts, strict=False))
        nodes = [node_of_hit(hit, evidence) for (hit, _), _ in kept]
        add_ranks(
            nodes,
            [
                {"weights": weights.as_dict(), **({"views": list(views)} if views else {}), **more}
                for (_, views), more in kept
            ],
        )
        if self.stamped is False:
            return nodes
        return stamp(nodes, question, image, elsewhere=self.stamped is True)
