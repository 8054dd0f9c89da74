"""Metadata filters of the host: operators, conditions, nesting, and every engine."""

from __future__ import annotations

import pytest
from llama_index.core.chat_engine.types import ChatMode
from llama_index.core.vector_stores import (
    FilterCondition,
    FilterOperator,
    MetadataFilter,
    MetadataFilters,
)
from pydantic import ValidationError

from mrrag_llamaindex import MRRAGIndex, Pair, answer_trace, query_image
from mrrag_llamaindex.errors import EvidenceError, InputError
from mrrag_llamaindex.store.filters import Comparison
from tests.integration.matrix.conftest import PATIENT, QUESTION

AGES = {f"p{number}": 20 + 10 * number for number in range(6)}
VIEWS = ("PA", "AP", "lateral")


@pytest.fixture(scope="module")
def ward(hospital, towers) -> MRRAGIndex:
    """Six patients with age, view, a flag and, for half of them, a note."""
    paths = list(hospital.images.values())
    pairs = []
    for number, (name, age) in enumerate(AGES.items()):
        metadata = {"age": age, "view": VIEWS[number % 3], "urgent": "ny"[number % 2 == 0]}
        metadata["seen"] = number == 4
        if number < 3:
            metadata["note"] = f"ward {number}"
        pairs.append(Pair(paths[number], f"There is edema {number}.", name, name, metadata))
    return MRRAGIndex.from_pairs(pairs, towers)


def some(key, value, operator=FilterOperator.EQ):
    return MetadataFilters(filters=[MetadataFilter(key=key, value=value, operator=operator)])


O = FilterOperator  # noqa: E741
HONOURED = [
    (O.EQ, "view", "PA", {"p0", "p3"}),
    (O.EQ, "age", 40, {"p2"}),
    (O.EQ, "urgent", "y", {"p0", "p2", "p4"}),
    (O.EQ, "patient_id", "p1", {"p1"}),
    (O.NE, "view", "PA", {"p1", "p2", "p4", "p5"}),
    (O.NE, "note", "ward 1", {"p0", "p2", "p3", "p4", "p5"}),
    (O.GT, "age", 40, {"p3", "p4", "p5"}),
    (O.GTE, "age", 40, {"p2", "p3", "p4", "p5"}),
    (O.LT, "age", 40.5, {"p0", "p1", "p2"}),
    (O.LTE, "age", 40, {"p0", "p1", "p2"}),
    (O.IN, "view", ["AP", "lateral"], {"p1", "p2", "p4", "p5"}),
    (O.IN, "age", [20, 70], {"p0", "p5"}),
    (O.NIN, "view", ["AP", "lateral"], {"p0", "p3"}),
    (O.NIN, "note", ["ward 1"], {"p0", "p2", "p3", "p4", "p5"}),
]
REFUSED = {
    O.ANY: ["PA"],
    O.ALL: ["PA"],
    O.CONTAINS: "PA",
    O.TEXT_MATCH: "PA",
    O.TEXT_MATCH_INSENSITIVE: "pa",
    O.IS_EMPTY: None,
}


def test_every_operator_of_the_host_is_here():
    assert {one[0] for one in HONOURED} | set(REFUSED) == set(FilterOperator)


def patients(index, hospital, filters, **options):
    retriever = index.as_retriever(filters=filters, **options)
    with query_image(hospital.images[PATIENT]):
        return {item.node.metadata["patient_id"] for item in retriever.retrieve(QUESTION)}


@pytest.mark.parametrize(("operator", "key", "value", "expected"), HONOURED)
def test_operator(ward, hospital, operator, key, value, expected):
    assert patients(ward, hospital, some(key, value, operator)) == expected


@pytest.mark.parametrize("operator", REFUSED)
def test_operator_that_pairs_do_not_have(ward, operator):
    with pytest.raises(InputError, match="view"):
        ward.as_retriever(filters=some("view", REFUSED[operator], operator))


PA, OLD, URGENT = some("view", "PA"), some("age", 45, O.GT), some("urgent", "y")
NESTED = [
    (FilterCondition.AND, [PA, OLD], {"p3"}),
    (FilterCondition.OR, [PA, OLD], {"p0", "p3", "p4", "p5"}),
    (FilterCondition.NOT, [PA], {"p1", "p2", "p4", "p5"}),
    (
        FilterCondition.AND,
        [MetadataFilters(filters=[PA, OLD], condition=FilterCondition.OR), URGENT],
        {"p0", "p4"},
    ),
    (
        FilterCondition.OR,
        [MetadataFilters(filters=[PA, URGENT], condition=FilterCondition.AND), some("age", 30)],
        {"p0", "p1"},
    ),
    (
        FilterCondition.AND,
        [MetadataFilters(filters=[PA, OLD], condition=FilterCondition.NOT), URGENT],
        {"p2"},
    ),
]


@pytest.mark.parametrize(("condition", "parts", "expected"), NESTED)
def test_nesting(ward, hospital, condition, parts, expected):
    filters = MetadataFilters(filters=parts, condition=condition)
    assert patients(ward, hospital, filters) == expected


def test_conditions_are_all_here():
    assert {one[0] for one in NESTED} == set(FilterCondition)


@pytest.mark.parametrize("option", ["node_ids", "doc_ids"])
def test_ids(ward, hospital, option):
    assert patients(ward, hospital, None, **{option: ["p1", "p4"]}) == {"p1", "p4"}
    assert patients(ward, hospital, PA, **{option: ["p0", "p4"]}) == {"p0"}
    with pytest.raises(EvidenceError, match="none of them"):
        patients(ward, hospital, None, **{option: ["absent"]})


def test_true_and_false_by_a_comparison_of_the_store(ward, hospital):
    """The host's filters take no such values."""
    with pytest.raises(ValidationError):
        some("seen", True)
    assert patients(ward, hospital, Comparison("seen", "==", True)) == {"p4"}


def engine_of(index, llm, kind, **options):
    """Return how an engine is asked."""
    if kind == "query":
        return index.as_query_engine(llm, **options).query
    if kind == "citation":
        return index.as_citation_engine(llm, **options).query
    return index.as_chat_engine(chat_mode=kind, llm=llm, **options).chat


ENGINES = (
    "query",
    "citation",
    ChatMode.BEST,
    ChatMode.CONTEXT,
    ChatMode.CONDENSE_QUESTION,
    ChatMode.CONDENSE_PLUS_CONTEXT,
)

engines = pytest.mark.parametrize("kind", ENGINES)


@engines
def test_engine_answers_from_what_the_filter_leaves(ward, hospital, llm, kind):
    ask = engine_of(ward, llm, kind, filters=PA, image=hospital.images[PATIENT])
    response = ask(QUESTION)
    assert {item.node.node_id for item in response.source_nodes} == {"p0", "p3"}
    (answer,) = answer_trace(response.source_nodes)
    assert set(answer.document_ids) == {"p0", "p3"}


@engines
def test_filter_that_leaves_nothing_is_an_error(ward, hospital, llm, kind):
    filters = some("view", "none")
    ask = engine_of(ward, llm, kind, filters=filters, image=hospital.images[PATIENT])
    with pytest.raises(EvidenceError, match="no documents found"):
        ask(QUESTION)
