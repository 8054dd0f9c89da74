"""What an engine may be told to leave out without losing a match: a simpler filter, implied by one.

Every candidate is compared with the whole filter afterwards. Engines differ in what a comparison
with a key that a pair lacks is worth, and in numbers of two types; so only comparisons in which
they agree are left.
"""

from __future__ import annotations

from typing import Final

from mrrag_llamaindex.store.filters import IDENTIFIERS, Combination, Comparison, Filter, Operator
from mrrag_llamaindex.store.hits import Exclusion
from mrrag_llamaindex.store.llamaindex.record import is_filterable
from mrrag_llamaindex.store.pair import STUDY_KEY, MetadataValue

_EXACT: Final = 2**53
"""Up to here, integers are exact as floating-point numbers."""

_OPPOSITE: Final[dict[str, Operator]] = {"==": "!=", "!=": "==", "in": "nin", "nin": "in"}


def allowing(exclude: Exclusion, filters: Filter | None) -> Filter | None:
    """Return a filter of what is not excluded and matches `filters`, None for everything."""
    parts: list[Filter] = [] if filters is None else [filters]
    for key, values in (
        ("pair_id", exclude.pair_ids),
        ("patient_id", exclude.patient_ids),
        (STUDY_KEY, exclude.study_ids),
    ):
        if values := values - {""}:  # which nobody has
            parts.append(Comparison(key, "nin", tuple(sorted(values))))
    for patient, study in sorted(exclude.cases, key=str):
        own = (Comparison("patient_id", "==", patient or ""), Comparison(STUDY_KEY, "==", study))
        parts.append(Combination("not", (Combination("and", own),)))
    return Combination("and", tuple(parts)) if parts else None


def narrowed(condition: Filter | None) -> Filter | None:
    """Return a filter that every match of `condition` satisfies, None if there is none.

    Returns
    -------
    Comparison or Combination
        Of "and" and "or". Comparisons are ``==`` and ``in`` with any value, ``!=`` and ``nin`` of
        an identifier, and an order of numbers.

    Examples
    --------
    >>> adult = Comparison("age", ">", 17)
    >>> narrowed(Combination("and", (adult, Comparison("view", "!=", "PA")))) == adult
    True
    """
    if condition is None:
        return None
    if isinstance(condition, Comparison):
        return condition if _agreed(condition) else None
    if condition.condition == "not":
        return _joined("and", [_negated(item) for item in condition.filters])
    return _joined(condition.condition, list(condition.filters))


def _joined(condition: str, items: list[Filter | None]) -> Filter | None:
    parts = [narrowed(item) for item in items]
    known = tuple(part for part in parts if part is not None)
    if not known or (condition == "or" and len(known) < len(parts)):
        return None
    return known[0] if len(known) == 1 else Combination("or" if condition == "or" else "and", known)


def _negated(condition: Filter) -> Filter | None:
    """Return what is true where `condition` is false, None if it cannot be said."""
    if isinstance(condition, Comparison):
        opposite = _OPPOSITE.get(condition.operator)
        return None if opposite is None else Comparison(condition.key, opposite, condition.value)
    if condition.condition == "not":  # none of them is true: one of them is
        return Combination("or", condition.filters)
    parts = [_negated(item) for item in condition.filters]
    known = tuple(part for part in parts if part is not None)
    if condition.condition == "and":  # not all of them are true: one is false
        return Combination("or", known) if len(known) == len(parts) else None
    return Combination("and", known) if known else None


def _agreed(comparison: Comparison) -> bool:
    values = comparison.values
    if not values or not is_filterable(comparison.key) or not all(map(_plain, values)):
        return False
    if comparison.operator in ("!=", "nin"):
        # Of a pair that lacks it, "" is written.
        return comparison.key in IDENTIFIERS and "" not in values
    if comparison.operator in ("==", "in"):
        return True
    return isinstance(values[0], (int, float)) and not isinstance(values[0], bool)


def _plain(value: MetadataValue) -> bool:
    """Return whether a value is the same in every engine's numbers."""
    return isinstance(value, str) or abs(value) <= _EXACT
