"""Which nodes a question is about, in Milvus's own words."""

from __future__ import annotations

import json
import re
from typing import Any, Final

from mrrag_llamaindex.store.filters import Comparison, Filter
from mrrag_llamaindex.store.llamaindex.record import FILTER_PREFIX, KIND_KEY, Kind

_PLAIN: Final = re.compile(r'[^"\\\x00-\x1f\x7f]*')


def expression(kind: Kind, filters: Filter | None) -> str:
    """Return what is true of the nodes of a kind that `narrowed` filters let pass, or of more."""
    parts = [f"{KIND_KEY} == {_literal(kind)}"]
    if filters is not None and (own := _condition(filters)) is not None:
        parts.append(own)
    return " and ".join(parts)


def _condition(item: Filter) -> str | None:
    if isinstance(item, Comparison):
        return _comparison(item)
    parts = [_condition(part) for part in item.filters]
    known = [part for part in parts if part is not None]
    if not known or (item.condition == "or" and len(known) < len(parts)):
        return None
    return "(" + f" {item.condition} ".join(known) + ")"


def _comparison(item: Comparison) -> str | None:
    """Return an expression, None where a text holds what its grammar escapes."""
    key = FILTER_PREFIX + item.key
    if item.operator in (">", ">=", "<", "<="):
        return f"{key} {item.operator} {_literal(item.value)}"
    texts = [value for value in item.values if isinstance(value, str)]
    plain = [value for value in texts if _PLAIN.fullmatch(value)]
    if item.operator in ("!=", "nin"):  # what cannot be said is left out later
        return f"{key} not in [{', '.join(map(_literal, plain))}]" if plain else None
    if len(plain) < len(texts):
        return None
    parts = [f"{key} == {_literal(one)}" for one in item.values if not isinstance(one, str)]
    if texts:
        parts.append(f"{key} in [{', '.join(map(_literal, texts))}]")
    return "(" + " or ".join(parts) + ")"


def _literal(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
