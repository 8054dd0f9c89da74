"""`MRRAGIndex`: image/report pairs in Chroma, as a LlamaIndex index."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from copy import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llama_index.core.callbacks import CallbackManager
from llama_index.core.data_structs import IndexDict
from llama_index.core.schema import Document
from llama_index.core.utils import get_tqdm_iterable

from mrrag_llamaindex import defaults
from mrrag_llamaindex.errors import InputError
from mrrag_llamaindex.integration.engines.documents import PairStorageContext, pair_of_node
from mrrag_llamaindex.integration.engines.index_engines import IndexEngines
from mrrag_llamaindex.integration.engines.index_lifecycle import IndexLifecycle
from mrrag_llamaindex.integration.inputs.options import parameters, shared_out
from mrrag_llamaindex.store.backends import Where
from mrrag_llamaindex.store.ingest.ingest import IngestReport, ingest_pairs
from mrrag_llamaindex.store.learned_files import (
    GivenCalibration,
    GivenWeights,
    calibration_of,
    weights_of,
)
from mrrag_llamaindex.store.protocol import PairStore
from mrrag_llamaindex.store.schema import StoreSchema
from mrrag_llamaindex.towers.loading import load_towers

if TYPE_CHECKING:
    from mrrag_llamaindex.store.pair import Pair
    from mrrag_llamaindex.towers.protocol import DualTower

_INGEST_OPTIONS = parameters(ingest_pairs, "pairs", "store", "towers")


class MRRAGIndex(IndexEngines, IndexLifecycle):
    """Image/report pairs, ready for ``as_query_engine`` and ``as_chat_engine``.

    Build it with `from_pairs` or `from_store`.

    Parameters
    ----------
    store : PairStore
    towers : DualTower
        The towers that the store was made with.
    weights : FusionWeights, QueryGatedWeights or path, optional
        Default: ``fusion_weights.json`` in the store's folder if it is there, else equal weights. A
        store on a server, in memory or in a given client has no folder: give them.
    calibration : Calibration, path or False, optional
        Default: ``calibration.json`` in the store's folder if it is there. False: none.
    callback_manager : CallbackManager, optional
        LlamaIndex's, handed on to the retrievers. Default: that of ``Settings``.
    show_progress : bool
        Show a bar while pairs are embedded.

    Attributes
    ----------
    weights : FusionWeights or QueryGatedWeights
    calibration : Calibration or None
    report : IngestReport or None
        What `from_pairs` or the last `add_pairs` added, updated and skipped.

    Raises
    ------
    StoreError
        If the store was made with other towers.
    InputError
        If the weights were learned on other towers, or the calibration belongs to other towers or
        other weights.
    """

    index_struct_cls = IndexDict

    def __init__(
        self,
        store: PairStore,
        towers: DualTower,
        weights: GivenWeights = None,
        calibration: GivenCalibration = None,
        *,
        callback_manager: CallbackManager | None = None,
        show_progress: bool = False,
    ) -> None:
        store.check_towers(towers.identity)
        self.store = store
        self.towers = towers
        self.weights = weights_of(store, weights)
        self.calibration = calibration_of(store, self.weights, calibration)
        self.report: IngestReport | None = None
        super().__init__(
            index_struct=IndexDict(),
            storage_context=PairStorageContext.empty(),
            callback_manager=callback_manager,
            show_progress=show_progress,
            transformations=[],
        )

    def __deepcopy__(self, _: object) -> MRRAGIndex:
        """Return an index over the same store and towers."""
        return copy(self)

    @classmethod
    def from_pairs(
        cls,
        pairs: Iterable[Pair],
        towers: DualTower | str = defaults.PHANTOM,
        persist_dir: str | Path | None = None,
        *,
        weights: GivenWeights = None,
        calibration: GivenCalibration = None,
        collection: str = "pairs",
        device: str = "auto",
        strict: bool = True,
        progress: Callable[[int], None] | None = None,
        show_progress: bool = False,
        callback_manager: CallbackManager | None = None,
        **ingest_options: Any,
    ) -> MRRAGIndex:
        """Embed pairs into a new or existing store.

        Parameters
        ----------
        pairs : iterable of Pair
        towers : DualTower or str
            Towers, or what `load_towers` takes: ``"phantom"``, a folder, a hub id.
        persist_dir : path, optional
            Folder of the store; in memory without it.
        weights, calibration
            As for the class.
        collection : str
            Of the store; one place holds several.
        device : str
            Of towers that are loaded here: a torch device, or ``"auto"``, CUDA where present, else
            CPU.
        strict : bool
            Raise at the first pair that cannot be used; else go on and list it in ``report``.
        progress : callable, optional
            Called with the number of pairs done.
        show_progress, callback_manager
            As for the class.
        **ingest_options
            Other options of `ingest_pairs`.

        Raises
        ------
        InputError, StoreError, TowerError
        """
        shared_out(ingest_options, "from_pairs", _INGEST_OPTIONS)  # before a store is made
        towers = load_towers(towers, device=device) if isinstance(towers, str) else towers
        store = PairStore.open_or_create(
            "memory" if persist_dir is None else persist_dir,
            StoreSchema.of(towers),
            collection=collection,
        )
        index = cls(
            store,
            towers,
            weights,
            calibration,
            callback_manager=callback_manager,
            show_progress=show_progress,
        )
        index.add_pairs(pairs, strict=strict, progress=progress, **ingest_options)
        return index

    @classmethod
    def from_store(
        cls,
        path_or_client: Where | PairStore,
        *,
        towers: DualTower | str | None = None,
        weights: GivenWeights = None,
        calibration: GivenCalibration = None,
        collection: str = "pairs",
        device: str = "auto",
    ) -> MRRAGIndex:
        """Open a store; it remembers its towers.

        Parameters
        ----------
        path_or_client : path, URL, chromadb client, LlamaIndex vector store or PairStore
            See docs/stores.md for the URLs.
            A `PairStore` is taken as it is open, whatever ``collection`` says.
        towers : DualTower or str, optional
            Only needed when the store's own towers cannot be found where they were.
        weights, calibration
            As for the class.
        collection : str
        device : str
            As in `from_pairs`.

        Raises
        ------
        StoreError
            If there is no such store, or it was made with other towers.
        TowerError
            If its towers cannot be loaded.
        InputError
            If weights or calibration, given or beside the store, belong to something else.
        """
        store = (
            path_or_client
            if isinstance(path_or_client, PairStore)
            else PairStore.open(path_or_client, collection=collection)
        )
        if towers is None:
            if not store.towers_source:
                raise InputError(
                    "this store's towers existed only in memory when it was made; give them: "
                    "MRRAGIndex.from_store(..., towers=...)"
                )
            towers = store.towers_source
        towers = load_towers(towers, device=device) if isinstance(towers, str) else towers
        return cls(store, towers, weights, calibration)

    @classmethod
    def from_documents(cls, documents: Sequence[Document], **options: Any) -> MRRAGIndex:  # type: ignore[override]
        """Make pairs of documents, whole, and embed them; see `pair_of_node` and `from_pairs`."""
        return cls.from_pairs([pair_of_node(document) for document in documents], **options)

    def add_pairs(self, pairs: Iterable[Pair], **options: Any) -> IngestReport:
        """Embed and upsert pairs; see `ingest_pairs` for the options."""
        (given,) = shared_out(options, "add_pairs", _INGEST_OPTIONS)
        bar = get_tqdm_iterable(pairs, self._show_progress, "Embedding pairs")
        self.report = ingest_pairs(bar, self.store, self.towers, **given)
        return self.report
