"""The relevance score of MR-RAG (MCR) as pure numpy functions, separable from any store.

For a question with image q_i and text q_t, and a pair with image d_i and report d_t, all unit
vectors of one dual encoder, Eq. 1 of the paper is

    f(q, d) = a <q_i, d_t> + b <q_i, d_i> + c <q_t, d_t>.

It is linear in the pair, so f(q, d) = < [b q_i ; a q_i + c q_t] , [d_i ; d_t] >: one stored vector
of length 2n per pair, and the weights live in the query. Learning other weights, or giving each
question its own, never changes what is stored. A fourth term d <q_t, d_i>, which the paper does not
have, costs nothing more: the query becomes [b q_i + d q_t ; a q_i + c q_t]. Its weight is 0 unless
it is given. Two more compare the encoders' own features, for towers that keep them: see
`mcr.blocks`. A term is one row of `blocks.TERM_BLOCKS`, one name in `weights.ALL_TERMS` and one
field of `FusionWeights`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mrrag_llamaindex.errors import InputError
from mrrag_llamaindex.mcr.blocks import Blocks
from mrrag_llamaindex.mcr.weights import ALL_TERMS, HEAD_TERMS, TERMS, FusionWeights

__all__ = [
    "ALL_TERMS",
    "HEAD_TERMS",
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
    *,
    terms: tuple[str, ...] = TERMS,
    blocks: Blocks | None = None,
) -> NDArray[np.float64]:
    """Return the similarities between one question and some pairs.

    Parameters
    ----------
    query_image, query_text
        Shape (n,), or `None` when the question lacks it: its terms are then exactly 0.0.
    document_image, document_text
        Shape (n,) or (m, n); a zero row stands for a missing half, whose terms are exactly 0.0.
    terms
        Which similarities, and in which order: `TERMS`, `HEAD_TERMS` or `ALL_TERMS`.
    blocks
        How the vectors are divided, and the scales; by default one common space of n dimensions.

    Returns
    -------
    ndarray
        Shape (t,) or (m, t), float64, t the number of `terms`: <q_i, d_t>, <q_i, d_i>, <q_t, d_t>
        (Eq. 1's three), <q_t, d_i>, and the two of raw features, each times its scale.

    Examples
    --------
    >>> similarity_terms([1, 0], [0, 1], [0.6, 0.8], [0.8, 0.6])
    array([0.8, 0.6, 0.6])
    """
    image = np.asarray(document_image, dtype=np.float64)
    text = np.asarray(document_text, dtype=np.float64)
    expected = blocks or Blocks(max(1, image.shape[-1] if image.ndim else 1))
    shapes = (*image.shape[:-1], expected.image), (*image.shape[:-1], expected.text)
    if (image.shape, text.shape) != shapes or image.ndim not in (1, 2):
        raise InputError(
            f"document halves have shapes {image.shape} and {text.shape}; expected (m, "
            f"{expected.image}) and (m, {expected.text}), of the same m"
        )
    query = _query_halves(query_image, query_text, expected)
    return expected.similarities(query, image, text, terms)


def fuse(terms: ArrayLike, weights: FusionWeights) -> NDArray[np.float64]:
    """Return a <q_i, d_t> + b <q_i, d_i> + c <q_t, d_t> (Eq. 1), and further terms if weighed.

    Parameters
    ----------
    terms
        Shape (..., t), t of 3 to 6, as `similarity_terms` returns them.
    weights
        The weights.

    Returns
    -------
    ndarray
        Shape (...), float64.

    Raises
    ------
    InputError
        If `weights` weigh a term that `terms` lack.

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
    query_image: ArrayLike | None,
    query_text: ArrayLike | None,
    weights: FusionWeights,
    blocks: Blocks | None = None,
) -> NDArray[np.float32]:
    """Return ``[b q_i + d q_t ; a q_i + c q_t]``, whose inner product with a pair is the score.

    Parameters
    ----------
    query_image, query_text
        Shape (n,); at most one of them may be `None` (it then adds nothing to any score).
    weights
        The weights; with d = 0 the score is that of Eq. 1.
    blocks
        How the vectors are divided, and the scales; by default one common space of n dimensions.

    Returns
    -------
    ndarray
        Shape (2n,), float32. Not normalised: its length carries the weights.

    Raises
    ------
    InputError
        If both vectors are missing, one has another shape, or the weights weigh a term that the
        vectors do not have.
    """
    if query_image is None and query_text is None:
        raise InputError("the question has neither an image nor a text vector")
    if blocks is None:
        blocks = Blocks(np.asarray(query_text if query_image is None else query_image).shape[-1])
    fused = blocks.query(_query_halves(query_image, query_text, blocks), weights)
    with np.errstate(over="ignore"):  # a weight beyond float32 gives inf, which the store refuses
        return fused.astype(np.float32)


def document_vector(document_image: ArrayLike, document_text: ArrayLike) -> NDArray[np.float32]:
    """Return ``[d_i ; d_t]``, what the store keeps for a pair.

    Parameters
    ----------
    document_image, document_text
        Shape (n,) or (m, n), unit rows, or zero rows for a missing half; with raw blocks the two
        may be of different length.

    Returns
    -------
    ndarray
        Shape (2n,) or (m, 2n), float32.
    """
    image = np.asarray(document_image, dtype=np.float32)
    text = np.asarray(document_text, dtype=np.float32)
    if image.shape[:-1] != text.shape[:-1]:
        raise InputError(f"document halves have shapes {image.shape} and {text.shape}")
    return np.concatenate([image, text], axis=-1)


def _query_halves(
    image: ArrayLike | None, text: ArrayLike | None, blocks: Blocks
) -> dict[str, NDArray[np.float64]]:
    return {
        name: np.zeros(getattr(blocks, name))
        if vector is None
        else blocks.check(name, vector, f"query {name} vector")
        for name, vector in (("image", image), ("text", text))
    }
