"""LlamaIndex's documents and nodes as pairs, and what an index of pairs cannot do with them."""

from __future__ import annotations

from typing import Any, NoReturn

from llama_index.core.graph_stores import SimpleGraphStore
from llama_index.core.schema import BaseNode, MetadataMode
from llama_index.core.storage.docstore import SimpleDocumentStore
from llama_index.core.storage.index_store import SimpleIndexStore
from llama_index.core.storage.storage_context import StorageContext
from llama_index.core.vector_stores import SimpleVectorStore

from mrrag_llamaindex.errors import InputError
from mrrag_llamaindex.integration.inputs.images import image_of_node
from mrrag_llamaindex.integration.tickets.nodes import without_scores
from mrrag_llamaindex.store.pair import Pair


def pair_of_node(node: BaseNode) -> Pair:
    """Return a document or node as a pair: its text is the report, its image the image.

    Parameters
    ----------
    node : BaseNode
        For example an ``ImageDocument(text=report, image_path=..., metadata={"patient_id": ...})``.
        The pair's id is its id. How it would show its metadata (``text_template``, excluded keys)
        is not kept, nor is metadata that says nothing (None, NaN).

    Raises
    ------
    InputError
        As `Pair`; and if the node is a piece of a document, whose report it would cut.
    """
    node = without_scores(node)
    if node.ref_doc_id is not None and node.ref_doc_id != node.node_id:
        raise InputError(
            f"node {node.node_id!r} is a piece of document {node.ref_doc_id!r}, and a pair is an "
            "image with its whole report: insert the document"
        )
    metadata = dict(node.metadata)
    patient_id = metadata.pop("patient_id", None)
    metadata.pop("image_path", None)
    return Pair(
        image_of_node(node),
        node.get_content(metadata_mode=MetadataMode.NONE),
        node.node_id,
        None if patient_id is None else str(patient_id),
        metadata,
    )


class _Unwritten:
    """Refuses to be written, and to be loaded from: it holds no pairs."""

    def persist(self, *_: Any, **__: Any) -> NoReturn:
        """Refuse: what would be written holds no pairs."""
        raise InputError(
            "an MRRAGIndex is not persisted through its storage context: what that writes holds no "
            "pairs, and load_index_from_storage would make an empty stock index of it. The pairs "
            "are on disk already where the index was made with from_pairs(..., persist_dir=...); "
            "open them with MRRAGIndex.from_store(folder)"
        )

    to_dict = persist


class _NoIndexes(_Unwritten, SimpleIndexStore):
    index_structs = get_index_struct = _Unwritten.persist


class _NoDocuments(_Unwritten, SimpleDocumentStore):
    pass


class _NoVectors(_Unwritten, SimpleVectorStore):
    pass


class _NoGraph(_Unwritten, SimpleGraphStore):
    pass


class PairStorageContext(_Unwritten, StorageContext):
    """The storage context of an index whose pairs lie in their store, and nowhere else."""

    @classmethod
    def empty(cls) -> PairStorageContext:
        """Return one with nothing in it, none of whose stores is written or loaded from."""
        context = cls.from_defaults(
            docstore=_NoDocuments(),
            index_store=_NoIndexes(),
            vector_store=_NoVectors(),
            graph_store=_NoGraph(),
        )
        assert isinstance(context, cls)
        return context
