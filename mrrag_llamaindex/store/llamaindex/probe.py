"""Proof that a vector store's order is ours: known vectors, and questions whose answers are known.

They stay in the store, a dozen nodes of a kind of their own, which no search for pairs returns: so
every opening asks them again, and writes nothing. Their lengths differ, as those of pairs do that
lack a half: by cosine or by distance they come in another order, and clipped or normalised they
come back as other vectors.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import numpy as np
from llama_index.core.schema import TextNode
from numpy.typing import NDArray

from mrrag_llamaindex import defaults
from mrrag_llamaindex.errors import MRRAGError, StoreError
from mrrag_llamaindex.store.llamaindex.engine import Engine
from mrrag_llamaindex.store.llamaindex.record import make_node, node_id
from mrrag_llamaindex.store.schema import StoreSchema

REMEDIES: Final = {
    "AzureAISearchVectorStore": 'an index of metric "dotProduct"',
    "ChromaVectorStore": 'a collection made with configuration={"hnsw": {"space": "ip"}}; or give '
    "the chromadb client itself",
    "LanceDBVectorStore": "a Chroma, Qdrant, Milvus or PostgreSQL store in its place: it asks its "
    "tables by L2",
    "MilvusVectorStore": 'similarity_metric="IP"',
    "OpensearchVectorStore": 'an OpensearchVectorClient with space_type="innerproduct"',
    "PineconeVectorStore": 'an index of metric "dotproduct"',
    "QdrantVectorStore": "a collection of Distance.DOT",
}
"""What to set, by the class of the store."""

NEAR: Final = 1e-3
"""Scores that are closer than this may change places."""

_DOCUMENTS, _QUESTIONS = 12, 8
_WIDTH: Final = defaults.NEGATIVE_EF_SEARCH
_IDS: Final = [node_id("probe", str(row)) for row in range(_DOCUMENTS)]


def probe_vectors(schema: StoreSchema) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return known documents and questions of a schema.

    Returns
    -------
    documents
        Shape (12, l): both halves, one half alone, and longer ones, as further blocks make them.
    questions
        Shape (8, l): weights of either sign, some without one half, of several lengths.
    """
    rng = np.random.default_rng(20260607)
    image = schema.blocks.image
    rows = rng.standard_normal((_DOCUMENTS + _QUESTIONS, schema.length))
    for half in (rows[:, :image], rows[:, image:]):
        half /= np.linalg.norm(half, axis=1, keepdims=True)
    documents, questions = rows[:_DOCUMENTS], rows[_DOCUMENTS:]
    documents[0:3, :image] = documents[3:6, image:] = 0.0
    documents[6:8] *= 2.0
    documents[8, :image] = np.eye(1, image)[0]  # what is clipped shows in few large numbers
    documents[9, image:] = -np.eye(1, schema.blocks.text)[0]
    questions[0, :image] = questions[1, image:] = 0.0
    questions[2:5] *= [[0.3], [2.5], [-1.0]]
    questions[5, :image] *= -0.5
    questions[6, image:] *= -2.0
    return documents.astype(np.float32), questions.astype(np.float32)


def probe_nodes(schema: StoreSchema) -> list[TextNode]:
    """Return the nodes that `prove` asks for."""
    documents, _ = probe_vectors(schema)
    return [make_node("probe", str(row), vector) for row, vector in enumerate(documents)]


def prove(engine: Engine, schema: StoreSchema) -> None:
    """Raise `StoreError` that names the fault unless a store ranks by inner product.

    Reads alone.
    """
    documents, questions = probe_vectors(schema)
    found = []
    for question in questions:
        with _faults(engine, "a filtered question fails"):
            ids = engine.search(question, _DOCUMENTS, "probe", None, _WIDTH)
        if sorted(ids) != sorted(_IDS):
            raise _refusal(engine, "its filters do not find the nodes of a kind, and only those")
        found.append([_IDS.index(name) for name in ids])
    for question, rows in zip(questions, found, strict=True):
        if not _ordered(documents @ question, rows):
            raise _refusal(engine, _order_of(documents, questions, found))
    with _faults(engine, "nodes do not come back by id (get_nodes)"):
        kept = {node.node_id: node.embedding for node in engine.get(_IDS)}
    if set(kept) != set(_IDS) or any(vector is None for vector in kept.values()):
        raise _refusal(engine, "nodes do not come back by id with their vectors (get_nodes)")
    back = np.array([kept[name] for name in _IDS])
    if back.shape != documents.shape or not np.array_equal(back.astype(np.float32), documents):
        raise _refusal(engine, "it changes vectors: it normalises, clips or rounds them")


def prove_removal(engine: Engine, schema: StoreSchema) -> None:
    """Raise `StoreError` unless a node can be removed again."""
    node = make_node("probe", "removed", probe_vectors(schema)[0][0])
    fault = "nodes are not removed by id (delete_nodes)"
    with _faults(engine, fault):
        engine.add([node], [])
        engine.delete([node.node_id])
        left = engine.get([node.node_id])
    if left:
        raise _refusal(engine, fault)


@contextlib.contextmanager
def _faults(engine: Engine, fault: str) -> Iterator[None]:
    try:
        yield
    except MRRAGError:
        raise
    except Exception as error:
        raise _refusal(engine, f"{fault} ({type(error).__name__})") from error


def _ordered(scores: NDArray[Any], rows: list[int]) -> bool:
    return bool((np.diff(scores[rows]) <= NEAR).all())


def _order_of(documents: NDArray[Any], questions: NDArray[Any], found: Sequence[list[int]]) -> str:
    lengths = np.linalg.norm(documents, axis=1)
    orders: dict[str, Callable[[NDArray[Any]], NDArray[Any]]] = {
        "it ranks by cosine": lambda question: documents @ question / lengths,
        "it ranks by distance (L2)": lambda question: (
            -(np.linalg.norm(documents - question, axis=1))
        ),
        "it ranks the least first": lambda question: -(documents @ question),
    }
    for name, order in orders.items():
        asked = zip(questions, found, strict=True)
        if all(_ordered(order(question), rows) for question, rows in asked):
            return name
    return "its order is not that of the inner product"


def _refusal(engine: Engine, fault: str) -> StoreError:
    remedy = REMEDIES.get(engine.kind, "a store that ranks by inner product and keeps vectors")
    return StoreError(f"{engine.name} cannot hold pairs: {fault}. Use {remedy}")
