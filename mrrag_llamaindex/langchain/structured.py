"""Answers in a schema, for ``with_structured_output``."""

from __future__ import annotations

from typing import Any

from langchain_core.messages import BaseMessage
from langchain_core.runnables import Runnable, RunnableLambda
from pydantic import BaseModel

from mrrag_llamaindex.errors import InputError, ModelError
from mrrag_llamaindex.integration.structured_output import filled, require_fillable


def verdict_parser(
    schema: Any, include_raw: bool, options: dict[str, Any]
) -> Runnable[BaseMessage, Any]:
    """Return the step that fills a schema from the chat model's message.

    Parameters
    ----------
    schema : type of BaseModel
        One that `require_fillable` takes.
    include_raw : bool
        Return ``raw``, ``parsed`` and ``parsing_error`` instead, as every model of LangChain does.
    options : dict
        Others are refused: no tool is called, and no JSON is written by the model.

    Raises
    ------
    InputError
        If the schema is no pydantic class, or has a field that an answer does not give.
    ModelError
        If there are other options.
    """
    for name, value in options.items():
        if value is not None:
            raise ModelError(
                f"ChatMRRAG.with_structured_output does not take {name!r}: the schema is filled "
                "from the answer and its probabilities, and not by a tool call or JSON"
            )
    if not (isinstance(schema, type) and issubclass(schema, BaseModel)):
        raise InputError(
            "with_structured_output needs a pydantic class; other schemas are not read"
        )
    require_fillable(schema)

    def parse(message: BaseMessage) -> BaseModel:
        return filled(schema, str(message.text), message.response_metadata["mrrag"])

    def parse_raw(message: BaseMessage) -> dict[str, Any]:
        try:
            return {"raw": message, "parsed": parse(message), "parsing_error": None}
        except ModelError as error:
            return {"raw": message, "parsed": None, "parsing_error": error}

    return RunnableLambda(parse_raw if include_raw else parse, name=schema.__name__)
