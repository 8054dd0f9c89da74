"""Numbers are written once, and nothing is never minus nothing."""

from __future__ import annotations

import pytest

from mrrag_llamaindex.plots.words import count, signed_points


@pytest.mark.parametrize(
    ("value", "written"),
    [(-0.04, "0.0"), (-0.0, "0.0"), (0.04, "0.0"), (-0.06, "-0.1"), (3, "+3.0")],
)
def test_points_have_their_sign_and_nothing_has_none(value, written) -> None:
    assert signed_points(value) == written


def test_one_is_singular() -> None:
    assert [count(n, "question") for n in (0, 1, 2)] == ["0 questions", "1 question", "2 questions"]
