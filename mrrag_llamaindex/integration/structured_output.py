"""Answers in a schema: a yes/no verdict and its probabilities, as ``output_cls`` asks for."""

from __future__ import annotations

import re
import types
from collections.abc import AsyncGenerator, Generator, Mapping
from enum import Enum
from functools import partialmethod
from typing import Any, ClassVar, Literal, Union, get_args, get_origin

from llama_index.core.bridge.pydantic import BaseModel, ValidationError
from llama_index.core.llms.structured_llm import StructuredLLM
from llama_index.core.prompts.base import BasePromptTemplate
from llama_index.core.types import TokenAsyncGen, TokenGen
from pydantic import AliasChoices
from pydantic.fields import FieldInfo

from mrrag_llamaindex.errors import InputError, ModelError
from mrrag_llamaindex.integration.inputs.fields import validated

_NUMBERS = {
    "p_yes": lambda facts: facts["p_yes"],
    "p_no": lambda facts: facts["p_no"],
    "confidence": lambda facts: max(facts["p_yes"], facts["p_no"]),
}
_LISTS = ("document_ids", "sources")
_TEXTS = ("answer", "text")
_EXAMPLES = (
    {"p_yes": 0.75, "p_no": 0.125, "document_ids": ("first", "second")},
    {"p_yes": 0.125, "p_no": 0.75, "document_ids": ("first",)},
)
"""What answers give, to try a schema on."""


def require_fillable(output_cls: type[BaseModel]) -> None:
    """Raise `InputError` unless every field of a schema is one that an answer gives.

    A schema has exactly one verdict: a bool, or a Literal or Enum that has ``"yes"`` and ``"no"``.
    Beside it there may be ``p_yes``, ``p_no`` and ``confidence`` (the larger of them) as numbers,
    ``answer`` or ``text`` as text, and ``document_ids`` or ``sources`` as a list of text. A schema
    that would refuse what an answer may give is refused here, where a host would hide its error.
    """
    if not (isinstance(output_cls, type) and issubclass(output_cls, BaseModel)):
        raise InputError(
            f"output_cls is {output_cls!r}; give a class derived from pydantic's BaseModel"
        )
    verdicts = []
    for name, field in output_cls.model_fields.items():
        if _verdicts(field.annotation) is not None:
            verdicts.append(name)
        elif name not in (*_NUMBERS, *_LISTS, *_TEXTS):
            raise InputError(
                f"{output_cls.__name__}.{name} cannot be filled: this model gives a verdict (bool, "
                'or a Literal or Enum with "yes" and "no"), p_yes, p_no, confidence, answer, and '
                "document_ids; a field with a default would hold it whatever the image shows"
            )
    if len(verdicts) != 1:
        raise InputError(
            f"{output_cls.__name__} has {len(verdicts)} verdicts ({', '.join(verdicts) or 'none'}) "
            "and needs exactly one bool, or Literal or Enum with yes and no: one question has one "
            "answer; ask a question for each finding"
        )
    by_name = output_cls.model_config.get("populate_by_name")
    by_name = by_name or output_cls.model_config.get("validate_by_name")
    aliased = [name for name, field in output_cls.model_fields.items() if _key(name, field) != name]
    if aliased and not by_name:
        raise InputError(
            f"{output_cls.__name__}.{aliased[0]} has an alias: LlamaIndex writes an answer by the "
            "names of the fields and reads it again, so give the schema populate_by_name=True"
        )
    for facts in _EXAMPLES:
        for name, value in _values(output_cls, "yes", facts).items():
            _require_taken(output_cls, name, value)


def _require_taken(output_cls: type[BaseModel], name: str, value: Any) -> None:
    try:
        validated(output_cls.model_fields[name], value)
    except ValidationError as error:
        raise InputError(
            f"{output_cls.__name__}.{name} does not take what an answer gives, for example "
            f"{value!r}: {error.errors()[0]['msg']}; probabilities are numbers between 0 and 1, "
            "answer is text, and document_ids a list of text"
        ) from None


