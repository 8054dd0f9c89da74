"""The relevance score of MR-RAG (MCR) as pure numpy functions, separable from any store.

For a question with image q_i and text q_t, and a pair with image d_i and report d_t, all unit
vectors of one dual encoder, Eq. 1 of the paper is

    f(q, d) = a <q_i, d_t> + b <q_i, d_i> + c <q_t, d_t>.

It is linear in the pair, so f(q, d) = < [b q_i ; a q_i + c q_t] , [d_i ; d_t] >: one stored vector
of length 2n per pair, and the weights live in the query. Learning other weights, or giving each
question its own, never changes what is stored.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mrrag_llamaindex.errors import InputError
from mrrag_llamaindex.retrieval.weights import TERMS, FusionWeights

__all__ = [
    "TERMS",
    "FusionWeights",
    "document_vector",
    "fuse",
    "fused_query",
    "similarity_terms",
]


def similarity_terms(
    query_image: ArrayLike | None,
    query_text: ArrayLike | None,
    document_image: ArrayLike,
    document_text: ArrayLike,
) -> NDArray[np.float64]:
    """Return the three similarities between one question and some pairs.

    Parameters
    ----------
    query_image, query_text
        Shape (n,), or `None` when the question lacks it: its terms are then exactly 0.0.
    document_image, document_text
        Shape (n,) or (m, n); a zero row stands for a missing half, whose terms are exactly 0.0.

    Returns
    -------
    ndarray
        Shape (3,) or (m, 3), float64: <q_i, d_t>, <q_i, d_i>, <q_t, d_t> (Eq. 1's three terms).

    Examples
    --------
    >>> similarity_terms([1, 0], [0, 1], [0.6, 0.8], [0.8, 0.6])
    array([0.8, 0.6, 0.6])
    """
    image = np.asarray(document_image, dtype=np.float64)
    text = np.asarray(document_text, dtype=np.float64)
    if image.shape != text.shape or image.ndim not in (1, 2):
        raise InputError(
            f"document halves have shapes {image.shape} and {text.shape}; expected two of (m, n)"
        )
    q_image = _half(query_image, image.shape[-1], "query image vector")
    q_text = _half(query_text, image.shape[-1], "query text vector")
    return np.stack([text @ q_image, image @ q_image, text @ q_text], axis=-1)


def fuse(terms: ArrayLike, weights: FusionWeights) -> NDArray[np.float64]:
    """Return a <q_i, d_t> + b <q_i, d_i> + c <q_t, d_t> (Eq. 1).

    Parameters
    ----------
    terms
        Shape (..., 3), as `similarity_terms` returns them.
    weights
        The three weights.

    Returns
    -------
    ndarray
        Shape (...), float64.

    Examples
    --------
    >>> float(fuse([0.5, 0.25, -1.0], FusionWeights(1.0, 2.0, 0.5)))
    0.5
    """
    return np.asarray(np.asarray(terms, dtype=np.float64) @ weights.as_array())


def fused_query(
    query_image: ArrayLike | None, query_text: ArrayLike | None, weights: FusionWeights
) -> NDArray[np.float32]:
    """Return ``[b q_i ; a q_i + c q_t]``, the vector whose inner product with a pair is Eq. 1.

    Parameters
    ----------
    query_image, query_text
        Shape (n,); at most one of them may be `None` (it then adds nothing to any score).
    weights
        The three weights.

    Returns
    -------
    ndarray
        Shape (2n,), float32. Not normalised: its length carries the weights.
    """
    if query_image is None and query_text is None:
        raise InputError("the question has neither an image nor a text vector")
    given = query_image if query_image is not None else query_text
    dimension = np.asarray(given).shape[-1]
    image = _half(query_image, dimension, "query image vector")
    text = _half(query_text, dimension, "query text vector")
    upper = weights.image_image * image
    lower = weights.image_text * image + weights.text_text * text
    with np.errstate(over="ignore"):  # a weight beyond float32 gives inf, which the store refuses
        return np.concatenate([upper, lower]).astype(np.float32)


def document_vector(document_image: ArrayLike, document_text: ArrayLike) -> NDArray[np.float32]:
    """Return ``[d_i ; d_t]``, what the store keeps for a pair.

    Parameters
    ----------
    document_image, document_text
        Shape (n,) or (m, n), unit rows, or zero rows for a missing half.

    Returns
    -------
    ndarray
        Shape (2n,) or (m, 2n), float32.
    """
    image = np.asarray(document_image, dtype=np.float32)
    text = np.asarray(document_text, dtype=np.float32)
    if image.shape != text.shape:
        raise InputError(f"document halves have shapes {image.shape} and {text.shape}")
    return np.concatenate([image, text], axis=-1)


def _half(vector: ArrayLike | None, dimension: int, what: str) -> NDArray[np.float64]:
    if vector is None:
        return np.zeros(dimension)
    array = np.asarray(vector, dtype=np.float64)
    if array.shape != (dimension,):
        raise InputError(f"{what} has shape {array.shape}; expected ({dimension},)")
    return array
