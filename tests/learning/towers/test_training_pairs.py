"""Rows to pairs to train on: what cannot be used is listed, never silently trained on."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from mrrag_llamaindex.errors import InputError
from mrrag_llamaindex.learning.towers.training_pairs import training_pairs
from mrrag_llamaindex.store.pair import Pair, Skipped


def film(level: int) -> Image.Image:
    return Image.new("RGB", (32, 32), (level, level, level))


def pair(number: int, **changes: object) -> Pair:
    told = {
        "image": film(number),
        "report": f"report {number}",
        "pair_id": f"a{number}",
        "patient_id": f"p{number}",
    }
    return Pair(**{**told, **changes})  # type: ignore[arg-type]


def test_rows_that_cannot_be_used_are_listed_with_their_reason(tmp_path: Path) -> None:
    broken = tmp_path / "private-name.png"
    broken.write_bytes(b"no image")
    rows = [
        pair(0),
        Skipped(2, "a1", "has no id"),
        pair(2, report=None),
        pair(3, image=None),
        pair(4, image=str(broken)),
        pair(5),
    ]
    told: list[int] = []
    found = training_pairs(rows, progress=told.append)
    assert found.pair_ids == ("a0", "a5")
    assert found.patients == ("p0", "p5")
    assert [(item.row, item.pair_id) for item in found.skipped] == [
        (2, "a1"),
        (3, "a2"),
        (4, "a3"),
        (5, "a4"),
    ]
    assert "no report" in str(found.skipped[1])
    assert "no image" in str(found.skipped[2])
    assert "private-name" not in str(found.skipped[3])
    assert told == [6]
    assert [image.getpixel((0, 0)) for image in found.load([1, 0])] == [(5, 5, 5), (0, 0, 0)]


def test_the_digest_changes_with_image_report_and_patient() -> None:
    one = training_pairs([pair(0), pair(1)]).digest()
    assert one == training_pairs([pair(0), pair(1)]).digest()
    for change in ({"image": film(9)}, {"report": "other"}, {"patient_id": "p0"}):
        assert training_pairs([pair(0), pair(1, **change)]).digest() != one


def test_pairs_without_patient_need_a_word(tmp_path: Path) -> None:
    unnamed = [pair(0, patient_id=None), pair(1, patient_id=None)]
    with pytest.raises(InputError, match=r"2 of 2 pairs name no patient, 'a0' first"):
        training_pairs(unnamed)
    assert training_pairs(unnamed, one_patient_each=True).patients == ("a0", "a1")
    with pytest.raises(InputError, match="names patients"):
        training_pairs([pair(0), unnamed[1]], one_patient_each=True)


def test_two_rows_of_one_id_are_refused() -> None:
    with pytest.raises(InputError, match="'a0'"):
        training_pairs([pair(0), pair(0)])


def test_nothing_to_train_on_is_an_error_with_the_first_reason() -> None:
    with pytest.raises(InputError, match=r"none of the 1 rows.*no report"):
        training_pairs([pair(0, report=None)])
