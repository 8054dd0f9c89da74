"""Which pairs a query may return, by their metadata: comparisons, joined by and, or, not.

The semantics are those of LlamaIndex's ``MetadataFilters``. A comparison with a key that a pair
lacks is false, and so ``!=`` and ``nin``, the opposites of ``==`` and ``in``, are true. Values of
two kinds (text, number, true/false) are unequal and not in order. Keys are those of the pair's
metadata, as the user wrote them, and ``pair_id``, ``patient_id``, ``study_id``, ``image_path``
and ``missing``.
"""

from __future__ import annotations

import operator as op
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias, get_args

from mrrag_llamaindex.store.pair import STUDY_KEY, MetadataValue

Operator = Literal["==", "!=", ">", ">=", "<", "<=", "in", "nin"]
Condition = Literal["and", "or", "not"]

IDENTIFIERS: Final = frozenset({"pair_id", "patient_id", STUDY_KEY})
"""Keys whose values are text, whatever they look like: they are compared as text."""

_ORDER: Final = {">": op.gt, ">=": op.ge, "<": op.lt, "<=": op.le}


@dataclass(frozen=True)
class Comparison:
    """One key compared with a value.

    Parameters
    ----------
    key
        Of the metadata, or one of the pair's own fields.
    operator
        ``==``, ``!=``, ``>``, ``>=``, ``<``, ``<=``, ``in``, ``nin``.
    value
        Text, a number or true/false; for ``in`` and ``nin`` several of them.

    Raises
    ------
    ValueError
        If the operator is none of these, the value is of no such kind, or identifiers are to be
        compared by order.

    Examples
    --------
    >>> Comparison("age", ">=", 18).matches({"age": 54})
    True
    >>> Comparison("view", "!=", "PA").matches({"age": 54})
    True
    """

    key: str
    operator: Operator
    value: MetadataValue | tuple[MetadataValue, ...]

    def __post_init__(self) -> None:
        if self.operator not in get_args(Operator):
            known = ", ".join(get_args(Operator))
            raise ValueError(f"filter operator {self.operator!r} is not one of {known}")
        if not isinstance(self.key, str) or not self.key:
            raise ValueError(f"filter key {self.key!r} is not a non-empty string")
        several = self.operator in ("in", "nin")
        # A bare string would be an iterable of its letters.
        if several != (not isinstance(self.value, (str, int, float, bool))):
            expected = "several values" if several else "one text, number or true/false"
            raise ValueError(f"filter on {self.key!r}: {self.operator!r} needs {expected}")
        values = self.values
        if not all(isinstance(item, (str, int, float, bool)) for item in values):
            raise ValueError(f"filter on {self.key!r}: a value is not text, number or true/false")
        if any(item != item for item in values):
            raise ValueError(f"filter on {self.key!r}: NaN cannot be compared with")
        if self.key in IDENTIFIERS:
            if self.operator in _ORDER:
                raise ValueError(f"filter on {self.key!r}: identifiers have no order; use == or in")
            values = tuple(map(str, values))
        object.__setattr__(self, "value", values if several else values[0])

    @property
    def values(self) -> tuple[MetadataValue, ...]:
        """The values as a tuple, one or several."""
        one = isinstance(self.value, (str, int, float, bool))
        return (self.value,) if one else tuple(self.value)  # type: ignore[return-value,arg-type]

    def matches(self, values: Mapping[str, MetadataValue]) -> bool:
        """Return whether a pair with this metadata may be returned."""
        known: Any = values.get(self.key)
        if self.key in IDENTIFIERS and known is not None:
            known = str(known)
        if self.operator in ("!=", "nin"):
            return not any(_equal(known, value) for value in self.values)
        if self.operator in ("==", "in"):
            return any(_equal(known, value) for value in self.values)
        value: Any = self.values[0]
        return _kind(known) == _kind(value) and bool(_ORDER[self.operator](known, value))


@dataclass(frozen=True)
class Combination:
    """Filters joined: all of them ("and"), at least one ("or"), none ("not").

    Raises
    ------
    ValueError
        If the condition is none of these, or there is nothing to join.

    Examples
    --------
    >>> adult, frontal = Comparison("age", ">", 17), Comparison("view", "in", ("PA", "AP"))
    >>> Combination("and", (adult, frontal)).matches({"age": 54, "view": "PA"})
    True
    """

    condition: Condition
    filters: tuple[Filter, ...]

    def __post_init__(self) -> None:
        if self.condition not in get_args(Condition):
            raise ValueError(f'filter condition {self.condition!r} is not "and", "or" or "not"')
        filters = tuple(self.filters)
        if not filters or not all(isinstance(item, (Comparison, Combination)) for item in filters):
            raise ValueError("a combination needs at least one filter, and nothing but filters")
        object.__setattr__(self, "filters", filters)

    def matches(self, values: Mapping[str, MetadataValue]) -> bool:
        """Return whether a pair with this metadata may be returned."""
        results = (item.matches(values) for item in self.filters)
        if self.condition == "and":
            return all(results)
        return any(results) == (self.condition == "or")


Filter: TypeAlias = Comparison | Combination


def _kind(value: Any) -> type | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None if value is None else type(value)
    return float


def _equal(known: Any, value: Any) -> bool:
    return _kind(known) == _kind(value) and bool(known == value)
