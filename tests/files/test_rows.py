"""Ids of tables: what a person cannot tell apart, or a spreadsheet has changed, is refused."""

from __future__ import annotations

import pytest

from mrrag_llamaindex.errors import InputError
from mrrag_llamaindex.files.rows import DateText, identifier
from mrrag_llamaindex.store.pair import Pair


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (DateText("2024-01-02T00:00:00"), "is a date"),
        ('="007"', "is a formula"),
        (" =A1", "is a formula"),
        (7.0, "is a float"),
    ],
)
def test_what_a_spreadsheet_made_of_an_id_is_refused(value: object, words: str) -> None:
    with pytest.raises(InputError, match=words):
        identifier(value)


@pytest.mark.parametrize(
    ("patient", "words"),
    [
        ("Mu\u0308ller", "Unicode NFC"),
        ("7\u200b", "invisible"),
        ("\ufeff7", "invisible"),
        ("7 ", "blanks at its ends"),
    ],
)
def test_two_spellings_of_one_patient_that_look_alike_are_refused(patient, words) -> None:
    assert Pair(None, "Clear.", "p", "M\u00fcller").patient_id == "M\u00fcller"
    with pytest.raises(InputError, match=words):
        Pair(None, "Clear.", "p", patient)
