"""The label of a film among several: its view, and nothing of the patient."""

from __future__ import annotations

import numpy as np
import pytest

from mrrag_llamaindex.images.dicom.view import view_of
from tests.images.dicom.making import SECRET, dicom, saved

PIXELS = np.zeros((4, 4), np.uint8)


@pytest.mark.parametrize(
    ("tags", "view"),
    [
        ({"ViewPosition": "PA"}, "PA"),
        ({"ViewPosition": "MLO", "ImageLaterality": "L"}, "MLO L"),
        ({"ViewPosition": "LATERAL", "ImageLaterality": "", "Laterality": "R"}, "LATERAL R"),
        ({"ImageLaterality": "L"}, ""),
        ({"ViewPosition": SECRET}, ""),
        ({}, ""),
    ],
)
@pytest.mark.filterwarnings("ignore:Invalid value for VR CS")
def test_the_view_is_what_the_file_says_of_it_and_no_more(tags, view):
    assert view_of(saved(dicom(PIXELS, **tags))) == view


def test_a_file_that_is_cut_or_no_dicom_has_none():
    assert view_of(saved(dicom(PIXELS, ViewPosition="PA"))[:140]) == ""
    assert view_of(b"\x89PNG\r\n\x1a\n") == ""
