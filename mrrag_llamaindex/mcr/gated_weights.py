"""Fusion weights that depend on the question: a small network corrects the global ones.

A question about a side may want the image, one about the patient's history the text. The paper has
one set of weights for all; here a network reads both vectors of the question and moves them:

    h = tanh(W_1 [q_i ; q_t] + v_1)
    w = w_0 + r s tanh(W_2 h + v_2),    s = max |w_0|,  0 < r < 1

w_0 are the global weights. The correction is bounded: no weight moves by more than r times the
largest of them, which therefore keeps its sign, so that no question is left without a score. With
W_2 and v_2 zero (an untrained gate) w is exactly w_0. The weights stay on the query's side: index
and search are those of the global weights.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from typing_extensions import Self

from mrrag_llamaindex.errors import InputError
from mrrag_llamaindex.files.digests import text_digest
from mrrag_llamaindex.mcr.weights import ALL_TERMS, TERMS, FusionWeights, SavedWeights

_ARRAYS = ("hidden_weight", "hidden_bias", "out_weight", "out_bias")


@dataclass(frozen=True, eq=False)
class QueryGatedWeights(SavedWeights):
    """Weights for each question.

    Parameters
    ----------
    base : FusionWeights
        w_0, the weights of all questions; used as they are where a question lacks its image or its
        text, because the network has never seen such a question.
    hidden_weight : array_like
        W_1, shape (h, l), l the length of [q_i ; q_t].
    hidden_bias : array_like
        v_1, shape (h,).
    out_weight : array_like
        W_2, shape (t, h), with t = 3 for `TERMS`, more for the first of `ALL_TERMS`.
    out_bias : array_like
        v_2, shape (t,).
    reach : float
        r, above 0 and below 1.

    Raises
    ------
    ValueError
        If shapes do not fit, a number is not finite, or `reach` is out of range.

    Notes
    -----
    The arrays are kept as float32; sums are formed in float64.
    """

    FORMAT = "mrrag-gated-weights-1"
    KEYS = frozenset({"base", "reach", *_ARRAYS})

    base: FusionWeights
    hidden_weight: NDArray[np.float32]
    hidden_bias: NDArray[np.float32]
    out_weight: NDArray[np.float32]
    out_bias: NDArray[np.float32]
    reach: float = 0.75

    def __post_init__(self) -> None:
        for name in _ARRAYS:
            array = np.array(getattr(self, name), dtype=np.float32)
            if not np.isfinite(array).all():
                raise ValueError(f"{name} holds a number that is not finite")
            array.setflags(write=False)
            object.__setattr__(self, name, array)
        shapes = [getattr(self, name).shape for name in _ARRAYS]
        hidden, width = shapes[0] if len(shapes[0]) == 2 else (0, 0)
        terms = len(self.out_bias) if self.out_bias.ndim == 1 else 0
        fits = shapes == [(hidden, width), (hidden,), (terms, hidden), (terms,)]
        known = len(TERMS) <= terms <= len(ALL_TERMS)
        if not fits or not hidden or not width or not known:
            raise ValueError(
                f"shapes {shapes} are not (h, l), (h,), (t, h), (t,) with "
                f"{len(TERMS)} to {len(ALL_TERMS)} terms t"
            )
        number = isinstance(self.reach, (int, float)) and not isinstance(self.reach, bool)
        if not number or not 0 < self.reach < 1:
            raise ValueError(f"reach is {self.reach!r}; it must be above 0 and below 1")

    @classmethod
    def untrained(
        cls, base: FusionWeights, dimension: int, *, hidden: int = 1, terms: int = 3
    ) -> QueryGatedWeights:
        """Return a gate that gives every question the global weights; [q_i ; q_t] of length 2n."""
        sizes = ((hidden, 2 * dimension), (hidden,), (terms, hidden), (terms,))
        first, first_bias, last, last_bias = (np.zeros(size, dtype=np.float32) for size in sizes)
        return cls(base, first, first_bias, last, last_bias)

    @property
    def terms(self) -> tuple[str, ...]:
        """The terms whose weights are moved: `TERMS`, `HEAD_TERMS` or `ALL_TERMS`."""
        return ALL_TERMS[: len(self.out_bias)]

    def weights_for(
        self, query_image: ArrayLike | None, query_text: ArrayLike | None
    ) -> FusionWeights:
        """Return the weights of one question.

        Parameters
        ----------
        query_image, query_text
            q_i and q_t; where one is `None` or all zero, `base` is returned.

        Raises
        ------
        InputError
            If the vectors have another length than those that the gate was trained on.
        """
        if query_image is None or query_text is None:
            return self.base
        halves = [np.asarray(one, dtype=np.float64) for one in (query_image, query_text)]
        if not all(half.any() for half in halves):
            return self.base
        query = np.concatenate(halves)
        if len(query) != self.hidden_weight.shape[1]:
            raise InputError(
                f"the question's vectors have length {len(query)} together; these weights were "
                f"learned on {self.hidden_weight.shape[1]}"
            )
        hidden = np.tanh(self.hidden_weight @ query + self.hidden_bias)
        moved = np.tanh(self.out_weight @ hidden + self.out_bias)
        size = self.reach * np.abs(self.base.as_array(ALL_TERMS)).max()
        values = self.base.as_dict()
        for name, value in zip(self.terms, (size * moved).tolist(), strict=True):
            values[name] = values.get(name, 0.0) + value
        return FusionWeights(**values)

    def as_dict(self) -> dict[str, Any]:
        """Return the global weights by name, and as ``gate`` 16 hex digits of the network."""
        digest = text_digest(self.to_json(), 16)
        return {**self.base.as_dict(), "gate": digest}

    def values(self) -> dict[str, Any]:
        """Return the global weights, the reach and the network."""
        arrays = {name: _plain(getattr(self, name)) for name in _ARRAYS}
        return {"base": self.base.as_dict(), "reach": self.reach, **arrays}

    @classmethod
    def from_values(cls, data: dict[str, Any]) -> Self:
        """Return the weights that `values` described."""
        base = FusionWeights.from_json(json.dumps(data["base"]))
        return cls(base, **{name: data[name] for name in (*_ARRAYS, "reach")})


def _plain(array: NDArray[np.float32]) -> Any:
    """Return nested lists of the shortest decimals that give the same float32 back."""
    if array.ndim > 1:
        return [_plain(row) for row in array]
    return [float(str(value)) for value in array]
