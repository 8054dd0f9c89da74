"""A patient who is asked about never appears among the evidence."""

from __future__ import annotations

import pytest

from mrrag_llamaindex.mcr.score import FusionWeights
from mrrag_llamaindex.store.hits import Exclusion


def test_excluded_patient_with_thousands_of_closer_pairs_never_appears(store, units, pairs) -> None:
    others, own = 30, 2000
    q_image, q_text = units(2, seed=9)
    d_image, d_text = units(others + own, seed=1), units(others + own, seed=2)
    # All of the patient's own pairs are nearly identical to the question: they fill the top 2000.
    d_image[others:] = q_image + 0.01 * d_image[others:]
    d_text[others:] = q_text + 0.01 * d_text[others:]
    for half in (d_image, d_text):
        half /= (half**2).sum(1, keepdims=True) ** 0.5
    names = [f"other{i}" for i in range(others)] + ["anna"] * own
    store.upsert(pairs(others + own, patient_id=lambda i: names[i]), d_image, d_text)
    free = store.query(q_image, q_text, FusionWeights(), k=10)
    assert {hit.patient_id for hit in free} == {"anna"}
    anna = Exclusion(patient_ids={"anna"})
    hits = store.query(q_image, q_text, FusionWeights(), 10, anna)
    assert len(hits) == 10
    # Exactly the ten best of the others, as an exact scan ranks them.
    exact = store.score([f"p{i}" for i in range(others)], q_image, q_text, FusionWeights())
    best = sorted(exact.values(), key=lambda hit: -hit.score)[:10]
    assert [hit.pair_id for hit in hits] == [hit.pair_id for hit in best]
    # Exhaustion: k others do not exist.
    everyone = store.query(q_image, q_text, FusionWeights(), 100, anna)
    assert len(everyone) == others
    assert "anna" not in {hit.patient_id for hit in everyone}


def test_pair_patient_and_study_are_excluded_together(store, units, pairs) -> None:
    made = pairs(
        12,
        patient_id=lambda i: f"patient{i // 3}" if i < 9 else None,
        metadata=lambda i: {"study_id": i // 2},
    )
    store.upsert(made, units(12, seed=1), units(12, seed=2))
    exclude = Exclusion(pair_ids={"p0"}, patient_ids={"patient1"}, study_ids={"4"})
    hits = store.query(*units(2, seed=3), FusionWeights(), 12, exclude)
    # p0; p3 p4 p5 (patient 1); p8 p9 (study 4). Pairs of an unknown patient stay.
    assert {hit.pair_id for hit in hits} == {"p1", "p2", "p6", "p7", "p10", "p11"}


def test_excluding_everything_finds_nothing(store, units, pairs) -> None:
    store.upsert(pairs(5), units(5), units(5))
    exclude = Exclusion(pair_ids=[f"p{i}" for i in range(5)])
    assert store.query(*units(2), FusionWeights(), 3, exclude) == []


def test_bare_string_is_refused_rather_than_read_as_letters() -> None:
    with pytest.raises(ValueError, match="patient_ids is the string 'anna'"):
        Exclusion(patient_ids="anna")
    with pytest.raises(ValueError, match="strings only"):
        Exclusion(study_ids={7})


def test_empty_exclusion_is_false() -> None:
    assert not Exclusion()
    assert Exclusion(study_ids={"s"})
