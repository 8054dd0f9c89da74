"""A vector store as an application writes one: LlamaIndex's interface, an exact scan."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from llama_index.core.bridge.pydantic import PrivateAttr
from llama_index.core.schema import BaseNode, TextNode
from llama_index.core.vector_stores.types import (
    BasePydanticVectorStore,
    MetadataFilters,
    VectorStoreQuery,
    VectorStoreQueryResult,
)


class OwnVectorStore(BasePydanticVectorStore):
    """Ranks as it is told to; `add` takes an id once, `most` is all that a query returns."""

    stores_text: bool = True
    order: Literal["ip", "cosine", "l2", "least"] = "ip"
    change: Literal["", "normalise", "clip", "round"] = ""
    most: int = 10_000
    filters: bool = True
    writable: bool = True
    removes: Literal["yes", "", "fails"] = "yes"
    _nodes: dict[str, TextNode] = PrivateAttr(default_factory=dict)

    @property
    def client(self) -> Any:
        return self._nodes

    def add(self, nodes: Any, **_: Any) -> list[str]:
        assert self.writable, "read-only"
        for node in nodes:
            assert node.node_id not in self._nodes, "an id twice"
            vector = np.array(node.embedding)
            if self.change == "normalise":
                vector /= np.linalg.norm(vector)
            elif self.change == "clip":
                vector = vector.clip(-0.5, 0.5)
            elif self.change == "round":
                vector = vector.astype(np.float16)
            self._nodes[node.node_id] = node.model_copy(update={"embedding": vector.tolist()})
        return [node.node_id for node in nodes]

    def delete(self, ref_doc_id: str, **_: Any) -> None:
        raise NotImplementedError

    def delete_nodes(self, node_ids: Any = None, filters: Any = None, **_: Any) -> None:
        assert self.writable, "read-only"
        assert self.removes != "fails", "no such method"
        for node_id in node_ids if self.removes else ():
            self._nodes.pop(node_id, None)

    def get_nodes(
        self, node_ids: list[str] | None = None, filters: MetadataFilters | None = None
    ) -> list[BaseNode]:
        if node_ids is not None:
            return [self._nodes[one] for one in node_ids if one in self._nodes]
        return [node for node in self._nodes.values() if self._passes(node, filters)]

    def query(self, query: VectorStoreQuery, **_: Any) -> VectorStoreQueryResult:
        nodes = [node for node in self._nodes.values() if self._passes(node, query.filters)]
        if not nodes:
            return VectorStoreQueryResult(nodes=[], ids=[], similarities=[])
        matrix, vector = np.array([n.embedding for n in nodes]), np.array(query.query_embedding)
        scores = matrix @ vector
        if self.order == "cosine":
            scores /= np.linalg.norm(matrix, axis=1)
        elif self.order == "l2":
            scores = -np.linalg.norm(matrix - vector, axis=1)
        elif self.order == "least":
            scores = -scores
        best = np.argsort(-scores)[: min(query.similarity_top_k, self.most)]
        return VectorStoreQueryResult(
            nodes=[nodes[row] for row in best],
            ids=[nodes[row].node_id for row in best],
            similarities=scores[best].tolist(),
        )

    def _passes(self, node: BaseNode, filters: MetadataFilters | None) -> bool:
        if filters is None or not self.filters:
            return True
        return all(node.metadata.get(one.key) == one.value for one in filters.filters)
