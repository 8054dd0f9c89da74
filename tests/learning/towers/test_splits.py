"""Training, validation and test pairs: no patient is in two parts."""

from __future__ import annotations

import pytest

from mrrag_llamaindex.errors import InputError
from mrrag_llamaindex.learning.towers.training_pairs import split_pairs

PATIENTS = [f"p{number % 40}" for number in range(100)]


def parts(split):
    return [part.tolist() for part in (split.train, split.validation, split.test)]


def test_every_pair_is_in_one_part_and_every_patient_too() -> None:
    found = parts(split_pairs(PATIENTS, 0.2, 0.1))
    assert sorted(row for part in found for row in part) == list(range(100))
    names = [{PATIENTS[row] for row in part} for part in found]
    assert [len(one) for one in names] == [28, 8, 4]
    assert sum(map(len, names)) == 40


def test_the_seed_alone_decides_not_the_order_of_the_pairs() -> None:
    first = split_pairs(PATIENTS, 0.2, 0.1, seed=1)
    assert parts(first) == parts(split_pairs(PATIENTS, 0.2, 0.1, seed=1))
    assert parts(first) != parts(split_pairs(PATIENTS, 0.2, 0.1, seed=2))
    turned = split_pairs(PATIENTS[::-1], 0.2, 0.1, seed=1)
    assert {PATIENTS[row] for row in first.test.tolist()} == {
        PATIENTS[::-1][row] for row in turned.test.tolist()
    }


def test_a_small_share_is_one_patient_at_least_and_none_is_none() -> None:
    split = split_pairs(["a", "b", "c"], 0.01, 0.01)
    assert [len(part) for part in parts(split)] == [1, 1, 1]
    assert len(split_pairs(["a", "b", "c"], 0.01, 0.0).test) == 0


@pytest.mark.parametrize("shares", [(0.5, 0.5), (-0.1, 0.0), (0.0, 1.0)])
def test_shares_out_of_range_are_refused(shares: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="shares"):
        split_pairs(PATIENTS, *shares)


@pytest.mark.parametrize(("patients", "test", "way_on"), [(2, 0.1, "--test 0"), (1, 0.0, "add")])
def test_too_few_patients_for_the_parts_are_counted_and_a_way_on_is_named(
    patients: int, test: float, way_on: str
) -> None:
    with pytest.raises(InputError, match=rf"^{patients} patients? cannot .*{way_on}"):
        split_pairs([f"p{number % patients}" for number in range(6)], 0.2, test)
    assert len(set(parts(split_pairs(["a", "b"], 0.2, 0.0))[0])) == 1
