"""Which nodes a question is about, in Qdrant's own models."""

from __future__ import annotations

from typing import Any

from qdrant_client import models as rest

from mrrag_llamaindex.store.filters import Combination, Comparison, Filter
from mrrag_llamaindex.store.llamaindex.record import FILTER_PREFIX, KIND_KEY, Kind


def filter_of(kind: Kind, filters: Filter | None) -> rest.Filter:
    """Return what is true of the nodes of a kind that `narrowed` filters let pass."""
    must: list[Any] = [_is(KIND_KEY, kind)]
    if filters is not None:
        must.append(_condition(filters))
    return rest.Filter(must=must)


def _condition(item: Filter) -> Any:
    if isinstance(item, Combination):
        parts = [_condition(part) for part in item.filters]
        return rest.Filter(must=parts) if item.condition == "and" else rest.Filter(should=parts)
    return _comparison(item)


def _comparison(item: Comparison) -> Any:
    key = FILTER_PREFIX + item.key
    order = {">": "gt", ">=": "gte", "<": "lt", "<=": "lte"}.get(item.operator)
    if order is not None:
        return rest.FieldCondition(key=key, range=rest.Range(**{order: item.value}))
    texts = [value for value in item.values if isinstance(value, str)]
    others = [value for value in item.values if not isinstance(value, str)]
    parts: list[Any] = [_is(key, value) for value in others]
    if texts:
        parts.append(rest.FieldCondition(key=key, match=rest.MatchAny(any=texts)))
    if item.operator in ("!=", "nin"):
        return rest.Filter(must_not=parts)
    return rest.Filter(should=parts)


def _is(key: str, value: Any) -> rest.FieldCondition:
    if isinstance(value, (str, bool)):
        return rest.FieldCondition(key=key, match=rest.MatchValue(value=value))
    # A match of numbers is one of integers.
    return rest.FieldCondition(key=key, range=rest.Range(gte=value, lte=value))
