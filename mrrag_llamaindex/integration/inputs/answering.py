"""How an engine is told to answer: what the host would drop beside other options is refused."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from llama_index.core.callbacks import CallbackManager
from llama_index.core.llms import LLM
from llama_index.core.llms.structured_llm import StructuredLLM
from llama_index.core.llms.utils import resolve_llm
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.prompts import BasePromptTemplate
from llama_index.core.response_synthesizers import BaseSynthesizer, ResponseMode

from mrrag_llamaindex.errors import InputError

_CONTENT = ("chat_content_qa_template", "chat_content_refine_template")
_TEMPLATES: dict[ResponseMode, tuple[str, ...]] = {
    ResponseMode.REFINE: ("text_qa_template", "refine_template", *_CONTENT),
    ResponseMode.COMPACT: ("text_qa_template", "refine_template", *_CONTENT),
    ResponseMode.SIMPLE_SUMMARIZE: ("text_qa_template", _CONTENT[0]),
    ResponseMode.TREE_SUMMARIZE: ("summary_template",),
    ResponseMode.GENERATION: ("simple_template",),
    ResponseMode.NO_TEXT: (),
    ResponseMode.ACCUMULATE: ("text_qa_template", _CONTENT[0]),
    ResponseMode.CONTEXT_ONLY: (),
    ResponseMode.COMPACT_ACCUMULATE: ("text_qa_template", _CONTENT[0]),
}
"""The templates that the host's synthesizers of each mode read."""

_WITHOUT_SCHEMA = (
    ResponseMode.SIMPLE_SUMMARIZE,
    ResponseMode.GENERATION,
    ResponseMode.NO_TEXT,
    ResponseMode.CONTEXT_ONLY,
)
_SEVERAL_ANSWERS = (ResponseMode.ACCUMULATE, ResponseMode.COMPACT_ACCUMULATE)
_READ_AS = {
    **{name: name for names in _TEMPLATES.values() for name in names},
    "citation_qa_template": "text_qa_template",
    "citation_refine_template": "refine_template",
    "citation_chat_content_qa_template": _CONTENT[0],
    "citation_chat_content_refine_template": _CONTENT[1],
}
"""Options that are templates, and what a synthesizer calls them."""

_OF_THE_SYNTHESIZER = (
    *_READ_AS,
    "response_mode",
    "output_cls",
    "streaming",
    "use_async",
    "multimodal",
    "verbose",
)


def resolved_llm(llm: Any, caller: str, callback_manager: CallbackManager | None = None) -> LLM:
    """Return the LLM that a host means; raise `InputError` if it is none."""
    try:
        return resolve_llm(llm, callback_manager=callback_manager)
    except AssertionError:
        raise InputError(
            f"{caller}: llm is a {_kind(llm)}, and not an LLM of LlamaIndex: give MRRAGLLaVA(...), "
            "or another LLM"
        ) from None


def require_answerable(llm: Any, options: Mapping[str, Any], caller: str) -> None:
    """Raise `InputError` for options of an engine that the host would drop, or fail on.

    Parameters
    ----------
    llm : LLM
        The one that answers.
    options : mapping
        Those that were given to a query engine.
    caller : str
        For the message.
    """
    _require_kinds(options, caller)
    synthesizer = options.get("response_synthesizer")
    if synthesizer is not None:
        _require_none_beside(synthesizer, options, caller)
        return
    mode = _mode(options, caller)
    _require_read(mode, options, caller)
    _require_mode_with_schema(mode, llm, options)


def require_synthesizer(synthesizer: Any, llm: Any, caller: str) -> None:
    """Raise `InputError` unless it is a synthesizer, or None, and answers by the same LLM."""
    if synthesizer is None:
        return
    if not isinstance(synthesizer, BaseSynthesizer):
        raise InputError(
            f"{caller}: response_synthesizer is a {_kind(synthesizer)}, and not a synthesizer of "
            "LlamaIndex; a mode by its name is response_mode="
        )
    if llm is None or synthesizer._llm is llm:
        return
    raise InputError(
        f"{caller} is given llm= and a response_synthesizer with another LLM, which is the one "
        "that would answer: leave llm= out, or give both the same"
    )


