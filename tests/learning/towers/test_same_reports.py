"""Which reports are no negatives: equal ones, near-equal ones, and never opposites."""

from __future__ import annotations

import itertools
import random

import pytest
import torch

from mrrag_llamaindex.learning.towers.same_reports import SameReports

LONG = "the heart is normal the lungs are clear there is no effusion and no sign of a fracture"


def alike(first: str, second: str, threshold: float = 0.9) -> bool:
    return bool(SameReports([first, second], threshold).matrix(torch.tensor([0, 1]))[0, 1])


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ("No effusion.\nHeart normal", "no effusion, heart  NORMAL.", True),
        ("normal", "Normal.", True),
        ("normal", "clear", False),
        (LONG, LONG + " today", True),  # 16 of 17 word pairs shared: .94
        (LONG, LONG.replace("clear", "hazy"), False),  # 14 of 18 shared: .78
        # The same words say the opposite.
        ("no effusion but a pneumothorax", "effusion but no a pneumothorax", False),
        ("effusion", "no effusion", False),
    ],
)
def test_reports_that_say_the_same(first: str, second: str, same: bool) -> None:
    assert alike(first, second) is same
    assert alike(second, first) is same


def test_the_threshold_is_reached_at_equality() -> None:
    # word pairs: ab bc cd de against ab bc cd de ef: 4 of 5
    assert alike("a b c d e", "a b c d e f", 0.8)
    assert not alike("a b c d e", "a b c d e f", 0.81)


def test_near_reports_count_only_where_asked() -> None:
    reports = SameReports([LONG, LONG + " today", LONG.upper()])
    rows = torch.arange(3)
    assert reports.different == 2
    assert reports.matrix(rows).all()
    exact = reports.matrix(rows, near=False).tolist()
    assert exact == [[True, False, True], [False, True, False], [True, False, True]]


def test_rows_and_columns_keep_their_places() -> None:
    reports = SameReports(["a b", "c d", LONG, "A b", LONG + " today"])
    told = reports.matrix(torch.tensor([3, 4]), torch.tensor([1, 2, 0]))
    assert told.tolist() == [[False, False, True], [False, True, False]]


def test_the_filter_finds_what_comparing_all_pairs_finds() -> None:
    draw = random.Random(0)
    words = "abcdefgh"
    texts = [" ".join(draw.choices(words, k=draw.randint(1, 12))) for _ in range(60)]
    texts += [" ".join([*text.split(), draw.choice(words)]) for text in texts]
    for threshold in (0.5, 0.8, 0.9, 1.0):
        reports = SameReports(texts, threshold)
        found = reports.matrix(torch.arange(len(texts)))
        expected = torch.eye(len(texts), dtype=torch.bool)
        for i, j in itertools.combinations(range(len(texts)), 2):
            a, b = (set(itertools.pairwise(texts[k].split())) or {texts[k]} for k in (i, j))
            same = texts[i] == texts[j] or len(a & b) / len(a | b) >= threshold - 1e-9
            expected[i, j] = expected[j, i] = same
        assert torch.equal(found, expected), threshold


@pytest.mark.parametrize("threshold", [0.0, 1.1])
def test_thresholds_out_of_range_are_refused(threshold: float) -> None:
    with pytest.raises(ValueError, match="threshold"):
        SameReports(["a"], threshold)
