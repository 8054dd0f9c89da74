"""Columns are told by name and content together, and a patient by name alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from mrrag_llamaindex.doctor.start.columns import find_by_name, find_id, find_labels, find_report
from mrrag_llamaindex.doctor.start.sample import TableSample

REPORTS = ["The heart is of normal size.", "There is a small effusion on the left.", "Clear lungs."]


def sample(**columns: list) -> TableSample:
    rows = [dict(zip(columns, cells, strict=True)) for cells in zip(*columns.values(), strict=True)]
    return TableSample(Path("pairs.csv"), tuple(rows))


def test_a_column_that_is_called_id_but_repeats_is_not_the_id():
    table = sample(id=["1", "1", "2"], key_of_row=["a", "b", "c"], text=REPORTS)
    choice = find_id(table, None)
    assert (choice.column, choice.by) == ("key_of_row", "content")
    assert "none twice" in choice.why


def test_without_an_id_the_image_is_one_if_it_is_unique():
    table = sample(film=["a.png", "b.png", "c.png"], subject=["1", "1", "2"], text=REPORTS)
    assert find_id(table, "film").column == "film"
    assert find_id(sample(film=["a.png", "a.png"], text=REPORTS[:2]), "film") is None


@pytest.mark.parametrize(
    ("columns", "expected", "by"),
    [
        ({"Report": REPORTS, "history": REPORTS}, "Report", "name"),
        (
            {"Findings": REPORTS, "IMPRESSION": REPORTS, "n": ["1", "2", "3"]},
            "Findings+IMPRESSION",
            "name",
        ),
        ({"view": ["PA", "AP", "PA"], "befund": REPORTS}, "befund", "content"),
    ],
)
def test_reports_are_told_by_name_then_by_their_words(columns, expected, by):
    choice = find_report(sample(**columns), ["n"])
    assert (choice.column, choice.by) == (expected, by)


def test_short_codes_are_no_report():
    assert find_report(sample(view=["PA", "AP"], code=["A1", "B2"]), []) is None


def test_no_content_makes_a_patient():
    repeated = ["s1", "s1", "s2"]
    assert find_by_name(sample(person_code=repeated, text=REPORTS), "patient_id") is None
    assert (
        find_by_name(sample(**{"Subject ID": repeated}, text=REPORTS), "patient_id").column
        == "Subject ID"
    )


@pytest.mark.parametrize("name", ["PatientNo", "Pat.-Nr.", "Patientennummer", "PatID"])
def test_a_patient_may_have_the_name_that_tables_of_hospitals_give(name):
    table = sample(**{name: ["1", "1", "2"], "text": REPORTS})
    assert find_by_name(table, "patient_id").column == name


def test_how_an_image_was_taken_is_no_label():
    rows = [{"ViewPos": "AP" if n % 2 else "PA", "laterality": "L"} for n in range(12)]
    assert find_labels(rows, []) == ()


def test_labels_repeat_are_few_and_say_nothing_about_the_person():
    rows = [
        {
            "diagnosis": "effusion" if n % 2 else "none",
            "sex": "F",
            "note": f"text {n}",
            "age": n % 3,
        }
        for n in range(12)
    ]
    assert find_labels(rows, []) == ("diagnosis",)
    assert find_labels(rows, ["diagnosis"]) == ()
    assert find_labels(rows[:6], []) == ()  # 2 values in 6 rows: more than one in four
