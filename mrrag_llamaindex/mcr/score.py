"""The relevance score of MR-RAG (MCR) as pure numpy functions, separable from any store.

For a question with image q_i and text q_t, and a pair with image d_i and report d_t, all unit
vectors of one dual encoder, Eq. 1 of the paper is

    f(q, d) = a <q_i, d_t> + b <q_i, d_i> + c <q_t, d_t>.

It is linear in the pair, so f(q, d) = < [b q_i ; a q_i + c q_t] , [d_i ; d_t] >: one stored vector
of length 2n per pair, and the weights live in the query. Learning other weights, or giving each
question its own, never changes what is stored. A fourth term d <q_t, d_i>, which the paper does not
have, costs nothing more: the query becomes [b q_i + d q_t ; a q_i + c q_t]. Its weight is 0 unless
it is given. A term is a half of the question and a half of the pair: one row of a table here, one
name in `weights.ALL_TERMS` and one field of `FusionWeights`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mrrag_llamaindex.errors import InputError
from mrrag_llamaindex.mcr.weights import ALL_TERMS, TERMS, FusionWeights

__all__ = [
    "ALL_TERMS",
    "TERMS",
    "FusionWeights",
    "document_vector",
    "fuse",
    "fused_query",
    "similarity_terms",
]

_HALVES = {
    "image_text": ("image", "text"),
    "image_image": ("image", "image"),
    "text_text": ("text", "text"),
    "text_image": ("text", "image"),
}
"""Term to the halves that it compares: of the question, of the pair."""


def similarity_terms(
    query_image: ArrayLike | None,
    query_text: ArrayLike | None,
    document_image: ArrayLike,
    document_text: ArrayLike,
    *,
    terms: tuple[str, ...] = TERMS,
) -> NDArray[np.float64]:
    """Return the similarities between one question and some pairs.

    Parameters
    ----------
    query_image, query_text
        Shape (n,), or `None` when the question lacks it: its terms are then exactly 0.0.
    document_image, document_text
        Shape (n,) or (m, n); a zero row stands for a missing half, whose terms are exactly 0.0.
    terms
        Which similarities, and in which order: `TERMS` or `ALL_TERMS`.

    Returns
    -------
    ndarray
        Shape (t,) or (m, t), float64, t the number of `terms`: <q_i, d_t>, <q_i, d_i>, <q_t, d_t>
        (Eq. 1's three), and <q_t, d_i> if `ALL_TERMS` are asked for.

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
    query = _query_halves(query_image, query_text, image.shape[-1])
    pair = {"image": image, "text": text}
    halves = (_HALVES[name] for name in terms)
    return np.stack([pair[theirs] @ query[ours] for ours, theirs in halves], axis=-1)


def fuse(terms: ArrayLike, weights: FusionWeights) -> NDArray[np.float64]:
    """Return a <q_i, d_t> + b <q_i, d_i> + c <q_t, d_t> (Eq. 1), and d <q_t, d_i> if d is given.

    Parameters
    ----------
    terms
        Shape (..., 3) or (..., 4), as `similarity_terms` returns them.
    weights
        The weights.

    Returns
    -------
    ndarray
        Shape (...), float64.

    Raises
    ------
    InputError
        If `weights` weigh the fourth term and `terms` lack it.

    Examples
    --------
    >>> float(fuse([0.5, 0.25, -1.0], FusionWeights(1.0, 2.0, 0.5)))
    0.5
    """
    values = np.asarray(terms, dtype=np.float64)
    weighted = weights.terms
    if values.shape[-1] < len(weighted):
        raise InputError(
            f"the weights weigh {len(weighted)} similarities, and {values.shape[-1]} are given: "
            "compute them with similarity_terms(..., terms=ALL_TERMS)"
        )
    # Without the columns that have no weight: the sum is the same to the last bit whether the
    # caller has them or not.
    columns = np.ascontiguousarray(values[..., : len(weighted)])
    return np.asarray(columns @ weights.as_array(weighted))


def fused_query(
    query_image: ArrayLike | None, query_text: ArrayLike | None, weights: FusionWeights
) -> NDArray[np.float32]:
    """Return ``[b q_i + d q_t ; a q_i + c q_t]``, whose inner product with a pair is the score.

    Parameters
    ----------
    query_image, query_text
        Shape (n,); at most one of them may be `None` (it then adds nothing to any score).
    weights
        The weights; with d = 0 the score is that of Eq. 1.

    Returns
    -------
    ndarray
        Shape (2n,), float32. Not normalised: its length carries the weights.
    """
    if query_image is None and query_text is None:
        raise InputError("the question has neither an image nor a text vector")
    dimension = np.asarray(query_text if query_image is None else query_image).shape[-1]
    query = _query_halves(query_image, query_text, dimension)
    blocks = {"image": np.zeros(dimension), "text": np.zeros(dimension)}
    for name, weight in weights.as_dict().items():
        ours, theirs = _HALVES[name]
        blocks[theirs] += weight * query[ours]
    with np.errstate(over="ignore"):  # a weight beyond float32 gives inf, which the store refuses
        return np.concatenate(list(blocks.values())).astype(np.float32)


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


def _query_halves(
    image: ArrayLike | None, text: ArrayLike | None, dimension: int
) -> dict[str, NDArray[np.float64]]:
    halves = {}
    for name, vector in (("image", image), ("text", text)):
        half = np.zeros(dimension) if vector is None else np.asarray(vector, dtype=np.float64)
        if half.shape != (dimension,):
            raise InputError(f"query {name} vector has shape {half.shape}; expected ({dimension},)")
        halves[name] = half
    return halves
