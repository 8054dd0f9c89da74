"""A yes/no schema is filled from p(yes) and p(no); what cannot be filled is refused by name."""

from __future__ import annotations

from enum import Enum
from typing import Annotated, Literal

import pytest
from llama_index.core import QueryBundle
from pydantic import AliasChoices, BaseModel, ConfigDict, Field, model_validator

from mrrag_llamaindex import answer_trace
from mrrag_llamaindex.errors import InputError, ModelError
from mrrag_llamaindex.integration.structured_output import filled, require_fillable

QUESTION = "Is there a pleural effusion?"


class Verdict(Enum):
    YES = "yes"
    NO = "no"
    UNCLEAR = "unclear"


class Finding(BaseModel):
    present: bool
    p_yes: float
    confidence: float
    answer: str
    document_ids: list[str]


class Enumerated(BaseModel):
    verdict: Verdict


class Literally(BaseModel):
    verdict: Literal["Yes", "No"] | None


FACTS = {"p_yes": 0.25, "p_no": 0.5, "document_ids": ("a", "b")}


def test_each_field_comes_from_the_answer():
    finding = filled(Finding, "No.", FACTS)
    expected = Finding(
        present=False, p_yes=0.25, confidence=0.5, answer="No.", document_ids=["a", "b"]
    )
    assert finding == expected
    assert filled(Enumerated, "no", FACTS).verdict is Verdict.NO
    assert filled(Literally, "yes, it is", {**FACTS, "p_yes": 0.6}).verdict == "Yes"


@pytest.mark.parametrize("text", ["Nothing is seen.", "yesterday", "The heart is large.", ""])
def test_no_verdict_is_made_of_another_answer(text):
    with pytest.raises(ModelError, match="neither yes nor no"):
        filled(Enumerated, text, FACTS)


class Severe(BaseModel):
    present: bool
    severity: str = "none"


class Two(BaseModel):
    effusion: bool
    nodule: bool


class Without(BaseModel):
    answer: str


@pytest.mark.parametrize(
    ("kind", "match"), [(Severe, "severity"), (Two, "2 verdicts"), (Without, "0 verdicts")]
)
def test_schemas_that_cannot_be_filled_are_refused(kind, match, llm):
    with pytest.raises(InputError, match=match):
        require_fillable(kind)
    with pytest.raises(InputError, match=match):
        llm.as_structured_llm(kind)


class Whole(BaseModel):
    present: bool
    p_yes: int


class Percent(BaseModel):
    present: bool
    p_yes: float = Field(gt=1, le=100)


class Said(BaseModel):
    present: bool
    confidence: str


class Aliased(BaseModel):
    present: bool = Field(alias="isPresent")


@pytest.mark.parametrize(
    ("kind", "match"),
    [
        (Whole, "p_yes does not take.*integer"),
        (Percent, "p_yes does not take.*greater than 1"),
        (Said, "confidence does not take.*string"),
        (Aliased, "populate_by_name"),
        (dict, "BaseModel"),
        ("Finding", "BaseModel"),
    ],
)
def test_schemas_that_refuse_what_an_answer_gives_are_refused(kind, match, hospital, llm, image):
    """LlamaIndex would hide their errors behind the words Empty Response."""
    with pytest.raises(InputError, match=match):
        llm.as_structured_llm(kind)
    engine = hospital.index.as_query_engine(llm=llm, output_cls=kind)
    with pytest.raises(InputError, match=match):
        engine.query(QueryBundle(QUESTION, image_path=str(image)))


class Loose(BaseModel):
    model_config = ConfigDict(populate_by_name=True)
    present: bool | None = Field(None, validation_alias=AliasChoices("isPresent", "is_present"))
    p_yes: Annotated[float, Field(ge=0, le=1)] | None = None
    document_ids: tuple[str, ...] = ()


def test_aliases_optional_and_annotated_fields_are_filled(hospital, llm, image):
    engine = hospital.index.as_query_engine(llm=llm, output_cls=Loose)
    response = engine.query(QueryBundle(QUESTION, image_path=str(image)))
    (answer,) = answer_trace(response)
    expected = Loose(present=answer.p_yes >= answer.p_no, p_yes=answer.p_yes)
    assert response.response == expected.model_copy(update={"document_ids": answer.document_ids})


class Sure(BaseModel):
    present: bool
    p_yes: float

    @model_validator(mode="after")
    def certain(self):
        if 0.01 < self.p_yes <= 1:
            raise ValueError("not certain enough")
        return self


@pytest.mark.parametrize("mode", ["compact", "refine", "tree_summarize", "accumulate"])
def test_a_rule_of_the_schema_that_an_answer_breaks_is_an_error(hospital, llm, image, mode):
    engine = hospital.index.as_query_engine(llm=llm, output_cls=Sure, response_mode=mode)
    with pytest.raises(ModelError, match=r"Sure refuses the answer.*not certain enough"):
        engine.query(QueryBundle(QUESTION, image_path=str(image)))


@pytest.mark.parametrize("mode", ["compact", "refine", "tree_summarize", "accumulate"])
def test_a_schema_is_not_streamed(hospital, llm, mode):
    with pytest.raises(InputError, match="output_cls has no effect with streaming"):
        hospital.index.as_query_engine(
            llm=llm, output_cls=Finding, response_mode=mode, streaming=True
        )


@pytest.mark.parametrize("mode", ["compact", "refine", "tree_summarize"])
@pytest.mark.parametrize("streaming", [False, True])
async def test_engines_answer_in_a_schema(hospital, llm, image, mode, streaming):
    bundle = QueryBundle(QUESTION, image_path=str(image))
    structured = hospital.index.as_query_engine(
        llm=llm.as_structured_llm(Finding), response_mode=mode
    )
    responses = [structured.query(bundle), await structured.aquery(bundle)]
    if not streaming:
        engine = hospital.index.as_query_engine(llm=llm, output_cls=Finding, response_mode=mode)
        responses += [engine.query(bundle), await engine.aquery(bundle)]
    for response in responses:
        answer = answer_trace(response.source_nodes)[-1]
        assert answer.steering.applied or mode != "compact"
        finding = response.response
        assert (finding.present, finding.p_yes) == (answer.p_yes >= answer.p_no, answer.p_yes)
        assert tuple(finding.document_ids) == answer.document_ids


def test_a_schema_that_cannot_be_filled_passes_through_the_engine(hospital, llm, image):
    engine = hospital.index.as_query_engine(llm=llm, output_cls=Severe)
    with pytest.raises(InputError, match="severity"):
        engine.query(QueryBundle(QUESTION, image_path=str(image)))
