"""Several views of one study: pairs of their own, left out together, shown as one case."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from mrrag_llamaindex.mcr.weights import FusionWeights
from mrrag_llamaindex.store.hits import Exclusion, one_per_case
from mrrag_llamaindex.store.ingest.pair_table import read_pairs
from mrrag_llamaindex.store.pair import Pair, Skipped
from mrrag_llamaindex.store.protocol import PairStore
from mrrag_llamaindex.store.schema import StoreSchema


def read(folder: Path, text: str, name: str, **options) -> list:
    (folder / name).write_text(text)
    return list(read_pairs(folder / name, **options))


def summary(items: list) -> list[tuple]:
    return [
        (item.pair_id, Path(item.image).name, item.patient_id, item.study_id, item.row)
        if isinstance(item, Pair)
        else (item.pair_id, item.reason)
        for item in items
    ]


def test_a_list_of_images_is_one_study_of_several_pairs(tmp_path) -> None:
    rows = [
        {"pair_id": "p1", "image": ["a.png", "b.png"], "report": "r", "patient_id": "anna"},
        {"pair_id": "p2", "image": ["c.png"], "report": "r"},
        {"pair_id": "p3", "image": ["d.png", "e.png"], "report": "r", "study_id": "s3"},
        {"pair_id": "p4", "image": [], "report": "r"},
        {"pair_id": "p5", "image": ["a.png", None], "report": "r"},
        {"pair_id": "p6", "image": ["a.png", 3], "report": "r"},
    ]
    items = read(tmp_path, "\n".join(map(json.dumps, rows)), "pairs.jsonl")
    assert summary(items[:5]) == [
        ("p1", "a.png", "anna", "p1", 1),
        ("p1:2", "b.png", "anna", "p1", 1),
        ("p2", "c.png", None, None, 2),
        ("p3", "d.png", None, "s3", 3),
        ("p3:2", "e.png", None, "s3", 3),
    ]
    assert (items[5].pair_id, items[5].missing) == ("p4", "image")
    assert [type(item) for item in items[6:]] == [Skipped, Skipped]
    assert "empty entry" in items[6].reason


def test_rows_that_repeat_pair_and_study_with_another_image_are_views(tmp_path) -> None:
    text = (
        "pair_id,image,report,patient_id,study_id\n"
        "s1,a.png,r,anna,s1\n"
        "s1,b.png,r,anna,s1\n"
        "s1,./b.png,r,anna,s1\n"  # the same image: no view
        "s1,c.png,r,bert,s1\n"  # another patient: no view
        "s1,c.png,r,anna,s1\n"
        "x,a.png,r,anna,\n"
        "x,b.png,r,anna,\n"  # no study: a plain duplicate, for the ingest to list
    )
    names = [item[0] for item in summary(read(tmp_path, text, "pairs.csv"))]
    assert names == ["s1", "s1:2", "s1", "s1", "s1:3", "x", "x"]


@pytest.fixture
def store():
    """Pairs on a fan of directions: the question points to the first, "p0"."""
    schema = StoreSchema("toy@1", "", 2)
    studies = [("s1", "anna"), ("s1", "anna"), ("s1", "bert"), ("s2", "anna"), (None, "carl")]
    with PairStore.open_or_create("numpy", schema) as made:
        angles = np.linspace(0, 1, len(studies))
        vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
        pairs = [
            Pair(None, "same report", f"p{n}", patient, {"study_id": study})
            for n, (study, patient) in enumerate(studies)
        ]
        made.upsert(pairs, np.zeros_like(vectors), vectors)
        yield made


def best(store: PairStore, exclude: Exclusion | None = None):
    question = np.array([1, 0], dtype=np.float32)
    return store.query(None, question, FusionWeights(0, 0, 1), 5, exclude)


def test_a_pair_takes_the_other_views_of_its_study_along(store) -> None:
    exclude = Exclusion(pair_ids={"p1"})
    assert [hit.pair_id for hit in best(store, exclude)] == ["p0", "p2", "p3", "p4"]
    # The study of the same name of another patient stays.
    together = store.with_views(exclude)
    assert [hit.pair_id for hit in best(store, together)] == ["p2", "p3", "p4"]
    assert store.with_views(Exclusion(pair_ids={"p4"})) == Exclusion(pair_ids={"p4"})


def test_views_with_one_report_are_one_case_led_by_the_best(store) -> None:
    cases = one_per_case(best(store))
    assert [(hit.pair_id, views) for hit, views in cases] == [
        ("p0", ("p1",)),
        ("p2", ()),
        ("p3", ()),
        ("p4", ()),
    ]


def test_one_per_patient_and_one_per_nothing(store) -> None:
    """p0, p1 and p2 are of anna (p2 with another report), p3 of bert, p4 of nobody known."""
    known = best(store)
    patients = {hit.pair_id: hit.patient_id for hit in known}
    cases = one_per_case(known, "patient")
    shown = [hit.pair_id for hit, _ in cases]
    named = [patients[name] for name in shown if patients[name] is not None]
    assert len(set(named)) == len(named)
    assert {patients[name] for name in shown} == set(patients.values())
    for hit, others in cases:
        assert all(patients[name] == hit.patient_id for name in others)
    left = {name for hit, others in cases for name in (hit.pair_id, *others)}
    assert left == set(patients)
    assert [(hit.pair_id, views) for hit, views in one_per_case(known, "none")] == [
        (f"p{n}", ()) for n in range(5)
    ]
