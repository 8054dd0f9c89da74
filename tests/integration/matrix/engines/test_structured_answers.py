"""Answers in a schema: ``output_cls`` and ``as_structured_llm`` in every mode that takes them."""

from __future__ import annotations

from enum import Enum
from typing import Literal

import pytest
from llama_index.core.chat_engine.types import ChatMode
from llama_index.core.evaluation import FaithfulnessEvaluator
from llama_index.core.program import LLMTextCompletionProgram
from llama_index.core.response_synthesizers import ResponseMode
from pydantic import BaseModel, Field

from mrrag_llamaindex import answer_trace, query_image
from mrrag_llamaindex.errors import InputError, MRRAGError
from tests.integration.matrix.conftest import PATIENT, QUESTION
from tests.integration.matrix.engines.test_response_modes import CROSSED, ask

pytestmark = pytest.mark.slow

WITH_SCHEMA = {
    ResponseMode.COMPACT,
    ResponseMode.REFINE,
    ResponseMode.TREE_SUMMARIZE,
    ResponseMode.ACCUMULATE,
    ResponseMode.COMPACT_ACCUMULATE,
}


class Presence(Enum):
    YES = "yes"
    NO = "no"


class Verdict(BaseModel):
    """Whether a finding is there."""

    present: bool
    p_yes: float = Field(ge=0, le=1)
    p_no: float
    document_ids: list[str]


class Word(BaseModel):
    """The same in a word."""

    verdict: Literal["yes", "no"]
    confidence: float


class Choice(BaseModel):
    """The same as a member."""

    verdict: Presence
    answer: str


schemas = pytest.mark.parametrize("schema", [Verdict, Word, Choice])


@schemas
@pytest.mark.parametrize(
    ("mode", "way"), [(m, w) for m, w in CROSSED if m in WITH_SCHEMA and w in ("at once", "async")]
)
async def test_schema_by_the_engine(hospital, llm, checks, mode, way, schema):
    engine = hospital.index.as_query_engine(llm, response_mode=mode, output_cls=schema)
    response, text = await ask(engine, checks.bundle(), way)
    answers = checks.answered(response, text=text)
    if "accumulate" in mode.value:  # the host writes the schemas one after another, as text
        assert all(f"{name}=" in text for name in schema.model_fields)
        return
    result = response.response
    assert isinstance(result, schema)
    last = answers[-1]
    yes = last.p_yes >= last.p_no
    if schema is Verdict:
        assert (result.present, result.p_yes, result.p_no) == (yes, last.p_yes, last.p_no)
        assert result.document_ids == list(last.document_ids)
    else:
        assert getattr(result.verdict, "value", result.verdict) == ("yes" if yes else "no")


SINGLE = [m for m in CROSSED if "stream" not in m[1] and "accumulate" not in m[0].value]


@schemas
@pytest.mark.parametrize(("mode", "way"), SINGLE)
async def test_schema_by_the_llm(hospital, llm, checks, mode, way, schema):
    engine = hospital.index.as_query_engine(llm.as_structured_llm(schema), response_mode=mode)
    response, text = await ask(engine, checks.bundle(), way)
    answers = checks.answered(response, text=text)
    result = schema.model_validate_json(text)
    verdict = result.present if schema is Verdict else result.verdict
    yes = answers[-1].p_yes >= answers[-1].p_no
    assert getattr(verdict, "value", verdict) in ((True, "yes") if yes else (False, "no"))


@pytest.mark.parametrize(("mode", "way"), [one for one in CROSSED if one not in SINGLE])
def test_llm_in_a_schema_is_refused_where_the_host_cannot_read_it(hospital, llm, mode, way):
    structured = llm.as_structured_llm(Verdict)
    with pytest.raises(InputError, match="one whole answer"):
        hospital.index.as_query_engine(structured, response_mode=mode, streaming="stream" in way)


@pytest.mark.parametrize("mode", sorted(set(ResponseMode) - WITH_SCHEMA))
def test_schema_is_refused_where_the_host_drops_it(hospital, llm, mode):
    with pytest.raises(InputError, match="output_cls has no effect"):
        hospital.index.as_query_engine(llm, response_mode=mode, output_cls=Verdict)


@pytest.mark.parametrize("way", ["chat", "achat"])
@pytest.mark.parametrize("mode", [ChatMode.CONTEXT, ChatMode.CONDENSE_PLUS_CONTEXT])
async def test_schema_in_chat(hospital, llm, checks, mode, way):
    chat = hospital.index.as_chat_engine(chat_mode=mode, llm=llm.as_structured_llm(Verdict))
    with query_image(hospital.images[PATIENT]):
        response = getattr(chat, way)(QUESTION)
        response = await response if way == "achat" else response
    answers = checks.answered(response)
    assert Verdict.model_validate_json(str(response)).p_yes == answers[-1].p_yes


def test_schema_of_more_than_a_verdict_is_refused_by_name(hospital, llm, checks):
    class Report(BaseModel):
        present: bool
        size_mm: float

    with pytest.raises(InputError, match="size_mm"):
        hospital.index.as_query_engine(llm, output_cls=Report).query(checks.bundle())
    with pytest.raises(InputError, match="size_mm"):
        llm.as_structured_llm(Report)


def test_program_by_text_is_refused(llm):
    program = LLMTextCompletionProgram.from_defaults(
        output_cls=Verdict, prompt_template_str="{query_str}", llm=llm
    )
    with pytest.raises(InputError, match="asks for JSON"):
        program(query_str=QUESTION)


def test_structured_llm_as_a_judge_is_refused(hospital, llm, checks):
    response = hospital.index.as_query_engine(llm).query(checks.bundle())
    assert answer_trace(response.source_nodes)
    judge = FaithfulnessEvaluator(llm=llm.as_structured_llm(Verdict))
    with pytest.raises(MRRAGError, match="another LLM"):
        judge.evaluate_response(QUESTION, response)
