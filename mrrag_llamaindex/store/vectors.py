"""Checks of vectors on their way in: what Chroma would take without a word, and rank wrongly.

Chroma answers a NaN query with NaN distances, and takes vectors of any length; only unit halves
(or zero halves, for what is missing) make ``1 - distance`` a sum of weighted cosines.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mrrag_llamaindex.errors import InputError
from mrrag_llamaindex.store.pair import Pair

UNIT_TOLERANCE = 1e-3
"""How far a unit vector's length may be from 1: half precision keeps it within this."""


def check_query(
    image: ArrayLike | None, text: ArrayLike | None, dimension: int
) -> tuple[NDArray[np.float32] | None, NDArray[np.float32] | None]:
    """Return the two halves of a question as float32, checked.

    Parameters
    ----------
    image, text
        Shape (n,), unit length; at most one of them may be `None`.
    dimension
        n.

    Raises
    ------
    InputError
        If both are `None`, or one has another shape, holds NaN or infinity, or is not of unit
        length.
    """
    if image is None and text is None:
        raise InputError("the question has neither an image nor a text vector")
    halves: list[NDArray[np.float32] | None] = []
    for vector, what in ((image, "query image vector"), (text, "query text vector")):
        if vector is None:
            halves.append(None)
            continue
        array = np.asarray(vector, dtype=np.float32)
        if array.shape != (dimension,):
            raise InputError(
                f"{what} has shape {array.shape}, but the store holds vectors of {dimension}: "
                "was it made by other towers?"
            )
        problem = unit_problem(array)
        if problem:
            raise InputError(f"{what} {problem}")
        halves.append(array)
    return halves[0], halves[1]


def check_halves(
    pairs: Sequence[Pair], image: ArrayLike, text: ArrayLike, dimension: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the two halves of some pairs as float32, checked against the pairs.

    Parameters
    ----------
    pairs
        m pairs.
    image, text
        Shape (m, n): unit rows where the pair has that half, zero rows where it lacks it.
    dimension
        n.

    Raises
    ------
    InputError
        Naming the first pair whose vectors do not fit.
    """
    shape = (len(pairs), dimension)
    halves = []
    for vectors, what in ((image, "image"), (text, "text")):
        array = np.asarray(vectors, dtype=np.float32)
        if array.shape != shape:
            raise InputError(
                f"{what} vectors have shape {array.shape}, expected {shape}: one row for each "
                "pair, of the store's dimension"
            )
        halves.append(array)
    for row, pair in enumerate(pairs):
        expected = (pair.missing != "image", pair.missing != "report")
        for array, present, what in zip(halves, expected, ("image", "text"), strict=True):
            if present:
                problem = unit_problem(array[row])
            else:
                problem = "is not zero, but the pair lacks that half" * bool(array[row].any())
            if problem:
                raise InputError(f"pair {pair.pair_id!r}: the {what} vector {problem}")
    return halves[0], halves[1]


def unit_problem(vector: NDArray[np.float32]) -> str:
    """Return what keeps `vector`, shape (n,), from being a unit vector; ``""`` for nothing."""
    if not np.isfinite(vector).all():
        return "holds NaN or infinite values"
    length = float(np.linalg.norm(vector))
    if abs(length - 1.0) > UNIT_TOLERANCE:
        return f"has length {length:.4g}; it must be normalised to 1"
    return ""
