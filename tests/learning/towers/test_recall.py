"""Ranks by hand, ties, and intervals that know of patients."""

from __future__ import annotations

import pytest
import torch

from mrrag_llamaindex.learning.towers.recall import mean_recall, pair_ranks, recall_with_intervals
from mrrag_llamaindex.learning.towers.same_reports import SameReports

DIFFERENT = SameReports(["a b", "c d", "e f"])


def test_ranks_in_both_directions_by_hand() -> None:
    image = torch.tensor([[2.0, 0.0], [0.0, 1.0], [3.0, 4.0]])
    text = torch.tensor([[1.0, 0.0], [4.0, 3.0], [0.0, 5.0]])
    # cosines, rows images: [[1, .8, 0], [0, .6, 1], [.6, .96, .8]]
    ranks = pair_ranks(image, text, DIFFERENT, torch.arange(3))
    assert ranks.tolist() == [[0, 1, 1], [0, 2, 1]]


def test_an_equal_report_is_as_good_as_the_own_one() -> None:
    image = torch.eye(3)
    text = torch.eye(3)[[1, 0, 2]]  # the first two reports are swapped
    assert pair_ranks(image, text, DIFFERENT, torch.arange(3))[0].tolist() != [0, 0, 0]
    same = SameReports(["a b", "A B.", "e f"])
    assert pair_ranks(image, text, same, torch.arange(3)).tolist() == [[0, 0, 0], [0, 0, 0]]


def test_a_near_equal_report_is_no_hit() -> None:
    words = " ".join(f"word{number}" for number in range(30))
    reports = SameReports([words, f"{words} more", "e f"])
    assert reports.matrix(torch.arange(2)).all()
    image, text = torch.eye(3), torch.eye(3)[[1, 0, 2]]
    assert pair_ranks(image, text, reports, torch.arange(3))[0].tolist() == [2, 2, 0]


def test_vectors_that_are_all_alike_find_nothing() -> None:
    ones = torch.ones(3, 4)
    assert pair_ranks(ones, ones, DIFFERENT, torch.arange(3)).tolist() == [[2] * 3] * 2


def test_vectors_that_are_no_numbers_find_nothing() -> None:
    image, text = torch.eye(3), torch.eye(3)
    image[1] = torch.nan
    ranks = pair_ranks(image, text, DIFFERENT, torch.arange(3))
    assert ranks[0].tolist() == [0, 2, 0]
    assert ranks[1, 1] == 2
    nothing = torch.full((3, 4), torch.nan)
    assert pair_ranks(nothing, nothing, DIFFERENT, torch.arange(3)).tolist() == [[2] * 3] * 2


def test_blocks_do_not_change_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    from mrrag_llamaindex.learning.towers import recall

    random = torch.Generator().manual_seed(0)
    image, text = (torch.randn(20, 6, generator=random) for _ in range(2))
    reports = SameReports([f"report {number % 15}" for number in range(40)])
    rows = torch.arange(20, 40)
    whole = pair_ranks(image, text, reports, rows)
    monkeypatch.setattr(recall, "_BLOCK", 3)
    assert torch.equal(pair_ranks(image, text, reports, rows), whole)


def test_mean_recall_is_that_of_six_numbers() -> None:
    ranks = torch.tensor([[0, 4, 9, 10], [0, 0, 5, 99]])
    # image to report: 1/4, 2/4, 3/4; report to image: 2/4, 2/4, 3/4
    assert mean_recall(ranks) == pytest.approx((0.25 + 0.5 + 0.75 + 0.5 + 0.5 + 0.75) / 6)


def test_the_table_tells_recall_chance_and_patients() -> None:
    ranks = torch.tensor([[0, 0, 3, 7], [1, 1, 1, 1]])
    table = recall_with_intervals(ranks, ["p", "p", "q", "r"])
    assert (table["pairs"], table["patients"]) == (4, 3)
    cell = table["image_to_report"]["recall@5"]
    assert (cell["value"], cell["chance"]) == (0.75, 1.0)
    assert cell["low"] < 0.75 < cell["high"] == 1.0
    constant = table["report_to_image"]["recall@1"]
    assert (constant["value"], constant["low"]) == (0.0, 0.0)
    # Wilson's upper end for none of three patients: z^2 / (n + z^2), z = 1.96
    assert constant["high"] == pytest.approx(3.8415 / (3 + 3.8415), abs=1e-4)


def test_pairs_of_one_patient_are_not_independent() -> None:
    ranks = torch.tensor([[0, 99] * 50, [0, 99] * 50])
    # Each patient's ten pairs agree, or each pair is a patient.
    agreeing = torch.cat([ranks[:, ::2], ranks[:, 1::2]], dim=1)
    few = recall_with_intervals(agreeing, [f"p{row // 10}" for row in range(100)])
    many = recall_with_intervals(agreeing, [f"p{row}" for row in range(100)])
    width = [t["image_to_report"]["recall@1"] for t in (few, many)]
    wide, narrow = (cell["high"] - cell["low"] for cell in width)
    # sqrt(10) times as wide: 10 patients instead of 100
    assert wide / narrow == pytest.approx(10**0.5, rel=0.15)
    # The normal approximation: 2 * 1.96 * sqrt(.25 / 100)
    assert narrow == pytest.approx(0.196, abs=0.03)
