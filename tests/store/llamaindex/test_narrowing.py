"""What an engine leaves out by itself never holds a match."""

from __future__ import annotations

import math
import os
import uuid

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mrrag_llamaindex.mcr.score import FusionWeights
from mrrag_llamaindex.store.filters import Combination, Comparison
from mrrag_llamaindex.store.hits import Exclusion, PairRecord
from mrrag_llamaindex.store.llamaindex.narrowing import allowing, narrowed
from mrrag_llamaindex.store.pair import Pair
from mrrag_llamaindex.store.protocol import PairStore
from mrrag_llamaindex.store.schema import StoreSchema

VALUES = ["", "a", 'quo"te', "back\\slash", "ä\x01", "7", 7, 7.0, -2, 0.5, 1e-7, 1e300, 2**60,
          -math.inf, True, False]  # fmt: skip
KEYS = ["age", "patient_id", "study_id", "pair_id", "missing", "odd key", "in", "a.b"]
SERVERS = [
    f"{engine}+{address}"
    for engine in ("qdrant", "milvus")
    if (address := os.environ.get(f"MRRAG_TEST_{engine.upper()}"))
]
values = st.sampled_from(VALUES)
comparisons = st.one_of(
    st.builds(Comparison, st.sampled_from(KEYS), st.sampled_from(["==", "!="]), values),
    st.builds(
        Comparison, st.sampled_from(KEYS), st.sampled_from(["in", "nin"]), st.tuples(values, values)
    ),
    st.builds(
        Comparison,
        st.sampled_from(["age", "in", "odd key"]),
        st.sampled_from(["<", "<=", ">", ">="]),
        values,
    ),
)
filters = st.recursive(
    comparisons,
    lambda inner: st.builds(
        Combination,
        st.sampled_from(["and", "or", "not"]),
        st.lists(inner, min_size=1, max_size=3).map(tuple),
    ),
    max_leaves=6,
)
records = st.builds(
    lambda patient, metadata: PairRecord(pair_id="7", patient_id=patient, metadata=metadata),
    st.sampled_from([None, "a", "7", 'quo"te']),
    st.dictionaries(st.sampled_from(["age", "study_id", "odd key", "in"]), values, max_size=3),
)


@pytest.mark.slow
@settings(max_examples=400)
@given(filters, records)
def test_a_match_of_the_filter_is_one_of_what_it_implies(condition, record):
    simpler = narrowed(condition)
    if simpler is not None and condition.matches(record.filter_values):
        assert simpler.matches(record.filter_values)


@settings(max_examples=200)
@given(records, st.sets(st.sampled_from(["", "a", "7"])), st.sets(st.sampled_from(["7", "a"])))
def test_what_is_not_excluded_is_allowed(record, patients, studies):
    exclude = Exclusion(
        patient_ids=patients - {""},
        study_ids=studies,
        cases=frozenset((patient or None, study) for patient in patients for study in studies),
    )
    simpler = narrowed(allowing(exclude, None))
    seen = {**record.filter_values, "patient_id": record.patient_id or ""}  # as it is written
    if simpler is not None and not exclude.excludes(record):
        assert simpler.matches(seen)


@pytest.mark.slow
@pytest.mark.parametrize(
    "place",
    ["qdrant::memory:", "milvus:{}/m.db", *SERVERS],
)
def test_engines_leave_out_no_match_of_odd_values(place, tmp_path, units):
    """All values against all, as the engines themselves compare them."""
    records = [
        Pair("a.png", "r", f"p{i}", patient, {key: value})
        for i, (value, key, patient) in enumerate(
            (value, key, patient)
            for value in VALUES
            if value != -math.inf
            for key in ("age", "study_id", "odd key", "in")
            for patient in (None, 'quo"te')
        )
    ]
    count = len(records)
    name = f"c{uuid.uuid4().hex}"
    schema = StoreSchema("t@0", "", 8)
    with PairStore.create(place.format(tmp_path), schema, collection=name) as store:
        store.upsert(records, units(count, seed=1), units(count, seed=2))
        stored = store.get([pair.pair_id for pair in records]).values()
        question = (*units(2, seed=3), FusionWeights(), count)
        for key in ("age", "study_id", "odd key", "in", "patient_id"):
            for operator in ("==", "!=", "<=", ">") if key in ("age", "in") else ("==", "!="):
                for value in VALUES:
                    where = Comparison(key, operator, value)
                    hits = store.query(*question, filters=where)
                    expected = {p.pair_id for p in stored if where.matches(p.filter_values)}
                    assert {hit.pair_id for hit in hits} == expected, where