def _require_kinds(options: Mapping[str, Any], caller: str) -> None:
    for name in _READ_AS:
        value = options.get(name)
        if value is not None and not isinstance(value, BasePromptTemplate):
            raise InputError(
                f"{caller}: {name} is a {_kind(value)}, and not a template of LlamaIndex: give "
                "PromptTemplate(...)"
            )
    require_postprocessors(options.get("node_postprocessors"), caller)


def require_postprocessors(steps: Any, caller: str) -> None:
    """Raise `InputError` unless ``steps`` are postprocessors in a list; None is none."""
    if steps is None:
        return
    # A pydantic model can be iterated over, too.
    several = isinstance(steps, Iterable) and not isinstance(steps, BaseNodePostprocessor)
    wrong = (
        [step for step in steps if not isinstance(step, BaseNodePostprocessor)] if several else []
    )
    if several and not wrong:
        return
    what = f"holds a {_kind(wrong[0])}" if wrong else f"is a {_kind(steps)}"
    raise InputError(f"{caller}: node_postprocessors {what}; it is a list of postprocessors")


def _kind(value: Any) -> str:
    return f"class ({value.__name__})" if isinstance(value, type) else type(value).__name__


def _mode(options: Mapping[str, Any], caller: str) -> ResponseMode:
    given = options.get("response_mode", ResponseMode.COMPACT)
    try:
        return ResponseMode(given)
    except ValueError:
        names = ", ".join(mode.value for mode in ResponseMode)
        raise InputError(
            f"{caller}: there is no response_mode {given!r}; there are {names}"
        ) from None


def _require_none_beside(
    synthesizer: BaseSynthesizer, options: Mapping[str, Any], caller: str
) -> None:
    for name in _OF_THE_SYNTHESIZER:
        value = options.get(name)
        if value is None or value is False:
            continue
        if getattr(synthesizer, f"_{_READ_AS.get(name, name)}", None) == value:
            continue
        raise InputError(
            f"{caller} cannot honour {name} beside response_synthesizer, which has its own: give "
            f"{name} to {type(synthesizer).__name__}, or leave one of the two out"
        )


def _require_read(mode: ResponseMode, options: Mapping[str, Any], caller: str) -> None:
    multimodal = bool(options.get("multimodal"))
    for name, read_as in _READ_AS.items():
        if options.get(name) is None:
            continue
        if read_as not in _TEMPLATES[mode]:
            names = ", ".join(_TEMPLATES[mode]) or "no template"
            raise InputError(
                f"{caller} cannot honour {name}: response_mode={mode.value!r} reads {names}"
            )
        if (read_as in _CONTENT) != multimodal and mode != ResponseMode.GENERATION:
            raise InputError(
                f"{caller} cannot honour {name} with multimodal={multimodal}: the host reads "
                f"{'chat_content' if multimodal else 'text'} templates then"
            )


def _require_mode_with_schema(mode: ResponseMode, llm: Any, options: Mapping[str, Any]) -> None:
    schema = options.get("output_cls")
    if schema is not None and mode in _WITHOUT_SCHEMA:
        raise InputError(
            f"output_cls has no effect with response_mode={mode.value!r}: take compact, refine or "
            "tree_summarize, or leave output_cls out"
        )
    if schema is not None and options.get("streaming"):
        raise InputError(
            "output_cls has no effect with streaming=True: LlamaIndex streams the text alone, or "
            "the words Empty Response; leave one of the two out"
        )
    if isinstance(llm, StructuredLLM) and (mode in _SEVERAL_ANSWERS or options.get("streaming")):
        what = "streaming=True" if options.get("streaming") else f"response_mode={mode.value!r}"
        raise InputError(
            f"the LLM answers in a schema, and LlamaIndex cannot read that with {what}: it parses "
            "one whole answer; give output_cls= with the plain LLM, or leave this option out"
        )
