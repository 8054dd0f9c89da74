"""`MRRAGPostprocessor`: MCR scores and a ticket for the nodes of any retriever."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NoReturn

import numpy as np
from llama_index.core.bridge.pydantic import Field, PrivateAttr
from llama_index.core.callbacks import CBEventType, EventPayload
from llama_index.core.instrumentation.events.rerank import ReRankEndEvent, ReRankStartEvent
from llama_index.core.llms import LLM
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import NodeWithScore, QueryBundle
from llama_index_instrumentation import get_dispatcher
from typing_extensions import Self

from mrrag_llamaindex import defaults
from mrrag_llamaindex.errors import EvidenceError, InputError
from mrrag_llamaindex.generation.scheduling.off_loop import in_thread
from mrrag_llamaindex.images.query_image import QueryImage
from mrrag_llamaindex.integration.foreign_nodes import (
    Scored,
    pair_ids,
    score_unknown,
    with_report,
)
from mrrag_llamaindex.integration.inputs.answering import resolved_llm
from mrrag_llamaindex.integration.inputs.options import shared_out
from mrrag_llamaindex.integration.inputs.room import question_room, require_room
from mrrag_llamaindex.integration.inputs.study_scores import CombineImages, asked_views, score_views
from mrrag_llamaindex.integration.inputs.vectors import study_vectors
from mrrag_llamaindex.integration.query_image import (
    MissingImage,
    current_query_image,
    read_query_image,
)
from mrrag_llamaindex.integration.selection import Selection
from mrrag_llamaindex.integration.tickets.nodes import (
    Evidence,
    add_ranks,
    evidence_of,
    other_image,
    scored_node,
    without_scores,
)
from mrrag_llamaindex.integration.tickets.readers import reads_tickets
from mrrag_llamaindex.integration.tickets.stamps import stamp
from mrrag_llamaindex.mcr.blocks import Blocks
from mrrag_llamaindex.mcr.score import FusionWeights
from mrrag_llamaindex.store.learned_files import GivenCalibration, calibration_of
from mrrag_llamaindex.store.protocol import PairStore

if TYPE_CHECKING:
    from mrrag_llamaindex.integration.index import MRRAGIndex
    from mrrag_llamaindex.mcr.weights_file import AnyWeights
    from mrrag_llamaindex.towers.protocol import DualTower

dispatcher = get_dispatcher(__name__)


class MRRAGPostprocessor(BaseNodePostprocessor):
    """Rescore the nodes of any retriever by MCR and hand them to `MRRAGLLaVA` with a ticket.

    Put it last: a later reranker would change what is shown, not what steers.

    A node belongs to the pair whose id is its ``pair_id`` metadata, its node id, or the id of
    the document that it was split from, in this order.

    Parameters
    ----------
    index : MRRAGIndex, optional
        Source of store, towers, weights and calibration; or give ``store``, ``towers`` and
        ``weights``.
    llm : LLM, optional
        The one that the nodes are for: they carry no ticket for any but `MRRAGLLaVA`. Without it
        they carry one, which nobody else sees.
    store : PairStore, optional
        Needed without an index; refused with one.
    towers : DualTower, optional
        Those that the store was made with. Needed without an index; refused with one.
    weights : FusionWeights or QueryGatedWeights, optional
        Take precedence over the index's. Without either: equal weights.
    calibration : Calibration, path or False, optional
        Gives every scored node a ``probability``. Without an index: none by default. Other
        weights than the index's need their own, or False.
    top_n : int
        Documents kept; with ``minimum_probability`` their maximum number.
    minimum_probability : float, optional
        As for `MRRAGRetriever`. There is no ``abstain``: a threshold's error rate was shown for the
        best document of the whole store, not for what another retriever brings.
    minimum_documents : int
    unknown : {"embed", "keep", "error"}
        What to do with a node that the store does not hold: embed its text (and its
        ``image_path``, where it has one) on the fly; keep it without a score, last and
        unsteered; or raise.
    combine_images : {"mean", "max"}
        As for `MRRAGRetriever`.
    on_missing_image : {"error", "ignore"}
    stamped : bool, optional
        As for `MRRAGRetriever`.

    Raises
    ------
    StoreError
        At construction, if the store was made with other towers.
    InputError
        At construction, if there is neither an index nor a store with its towers, or both; if the
        calibration belongs to other towers or weights, or there is none where one is needed.
    """

    top_n: int = Field(default=defaults.MAX_DOCUMENTS, ge=1, description="Documents kept.")
    minimum_probability: float | None = Field(
        default=None, ge=0, le=1, description="Less probable documents are left out."
    )
    minimum_documents: int = Field(default=1, ge=1, description="Minimum documents kept.")
    unknown: Literal["embed", "keep", "error"] = Field(
        default="embed", description="What to do with nodes that the pair store does not hold."
    )
    combine_images: CombineImages = Field(
        default="mean",
        description="Score of a question with several images, see inputs.study_scores.",
    )
    on_missing_image: MissingImage = Field(
        default="error", description="What to do with a question without an image."
    )
    stamped: bool | None = Field(
        default=None, description="Whether nodes carry a ticket; True: also for code of your own."
    )

    _store: PairStore = PrivateAttr()
    _towers: Any = PrivateAttr()
    _weights: Any = PrivateAttr()
    _calibration: Any = PrivateAttr()
    _room: int | None = PrivateAttr(None)

    def __init__(
        self,
        index: MRRAGIndex | None = None,
        *,
        llm: LLM | None = None,
        store: PairStore | None = None,
        towers: DualTower | None = None,
        weights: AnyWeights | None = None,
        calibration: GivenCalibration = None,
        **data: Any,
    ) -> None:
        shared_out(data, type(self).__name__, type(self).model_fields)
        super().__init__(**data)
        if index is not None:
            if store is not None or towers is not None:
                raise InputError(
                    "MRRAGPostprocessor takes an index, or a store and its towers: not both, "
                    "because they could be two stores"
                )
            store, towers, weights = index.store, index.towers, weights or index.weights
            calibration = index.calibration if calibration is None else calibration
        if store is None or towers is None:
            raise InputError("MRRAGPostprocessor needs an index, or a store and its towers")
        store.check_towers(towers.identity)
        reader = None if llm is None else resolved_llm(llm, type(self).__name__)
        if self.stamped is None and reader is not None and not reads_tickets(reader):
            self.stamped = False
        if llm is not None and self.stamped is not False:
            self._room = question_room(llm)
        self._store = store
        self._towers = towers
        self._weights = weights or FusionWeights()
        # None means False here: a postprocessor does not look for files beside the store.
        self._calibration = calibration_of(store, self._weights, calibration or False)
        self._selection()

    @classmethod
    def class_name(cls) -> str:
        """Return the stable name of the class, for serialisation."""
        return "MRRAGPostprocessor"

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        """Return a copy over the same store and towers."""
        return self.model_copy()

    def __getstate__(self) -> NoReturn:
        """Refuse to be pickled: LlamaIndex would leave the store out with a line in its log."""
        raise InputError(
            "MRRAGPostprocessor holds an open store and its towers, and cannot be sent to another "
            "process: make it there"
        )

    def _selection(self) -> Selection:
        """Build it anew each time: the fields may be assigned to."""
        return Selection(
            self.top_n, self._calibration, self.minimum_probability, self.minimum_documents
        )

    def _postprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        return self.about(nodes, query_bundle, current_query_image())

    async def _apostprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        # The block around the question is known here and not in the thread.
        return await in_thread(self.about, nodes, query_bundle, current_query_image())

    def about(
        self,
        nodes: list[NodeWithScore],
        query_bundle: QueryBundle | None,
        enclosing: QueryImage | None,
    ) -> list[NodeWithScore]:
        """Rank nodes for a question about its own image or, without one, about ``enclosing``."""
        if query_bundle is None:
            raise InputError("MRRAGPostprocessor needs the query: pass query_bundle=")
        if not nodes:
            return []
        dispatcher.event(
            ReRankStartEvent(
                query=query_bundle, nodes=nodes, top_n=self.top_n, model_name=self.class_name()
            )
        )
        with self.callback_manager.event(
            CBEventType.RERANKING,
            payload={
                EventPayload.NODES: nodes,
                EventPayload.MODEL_NAME: self.class_name(),
                EventPayload.QUERY_STR: query_bundle.query_str,
                EventPayload.TOP_K: self.top_n,
            },
        ) as event:
            result = self._rescore(nodes, query_bundle, enclosing)
            event.on_end(payload={EventPayload.NODES: result})
        dispatcher.event(ReRankEndEvent(nodes=result))
        return result

    def _rescore(
        self, nodes: list[NodeWithScore], query: QueryBundle, enclosing: QueryImage | None
    ) -> list[NodeWithScore]:
        require_room(query.query_str, self._room)
        earlier = evidence_of(nodes)
        known = None if earlier is None else earlier.image
        if not query.image_path and enclosing is None:
            enclosing = known  # an engine that is bound to an image says so to the retriever alone
        image = read_query_image(query, self.on_missing_image, known, enclosing)
        if known is not None and image != known:
            raise other_image()
        images, text = study_vectors(self._towers, query.embedding_strs, image)
        views, weights = asked_views(
            images, text, self._weights, Blocks.of(self._towers), self.combine_images
        )
        plain = [without_scores(item.node) for item in nodes]
        ids = list(dict.fromkeys(pair_id for node in plain for pair_id in pair_ids(node)))
        hits = score_views(self._store, views, ids)
        scored: dict[int, Scored] = {}
        for position, node in enumerate(plain):
            hit = next((hits[pair_id] for pair_id in pair_ids(node) if pair_id in hits), None)
            if hit is not None:
                scored[position] = hit.score, hit.terms
                plain[position] = with_report(node, hit.report)
        unknown = {i: node for i, node in enumerate(plain) if i not in scored}
        if unknown and self.unknown == "error":
            raise EvidenceError(
                f"node {next(iter(unknown.values())).node_id!r} is not in the pair store; ingest "
                'its pair, or choose unknown="embed" or unknown="keep"'
            )
        if unknown and self.unknown == "embed":
            scored |= score_unknown(unknown, self._towers, views)
        ranking = []
        evidence = Evidence(query.query_str, image)
        for position, (node, item) in enumerate(zip(plain, nodes, strict=True)):
            score, terms = scored.get(position, (None, {}))
            previous = {} if item.score is None else {"previous_score": item.score}
            ranking.append(scored_node(node, score, {**terms, **previous}, evidence))
        # The sort is stable, so nodes without a score keep their order behind the others.
        ranking.sort(key=lambda item: -np.inf if item.score is None else item.score, reverse=True)
        scores = [item.score for item in ranking]
        facts = self._selection().select(scores, complete=image is not None)
        kept = ranking[: len(facts)]
        add_ranks(kept, [{"weights": weights.as_dict(), **more} for more in facts])
        if self.stamped is False:
            return kept
        return stamp(kept, query.query_str, image, elsewhere=self.stamped is True)
