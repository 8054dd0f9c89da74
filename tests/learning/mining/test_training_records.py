"""Training records on disk: what is read back, what is refused, and what a kill can cost."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock

from mrrag_llamaindex.errors import InputError
from mrrag_llamaindex.files.line_log import LineLog
from mrrag_llamaindex.learning.mining.records import (
    TRAINING_FILE,
    TrainingHeader,
    TrainingRecord,
    read_training_set,
)

HEADER = TrainingHeader("toy@1", "phantom@ab", 3, 4, {"candidates": 2, "weights": {"a": 1.0}})


def record(name: str = "q1", **changes) -> TrainingRecord:
    made = TrainingRecord(
        name,
        "änne",
        ((0.5, 0.25, -1.0), (0.125, 0.0, 1.0), (0.0, 0.0, 0.0)),
        (0.75, -0.5, 0.0),
        ("p1", "p2", "p3"),
        (0.9, 0.1, 0.5),
        positive=0,
        negatives=(1, 2),
        unaided=0.4,
    )
    return replace(made, **changes)


def write(path: Path, *records: TrainingRecord, header: TrainingHeader = HEADER) -> bytes:
    with LineLog(path, TRAINING_FILE, header) as writer:
        for item in records:
            writer.append([item])
    return path.read_bytes()


def test_what_was_written_is_read(tmp_path):
    path = tmp_path / "new" / "d.jsonl"
    write(path, record("q1"), record("q2", patient_id=None, unaided=None))
    found = read_training_set(path, towers_identity="toy@1")
    assert found.header == HEADER
    assert found.records == (record("q1"), record("q2", patient_id=None, unaided=None))


def test_lines_have_the_agreed_keys(tmp_path):
    header, line = map(json.loads, write(tmp_path / "d.jsonl", record()).splitlines())
    assert (header["mrrag"], header["version"]) == ("d_train", 1)
    assert {"towers_identity", "model", "seed", "negatives"} <= header.keys()
    assert line["terms"] == [[0.5, 0.25, -1.0], [0.125, 0.0, 1.0], [0.0, 0.0, 0.0]]
    assert line["terms_text_image"] == [0.75, -0.5, 0.0]
    assert (line["question_id"], line["patient_id"]) == ("q1", "änne")
    assert (line["positive"], line["negatives"]) == (0, [1, 2])
    assert line["confidence"] == [0.9, 0.1, 0.5]
    assert line["pair_ids"] == ["p1", "p2", "p3"]


def test_terms_array_holds_the_four_similarities():
    expected = [[0.5, 0.25, -1.0, 0.75], [0.125, 0.0, 1.0, -0.5], [0.0] * 4]
    assert record().terms_array().tolist() == expected


def test_vectors_of_the_question_are_read_back_and_may_be_absent(tmp_path):
    path = tmp_path / "d.jsonl"
    known = record(query_image=(0.6, 0.8), query_text=(1.0, 0.0))
    before = json.loads(TRAINING_FILE.line(record("old")))
    assert before.pop("query_image") is before.pop("query_text") is None
    path.write_bytes(write(path, known) + json.dumps(before).encode() + b"\n")
    found = read_training_set(path).records
    assert found == (known, record("old"))
    assert np.concatenate(found[0].query_vectors()) == pytest.approx([0.6, 0.8, 1.0, 0.0])
    assert found[1].query_vectors() is None


def test_only_records_that_teach_something_are_usable(tmp_path):
    path = tmp_path / "d.jsonl"
    useless = [
        record("none", negatives=()),
        record("worse", unaided=0.95),
        record("as", unaided=0.9),
    ]
    write(path, record("good"), *useless, record("unknown", unaided=None))
    found = read_training_set(path)
    assert [item.question_id for item in found.usable] == ["good", "unknown"]
    assert len(found.records) == 5


def test_cut_at_any_byte_the_file_becomes_what_it_would_have_been(tmp_path):
    records = [record("q1"), record("q2"), record("q3")]
    path = tmp_path / "d.jsonl"
    whole = write(path, *records)
    ends = [place for place, byte in enumerate(whole) if byte == 10]
    cuts = {0, 1, *range(0, len(whole), 41), *ends, *(end + 1 for end in ends)}
    for cut in sorted(cuts):
        path.write_bytes(whole[:cut])
        with LineLog(path, TRAINING_FILE, HEADER) as writer:
            lost = len(records) - len(writer.records)
            assert whole[:cut].count(b"\n") == max(1, 1 + len(writer.records)) or cut <= ends[0]
            for item in records[len(records) - lost :]:
                writer.append([item])
        assert path.read_bytes() == whole, cut


def test_torn_tail_is_cut_off_even_if_nothing_follows(tmp_path):
    path = tmp_path / "d.jsonl"
    whole = write(path, record())
    path.write_bytes(whole + b'{"question_id": "q2", "pat')
    assert write(path) == whole


def test_torn_last_line_is_not_read(tmp_path):
    path = tmp_path / "d.jsonl"
    path.write_bytes(write(path, record("q1"), record("q2"))[:-1])
    assert [item.question_id for item in read_training_set(path).records] == ["q1"]


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"towers_identity": "other@2"}, "towers_identity"),
        ({"model": "llava@cd"}, "model"),
        ({"seed": 4}, "seed"),
        ({"negatives": 5}, "negatives"),
        ({"settings": {"candidates": 3, "weights": {"a": 1.0}}}, "candidates"),
        ({"settings": {"candidates": 2}}, "weights"),
        ({"settings": {**HEADER.settings, "margin": 0.1}}, "margin"),
    ],
)
def test_file_begun_otherwise_is_refused_and_left_alone(tmp_path, change, word):
    path = tmp_path / "d.jsonl"
    before = write(path, record())
    with pytest.raises(InputError, match=f"d.jsonl was begun with {word} "):
        LineLog(path, TRAINING_FILE, replace(HEADER, **change))
    assert path.read_bytes() == before
    write(path)  # and it is not left locked


@pytest.mark.parametrize("content", ["notes", "notes\n", "{}\n", "[1]\n", '{"mrrag": "x"}\n'])
def test_file_that_is_something_else_is_refused_and_left_alone(tmp_path, content):
    path = tmp_path / "d.jsonl"
    path.write_text(content)
    with pytest.raises(InputError, match=r"d\.jsonl"):
        LineLog(path, TRAINING_FILE, HEADER)
    with pytest.raises(InputError, match=r"d\.jsonl"):
        read_training_set(path)
    assert path.read_text() == content


def test_other_towers_other_version_and_no_file_are_refused(tmp_path):
    path = tmp_path / "d.jsonl"
    content = write(path, record())
    with pytest.raises(InputError, match="mined with towers 'toy@1'"):
        read_training_set(path, towers_identity="other@2")
    path.write_bytes(content.replace(b'"version": 1', b'"version": 2'))
    with pytest.raises(InputError, match="version 2"):
        read_training_set(path)
    with pytest.raises(InputError, match=r"nothing\.jsonl cannot be read"):
        read_training_set(tmp_path / "nothing.jsonl")


def test_broken_line_is_named_without_its_contents(tmp_path):
    path = tmp_path / "d.jsonl"
    lines = write(path, record("q1"), record("q2"), record("q3")).splitlines(keepends=True)
    for bad in (b"{secret\n", b'{"question_id": "secret"}\n', b'["secret"]\n'):
        path.write_bytes(b"".join([*lines[:2], bad, lines[3]]))
        with pytest.raises(InputError, match="line 3") as caught:
            read_training_set(path)
        assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        {"confidence": (0.9, 0.1)},
        {"terms_text_image": (0.0,)},
        {"terms": ((0.0, 0.0),) * 3},
        {"terms": ((0.0, float("nan"), 0.0),) * 3},
        {"confidence": (0.9, float("inf"), 0.5)},
        {"confidence": (0.9, None, 0.5)},
        {"positive": 3},
        {"positive": -1},
        {"positive": True},
        {"negatives": (1, 1)},
        {"negatives": (0, 1)},
        {"negatives": (3,)},
        {"query_image": (1.0, 0.0)},
        {"terms_raw": ((0.0, 0.0),) * 2},
        {"terms_raw": ((0.0,),) * 3},
        {"terms_raw": ((0.0, float("nan")),) * 3},
        {"query_image": (1.0, float("nan")), "query_text": (1.0, 0.0)},
    ],
)
def test_record_that_contradicts_itself_is_refused(change):
    with pytest.raises(InputError, match="question 'q1'"):
        record(**change)


def test_second_process_may_not_write_at_the_same_time(tmp_path):
    path = tmp_path / "d.jsonl"
    before = write(path, record())
    with FileLock(tmp_path / "d.jsonl.lock"), pytest.raises(InputError, match="another process"):
        LineLog(path, TRAINING_FILE, HEADER)
    assert path.read_bytes() == before
    write(path, record("q2"))
