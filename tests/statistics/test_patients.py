"""Holding patients out: who is held out, and that nobody is on both sides."""

from __future__ import annotations

import numpy as np
import pytest

from mrrag_llamaindex.errors import InputError
from mrrag_llamaindex.statistics.patients import split_by_patient

PATIENTS = [f"p{number % 40}" for number in range(100)]


@pytest.mark.parametrize("seed", [0, 1, 7])
@pytest.mark.parametrize("fraction", [0.01, 0.25, 0.5, 0.99])
def test_held_out_are_the_patients_of_numpys_default_generator(fraction, seed):
    kept, held = split_by_patient(PATIENTS, fraction, seed)
    assert sorted([*kept, *held]) == list(range(100))
    names = sorted(set(PATIENTS))
    count = min(max(1, round(fraction * 40)), 39)
    drawn = np.random.default_rng(seed).permutation(40)[:count]
    assert {PATIENTS[row] for row in held} == {names[place] for place in drawn}
    assert not {PATIENTS[row] for row in kept} & {PATIENTS[row] for row in held}


def test_the_order_of_the_rows_does_not_matter():
    first, turned = (split_by_patient(rows, 0.3, 2)[1] for rows in (PATIENTS, PATIENTS[::-1]))
    assert {PATIENTS[row] for row in first} == {PATIENTS[::-1][row] for row in turned}


def test_one_patient_cannot_be_split():
    with pytest.raises(InputError, match="two patients"):
        split_by_patient(["a", "a"], 0.5, 0)
