"""Values for the fields of pydantic models, checked one at a time."""

from __future__ import annotations

from typing import Annotated, Any

from llama_index.core.bridge.pydantic import TypeAdapter
from pydantic.fields import FieldInfo


def validated(field: FieldInfo, value: Any) -> Any:
    """Return a value as a field takes it.

    Raises
    ------
    pydantic.ValidationError
        If the field does not take it.
    """
    kind: Any = field.annotation
    for one in field.metadata:
        kind = Annotated[kind, one]
    return TypeAdapter(kind).validate_python(value)
