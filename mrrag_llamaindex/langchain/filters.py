"""Filters as LangChain's vector stores take them: a mapping of metadata keys."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from mrrag_llamaindex.errors import InputError
from mrrag_llamaindex.store.filters import Combination, Comparison, Condition, Filter, Operator

_OPERATORS = {
    "$eq": "==",
    "$ne": "!=",
    "$gt": ">",
    "$gte": ">=",
    "$lt": "<",
    "$lte": "<=",
    "$in": "in",
    "$nin": "nin",
}
_CONDITIONS = {"$and": "and", "$or": "or", "$not": "not"}


def filter_of_mapping(filters: Mapping[str, Any]) -> Filter:
    """Read ``{"patient_id": "p7", "age": {"$gte": 18}}``; all of its entries must hold.

    Parameters
    ----------
    filters : mapping
        A key with a value, or with a mapping of operators (``$eq``, ``$ne``, ``$gt``, ``$gte``,
        ``$lt``, ``$lte``, ``$in``, ``$nin``); or ``$and``, ``$or`` with a list of such mappings,
        ``$not`` with one of them or a list.

    Raises
    ------
    InputError
        If it is empty, or an operator or a value is none that a store of pairs has.
    """
    if not filters:
        raise InputError("filters is empty; leave it out to search all pairs")
    try:
        parts = [part for key, value in filters.items() for part in _parts(key, value)]
        return parts[0] if len(parts) == 1 else Combination("and", tuple(parts))
    except ValueError as error:
        raise InputError(f"filters cannot be used: {error}") from None


def _parts(key: str, value: Any) -> list[Filter]:
    if key in _CONDITIONS:
        several = value if isinstance(value, Sequence) else [value]
        if isinstance(value, str) or not all(isinstance(item, Mapping) for item in several):
            raise ValueError(f"{key!r} needs a list of filters")
        joined = tuple(filter_of_mapping(item) for item in several)
        return [Combination(cast(Condition, _CONDITIONS[key]), joined)]
    operators = value if isinstance(value, Mapping) else {"$eq": value}
    unknown = [name for name in operators if name not in _OPERATORS]
    if unknown or not operators:
        name = unknown[0] if unknown else ""
        raise ValueError(f"on {key!r}: {name!r} is not one of {', '.join(_OPERATORS)}")
    return [
        Comparison(key, cast(Operator, _OPERATORS[name]), tuple(v) if isinstance(v, list) else v)
        for name, v in operators.items()
    ]
