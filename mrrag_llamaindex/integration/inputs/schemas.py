"""Which of the host's response modes can answer in a schema."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llama_index.core.llms.structured_llm import StructuredLLM
from llama_index.core.response_synthesizers import ResponseMode

from mrrag_llamaindex.errors import InputError

_WITHOUT_SCHEMA = (
    ResponseMode.SIMPLE_SUMMARIZE,
    ResponseMode.GENERATION,
    ResponseMode.NO_TEXT,
    ResponseMode.CONTEXT_ONLY,
)
_SEVERAL_ANSWERS = (ResponseMode.ACCUMULATE, ResponseMode.COMPACT_ACCUMULATE)


def require_mode_with_schema(llm: Any, options: Mapping[str, Any]) -> None:
    """Raise `InputError` where the host would drop a schema or fail on the answer.

    Parameters
    ----------
    llm : LLM
    options : mapping
        Of a query engine: ``response_mode``, ``output_cls`` and ``streaming`` count.
    """
    mode = ResponseMode(options.get("response_mode", ResponseMode.COMPACT))
    if options.get("output_cls") is not None and mode in _WITHOUT_SCHEMA:
        raise InputError(
            f"output_cls has no effect with response_mode={mode.value!r}: take compact, refine or "
            "tree_summarize, or leave output_cls out"
        )
    if isinstance(llm, StructuredLLM) and (mode in _SEVERAL_ANSWERS or options.get("streaming")):
        what = "streaming=True" if options.get("streaming") else f"response_mode={mode.value!r}"
        raise InputError(
            f"the LLM answers in a schema, and LlamaIndex cannot read that with {what}: it parses "
            "one whole answer; give output_cls= with the plain LLM, or leave this option out"
        )