def filled(output_cls: type[BaseModel], text: str, facts: Mapping[str, Any]) -> BaseModel:
    """Fill a schema from an answer.

    Parameters
    ----------
    output_cls : type of BaseModel
        See `require_fillable`.
    text : str
        The answer.
    facts : mapping
        `answer_facts` of it.

    Raises
    ------
    ModelError
        If the answer is neither yes nor no, or a rule of the schema refuses the values.
    """
    if not re.match(r"\s*(yes|no)\b", text, re.IGNORECASE):
        raise ModelError(
            f"{output_cls.__name__} asks for a verdict, and the model's answer is neither yes nor "
            "no: ask a question that is answered by yes or no, or leave output_cls out"
        )
    fields = output_cls.model_fields
    values = {
        _key(name, fields[name]): value for name, value in _values(output_cls, text, facts).items()
    }
    try:
        return output_cls(**values)
    except ValidationError as error:
        place = ".".join(map(str, error.errors()[0]["loc"])) or "the whole"
        raise ModelError(
            f"{output_cls.__name__} refuses the answer, at {place}: {error.errors()[0]['msg']}"
        ) from None


def _key(name: str, field: FieldInfo) -> str:
    """Return what a field is called where its values are given."""
    alias = field.validation_alias
    if isinstance(alias, AliasChoices):
        alias = next((one for one in alias.choices if isinstance(one, str)), None)
    return alias if isinstance(alias, str) else name


def _values(output_cls: type[BaseModel], text: str, facts: Mapping[str, Any]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, field in output_cls.model_fields.items():
        verdicts = _verdicts(field.annotation)
        if verdicts is not None:
            values[name] = verdicts[facts["p_yes"] >= facts["p_no"]]
        elif name in _NUMBERS:
            values[name] = _NUMBERS[name](facts)
        else:
            values[name] = list(facts["document_ids"]) if name in _LISTS else text
    return values


def _verdicts(annotation: Any) -> dict[bool, Any] | None:
    """Return what a field takes for no and yes; None if it is no verdict."""
    if get_origin(annotation) in (Union, types.UnionType):
        kinds = [one for one in get_args(annotation) if one is not type(None)]
        return _verdicts(kinds[0]) if len(kinds) == 1 else None
    if annotation is bool:
        return {False: False, True: True}
    values: list[Any] = []
    if get_origin(annotation) is Literal:
        values = list(get_args(annotation))
    elif isinstance(annotation, type) and issubclass(annotation, Enum):
        values = list(annotation)
    words = {str(getattr(value, "value", value)).lower(): value for value in values}
    return {False: words["no"], True: words["yes"]} if {"yes", "no"} <= words.keys() else None


def _predict(llm: Any, prompt: BasePromptTemplate, **prompt_args: Any) -> str:
    return str(llm.llm.structured_predict(llm.output_cls, prompt, **prompt_args).model_dump_json())


async def _apredict(llm: Any, prompt: BasePromptTemplate, **prompt_args: Any) -> str:
    result = await llm.llm.astructured_predict(llm.output_cls, prompt, **prompt_args)
    return str(result.model_dump_json())


def _stream(llm: Any, prompt: BasePromptTemplate, **prompt_args: Any) -> TokenGen:
    def tokens() -> Generator[str, None, None]:
        yield _predict(llm, prompt, **prompt_args)

    return tokens()


async def _astream(llm: Any, prompt: BasePromptTemplate, **prompt_args: Any) -> TokenAsyncGen:
    async def tokens() -> AsyncGenerator[str, None]:
        yield await _apredict(llm, prompt, **prompt_args)

    return tokens()


class MRRAGStructuredLLM(StructuredLLM):
    """`MRRAGLLaVA` whose answers are JSON of a schema; made by its ``as_structured_llm``.

    The host's own would fill the template itself and hand on finished text.
    """

    # As in `EntryPoints`: plain methods would be wrapped in spans that record markers.
    predict: ClassVar[Any] = partialmethod(_predict)
    apredict: ClassVar[Any] = partialmethod(_apredict)
    stream: ClassVar[Any] = partialmethod(_stream)
    astream: ClassVar[Any] = partialmethod(_astream)
