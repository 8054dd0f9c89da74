"""LlamaIndex's metadata filters, node ids and document ids as a filter of the store."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias, cast, get_args

from llama_index.core.vector_stores import MetadataFilter, MetadataFilters

from mrrag_llamaindex.errors import InputError
from mrrag_llamaindex.store.filters import Combination, Comparison, Condition, Filter, Operator

GivenFilters: TypeAlias = MetadataFilters | Filter | None


def store_filter(
    filters: GivenFilters,
    node_ids: Sequence[str] | None = None,
    doc_ids: Sequence[str] | None = None,
) -> Filter | None:
    """Join what a host may restrict a retrieval by; None where it restricts nothing.

    Parameters
    ----------
    filters : MetadataFilters, Comparison or Combination, optional
        Keys are those of the nodes' metadata.
    node_ids, doc_ids : sequence of str, optional
        Pair ids: a pair is its own document.

    Raises
    ------
    InputError
        If there is an operator or a value that a store of pairs does not have, or no id in a list.
    """
    parts = [] if filters is None else [_converted(filters)]
    for name, ids in (("node_ids", node_ids), ("doc_ids", doc_ids)):
        if ids is None:
            continue
        if isinstance(ids, str) or not ids:
            raise InputError(f"{name} is {ids!r}; it must be a list with at least one pair id")
        parts.append(Comparison("pair_id", "in", tuple(ids)))
    filled = tuple(part for part in parts if part is not None)
    return Combination("and", filled) if len(filled) > 1 else next(iter(filled), None)


def _converted(filters: MetadataFilters | MetadataFilter | Filter) -> Filter | None:
    if isinstance(filters, (Comparison, Combination)):
        return filters
    try:
        if isinstance(filters, MetadataFilters):
            parts = [part for item in filters.filters if (part := _converted(item)) is not None]
            condition = filters.condition.value if filters.condition else "and"
            return Combination(cast(Condition, condition), tuple(parts)) if parts else None
        if isinstance(filters, MetadataFilter):
            return _comparison(filters)
    except ValueError as error:
        raise InputError(f"filters cannot be used: {error}") from None
    raise InputError(f"filters is a {type(filters).__name__}; give MetadataFilters")


def _comparison(item: MetadataFilter) -> Comparison:
    operator = item.operator.value
    if operator not in get_args(Operator):
        raise ValueError(
            f"on {item.key!r}: the operator {operator!r} is not one of "
            f"{', '.join(get_args(Operator))}"
        )
    if item.value is None:
        raise ValueError(f"on {item.key!r}: there is no value to compare with")
    value: Any = tuple(item.value) if isinstance(item.value, list) else item.value
    return Comparison(item.key, cast(Operator, operator), value)
