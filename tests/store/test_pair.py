"""What a pair accepts, normalises and refuses."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mrrag_llamaindex.errors import InputError
from mrrag_llamaindex.store.pair import Pair, Skipped


@pytest.mark.parametrize("pair_id", ["", "  ", " p1", "p1\n", 7, None, "\ud800", "p\0"])
def test_unusable_pair_id_is_refused(pair_id) -> None:
    with pytest.raises(InputError, match="pair_id"):
        Pair("a.png", "text", pair_id)


@pytest.mark.parametrize("patient_id", ["", "12 ", 12])
def test_unusable_patient_id_is_refused_naming_the_pair(patient_id) -> None:
    with pytest.raises(InputError, match="patient_id of pair 'p1'"):
        Pair("a.png", "text", "p1", patient_id)


def test_blank_halves_count_as_missing() -> None:
    assert Pair(" ", "text", "p").missing == "image"
    assert Pair("a.png", " \n", "p").missing == "report"
    assert Pair("a.png", "text", "p").missing is None
    with pytest.raises(InputError, match="neither"):
        _ = Pair(None, "", "p").missing


def test_unknown_metadata_is_dropped_and_numpy_values_become_plain() -> None:
    metadata = {"a": None, "b": math.nan, "c": np.int64(3), "d": np.float32(0.5), "e": True}
    pair = Pair("a.png", "text", "p", metadata=metadata)
    assert pair.metadata == {"c": 3, "d": 0.5, "e": True}
    assert [type(value) for value in pair.metadata.values()] == [int, float, bool]


@pytest.mark.parametrize(
    ("metadata", "said"),
    [
        ({"labels": ["a"]}, "'labels' is a list"),
        ({"nested": {"a": 1}}, "'nested' is a dict"),
        ({"x": math.inf}, "infinite"),
        ({"x": 2**63}, "64 bits"),
        ({3: "x"}, "key 3"),
        ({"": "x"}, "key ''"),
        ({"image_path": "x"}, "reserved"),
        ({"mrrag_patient_id": "x"}, "reserved"),
        ({"_node_content": "x"}, "reserved"),
        ({"x": "\ud800"}, "Unicode"),
        ({"x": "a\0b"}, "character 0"),
        ({"a\0b": 1}, "character 0"),
        (["x"], "not a mapping"),
    ],
)
def test_metadata_that_cannot_be_stored_is_refused_with_the_reason(metadata, said) -> None:
    with pytest.raises(InputError, match=said):
        Pair("a.png", "text", "p", metadata=metadata)


def test_errors_never_repeat_the_report_or_the_path() -> None:
    secret = "Jane Doe has a nodule \ud800"
    with pytest.raises(InputError) as caught:
        Pair("/home/jane/cxr.png", secret, "p")
    assert "Jane" not in str(caught.value)
    assert "jane" not in str(caught.value)


def test_later_changes_to_the_callers_metadata_do_not_reach_the_pair() -> None:
    metadata = {"view": "PA"}
    pair = Pair("a.png", "text", "p", metadata=metadata)
    metadata["view"] = "AP"
    assert pair.metadata["view"] == "PA"


def test_study_id_is_text_whatever_its_type() -> None:
    assert Pair("a.png", "t", "p", metadata={"study_id": 17}).study_id == "17"
    assert Pair("a.png", "t", "p").study_id is None


def test_skipped_row_reads_as_one_line() -> None:
    assert str(Skipped(3, "p3", "why")) == "row 3 (pair_id 'p3'): why"
    assert str(Skipped(4, None, "why")) == "row 4: why"
