"""A strength for each layer, and a part of its heads: a search with a budget of evaluations.

One coordinate at a time is changed, all of its values being evaluated at once, so that what stands
before the questions is computed once for them. The best stays; with equal accuracy, the one that is
surer of the truth.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product

from mrrag_llamaindex.steering.ifa import IFA

FACTORS = (0.0, 0.5, 1.0, 2.0, 4.0)
"""Strengths that are tried in a layer; 0 leaves it alone."""

Worth = tuple[float, float]
"""Accuracy, and mean probability of the truth."""

Evaluate = Callable[[Sequence[IFA]], Sequence[Worth]]
"""From policies to what each is worth, on questions that are not those of the test."""


@dataclass(frozen=True)
class Tried:
    """One policy and what it was worth."""

    policy: IFA
    worth: Worth


@dataclass(frozen=True)
class StrengthSearch:
    """What a search found.

    Attributes
    ----------
    policy : IFA
        The best one.
    tries : tuple of Tried
        In their order, as many as the budget at most.
    finished : bool
        Whether no change of one coordinate is better; if not, the budget ended the search.
    """

    policy: IFA
    tries: tuple[Tried, ...]
    finished: bool


@dataclass(frozen=True)
class _Point:
    """Strength of each layer, and how many of its heads, the most moving first, are steered."""

    strengths: Mapping[int, float]
    heads: Mapping[int, int] = field(default_factory=dict)

    def with_strength(self, layer: int, strength: float) -> _Point:
        return replace(self, strengths={**self.strengths, layer: strength})

    def with_heads(self, layer: int, count: int) -> _Point:
        return replace(self, heads={**self.heads, layer: count})

    def policy(self, ranked: Mapping[int, Sequence[int]], base: IFA) -> IFA | None:
        """Return it as a policy; None where no layer is left."""
        factors = {layer: value for layer, value in self.strengths.items() if value > 0}
        if not factors:
            return None
        heads = {
            layer: tuple(sorted(ranked[layer][: self.heads.get(layer, len(ranked[layer]))]))
            for layer in factors
        }
        whole = all(len(heads[layer]) == len(ranked[layer]) for layer in factors)
        return replace(base, layers=None, by_layer=factors, heads=None if whole else heads)


def search_strengths(
    evaluate: Evaluate,
    critical: Sequence[int],
    ranked_heads: Mapping[int, Sequence[int]],
    budget: int,
    *,
    base: IFA | None = None,
) -> StrengthSearch:
    """Search from the paper's formula in the critical layers, one coordinate at a time.

    Parameters
    ----------
    evaluate : callable
    critical : sequence of int
        Where the search starts, with strength 1 and all heads.
    ranked_heads : mapping
        For each layer that may be steered, in the order of the search, all of its query heads, the
        most moving first; see `heads.rank_heads`.
    budget : int
        Most policies that are evaluated; no policy is evaluated twice.
    base : IFA, optional
        For the fields that are not searched, by default the paper's.

    Raises
    ------
    ValueError
        If the budget is below 1, or there is no critical layer among `ranked_heads`.
    """
    if budget < 1 or not critical or not set(critical) <= set(ranked_heads):
        raise ValueError(
            f"a budget of {budget} tries, from layers {tuple(critical)} of {tuple(ranked_heads)}"
        )
    base = IFA() if base is None else base
    here = _Point({layer: float(layer in critical) for layer in ranked_heads})
    tries: dict[IFA, Worth] = {}

    def ask(points: Sequence[_Point]) -> None:
        policies = [point.policy(ranked_heads, base) for point in points]
        fresh = list(dict.fromkeys(p for p in policies if p is not None and p not in tries))
        fresh = fresh[: budget - len(tries)]
        if fresh:
            tries.update(zip(fresh, evaluate(fresh), strict=True))

    def worth(point: _Point) -> Worth:
        policy = point.policy(ranked_heads, base)
        return (-1.0, 0.0) if policy is None else tries.get(policy, (-1.0, 0.0))

    ask([here])
    moved = True
    while moved and len(tries) < budget:
        moved = False
        for layer, whose in product(ranked_heads, _COORDINATES):
            points = whose(here, layer, len(ranked_heads[layer]))
            ask(points)
            best = max(points, key=worth)
            if worth(best) > worth(here):
                here, moved = best, True
            if len(tries) >= budget:
                break
    policy = here.policy(ranked_heads, base)
    assert policy is not None
    return StrengthSearch(policy, tuple(map(Tried, tries, tries.values())), not moved)


def _strengths(here: _Point, layer: int, heads: int) -> list[_Point]:
    return [here.with_strength(layer, factor) for factor in FACTORS]


def _heads(here: _Point, layer: int, heads: int) -> list[_Point]:
    parts = sorted({max(1, heads // 4), max(1, heads // 2), heads})
    return [here.with_heads(layer, part) for part in parts]


_COORDINATES = (_strengths, _heads)
