"""An index of pairs as LlamaIndex's apps change it: insert, update, refresh, delete."""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from llama_index.core.data_structs import IndexDict
from llama_index.core.indices.base import BaseIndex
from llama_index.core.schema import BaseNode, Document
from llama_index.core.storage.docstore.types import RefDocInfo

from mrrag_llamaindex.errors import InputError
from mrrag_llamaindex.integration.engines.documents import pair_of_node
from mrrag_llamaindex.integration.inputs.options import unknown_option
from mrrag_llamaindex.store.ingest.ingest import IngestReport
from mrrag_llamaindex.store.pair import Pair
from mrrag_llamaindex.store.protocol import PairStore


class IndexLifecycle(BaseIndex[IndexDict]):
    """The host's own methods on documents and nodes, done on pairs or refused by name.

    A pair is a document of one node, and all three have its id.
    """

    store: PairStore

    @abstractmethod
    def add_pairs(self, pairs: Iterable[Pair], **options: Any) -> IngestReport:
        """Embed and upsert pairs."""

    def insert(self, document: Document, **options: Any) -> None:
        """Embed a document as a pair, in place of one with its id."""
        self.insert_nodes([document], **options)

    async def ainsert(self, document: Document, **options: Any) -> None:
        """Embed a document as a pair without blocking the event loop."""
        await asyncio.to_thread(self.insert, document, **options)

    def insert_nodes(self, nodes: Sequence[BaseNode], **options: Any) -> None:
        """Embed nodes as pairs, in place of those with their ids.

        Parameters
        ----------
        nodes : sequence of BaseNode
        **options
            Those of `ingest_pairs`; ``missing="keep"`` takes texts without an image.

        Raises
        ------
        InputError
            At the first node that cannot be a pair.
        """
        self.add_pairs([pair_of_node(node) for node in nodes], **{"strict": True, **options})

    async def ainsert_nodes(self, nodes: Sequence[BaseNode], **options: Any) -> None:
        """Embed nodes as pairs without blocking the event loop."""
        await asyncio.to_thread(self.insert_nodes, nodes, **options)

    def update_ref_doc(self, document: Document, **options: Any) -> None:
        """Embed a document anew, in place of the pair with its id.

        Parameters
        ----------
        document : Document
        **options
            Those of `insert`, also as the host nests them: in ``insert_kwargs``;
            ``delete_from_docstore`` in ``delete_kwargs`` makes no difference.
        """
        self.insert(document, **_flat(options))

    async def aupdate_ref_doc(self, document: Document, **options: Any) -> None:
        """Embed a document anew without blocking the event loop."""
        await self.ainsert(document, **options)

    def refresh_ref_docs(self, documents: Sequence[Document], **options: Any) -> list[bool]:
        """Embed the documents that are new or changed, and say of each whether it was.

        Parameters
        ----------
        documents : sequence of Document
        **options
            As for `update_ref_doc`, also in ``update_kwargs``.
        """
        ids = [document.node_id for document in documents]
        before = self.store.fingerprints(ids)
        self.insert_nodes(documents, **_flat(options))
        after = self.store.fingerprints(ids)
        return [before.get(pair_id) != after.get(pair_id) for pair_id in ids]

    async def arefresh_ref_docs(self, documents: Sequence[Document], **options: Any) -> list[bool]:
        """Embed what is new or changed without blocking the event loop."""
        return await asyncio.to_thread(self.refresh_ref_docs, documents, **options)

    def delete_nodes(
        self, node_ids: list[str], delete_from_docstore: bool = False, **options: Any
    ) -> None:
        """Delete pairs from the store; ``delete_from_docstore`` makes no difference.

        Raises
        ------
        InputError
            If a pair is not in the store; none is deleted then.
        """
        if options:
            raise unknown_option(next(iter(options)), "delete_nodes", ["delete_from_docstore"])
        missing = set(node_ids) - self.store.fingerprints(node_ids).keys()
        if missing:
            raise InputError(f"there is no pair {sorted(missing)[0]!r}, so nothing was deleted")
        self.store.delete(node_ids)

    async def adelete_nodes(
        self, node_ids: list[str], delete_from_docstore: bool = False, **options: Any
    ) -> None:
        """Delete pairs without blocking the event loop."""
        await asyncio.to_thread(self.delete_nodes, node_ids, **options)

    def delete_ref_doc(
        self, ref_doc_id: str, delete_from_docstore: bool = False, **options: Any
    ) -> None:
        """Delete the pair of that id: a pair is its own document."""
        self.delete_nodes([ref_doc_id], **options)

    async def adelete_ref_doc(
        self, ref_doc_id: str, delete_from_docstore: bool = False, **options: Any
    ) -> None:
        """Delete a pair without blocking the event loop."""
        await self.adelete_nodes([ref_doc_id], **options)

    @property
    def ref_doc_info(self) -> dict[str, RefDocInfo]:
        """Each pair as a document of one node."""
        return {pair_id: RefDocInfo(node_ids=[pair_id]) for pair_id in self.store.pair_ids()}

    def build_index_from_nodes(self, nodes: Sequence[BaseNode], **_: Any) -> IndexDict:
        """Refuse: the host's structure would hold no pairs."""
        raise InputError("an index of pairs is not built from nodes a second time: insert_nodes")

    def _build_index_from_nodes(self, nodes: Sequence[BaseNode], **_: Any) -> IndexDict:
        return IndexDict()

    def _insert(self, nodes: Sequence[BaseNode], **options: Any) -> None:
        self.insert_nodes(nodes, **options)

    def _delete_node(self, node_id: str, **options: Any) -> None:
        self.delete_nodes([node_id], **options)


def _flat(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options that the host nests in one another as those of an insertion."""
    flat = dict(options)
    for name in ("update_kwargs", "insert_kwargs", "delete_kwargs"):
        flat |= flat.pop(name, {})
    flat.pop("delete_from_docstore", None)
    return flat
