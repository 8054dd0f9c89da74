"""Filters and exclusions: what is refused when they are made."""

from __future__ import annotations

import math

import pytest

from mrrag_llamaindex.store.chroma.record import where_of
from mrrag_llamaindex.store.filters import Combination, Comparison
from mrrag_llamaindex.store.hits import Exclusion, PairRecord


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("view", "contains", "PA"), "'contains'"),
        (("view", "in", "PA"), "several"),
        (("view", "==", ("PA",)), "one text"),
        (("view", "==", None), "one text"),
        (("view", "in", ("PA", None)), "value"),
        (("age", ">", math.nan), "NaN"),
        (("study_id", ">", 7), "no order"),
        (("", "==", 7), "key"),
    ],
)
def test_comparison_that_means_nothing_is_refused_by_name(arguments, word) -> None:
    with pytest.raises(ValueError, match=word):
        Comparison(*arguments)


@pytest.mark.parametrize(
    "arguments", [("xor", (Comparison("a", "==", 1),)), ("and", ()), ("or", (1,))]
)
def test_combination_that_means_nothing_is_refused(arguments) -> None:
    with pytest.raises(ValueError, match=r"condition|at least one"):
        Combination(*arguments)


def test_empty_list_of_values_matches_nothing_and_its_opposite_everything() -> None:
    assert not Comparison("view", "in", ()).matches({"view": "PA"})
    assert Comparison("view", "nin", ()).matches({})


def test_chroma_is_asked_only_for_what_cannot_lose_a_match() -> None:
    view, age = Comparison("view", "==", "PA"), Comparison("age", ">", 17)
    other = Comparison("view", "!=", "PA")
    assert where_of(view) == {"view": {"$eq": "PA"}}
    assert where_of(Combination("and", (view, other, age))) == {
        "$and": [{"view": {"$eq": "PA"}}, {"age": {"$gt": 17}}]
    }
    for wider in (other, Combination("or", (view, other)), Combination("not", (view,)),
                  Comparison("date", ">", "2020"), Comparison("doc_id", "==", "mine")):  # fmt: skip
        assert where_of(wider) is None


def test_bare_string_is_refused_rather_than_read_as_letters() -> None:
    with pytest.raises(ValueError, match="patient_ids is the string 'anna'"):
        Exclusion(patient_ids="anna")
    with pytest.raises(ValueError, match="strings only"):
        Exclusion(study_ids={7})


@pytest.mark.parametrize("name", ["pair_ids", "patient_ids"])
@pytest.mark.parametrize("item", ["", " ", "anna ", "\u200b"])
def test_an_exclusion_that_would_exclude_nobody_is_refused(name: str, item: str) -> None:
    with pytest.raises(ValueError, match=f"{name} holds .*, which (is|has|holds) "):
        Exclusion(**{name: frozenset({"bert", item})})


@pytest.mark.parametrize(
    ("stored", "given"),
    [
        ("M\u00fcller", "Mu\u0308ller"),
        ("Mu\u0308ller", "M\u00fcller"),  # of a store that an older version has made
        ("an\u200bna", "an\u200bna"),
        ("anna", "an\u200bna"),
    ],
)
def test_an_exclusion_leaves_out_every_spelling_of_an_id(stored: str, given: str) -> None:
    of_patient = PairRecord(pair_id="p", patient_id=stored)
    assert Exclusion(patient_ids=[given]).excludes(of_patient)
    assert Exclusion(pair_ids=[given]).excludes(PairRecord(pair_id=stored))
    assert not Exclusion(patient_ids=[given]).excludes(PairRecord(pair_id="p", patient_id="bert"))


def test_empty_exclusion_is_false() -> None:
    assert not Exclusion()
    assert Exclusion(study_ids={"s"})
