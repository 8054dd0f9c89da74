"""One style: the same numbers are the same bytes, and what cannot be written is refused first."""

from __future__ import annotations

import sys

import pytest

from mrrag_llamaindex.errors import InputError, MRRAGError
from mrrag_llamaindex.plots import save
from mrrag_llamaindex.plots.marks import Point, draw_bars, draw_lines
from mrrag_llamaindex.plots.style import COLOURS, MARKERS, check_target, drawing


def figure(value: float = 0.5):
    with drawing(3, 2, "a $b$ title") as made:
        left, right = made.subplots(1, 2)
        draw_lines(left, {"a $b$": [Point(1, value, 0.1, 0.9), Point(0, 0.2)], "other": []})
        draw_bars(right, {"x": (value, (0.25, 0.75)), "y": (1.0, None)}, 0.4)
    return made


@pytest.mark.parametrize("suffix", [".png", ".svg", ".pdf"])
def test_same_numbers_give_the_same_bytes(tmp_path, suffix):
    one, same, other = (
        save(figure(value), tmp_path / "new" / f"{name}{suffix}").read_bytes()
        for name, value in (("one", 0.5), ("same", 0.5), ("other", 0.6))
    )
    assert one == same != other


def test_lines_run_from_left_to_right_and_bars_from_the_top():
    left, right = figure().axes
    line = left.lines[0]
    assert line.get_xydata().tolist() == [[0, 0.2], [1, 0.5]]
    assert left.collections[0].get_datalim(left.transData).extents.tolist() == [1, 0.1, 1, 0.9]
    assert [bar.get_width() for bar in right.patches] == [0.5, 1]
    assert tuple(right.lines[0].get_xdata()) == (0.25, 0.75)
    assert right.yaxis_inverted()
    assert [text.get_text() for text in right.texts] == ["0.500", "1.000"]


def test_lines_are_told_apart_without_colours():
    assert len(set(MARKERS)) == len(set(COLOURS)) == len(COLOURS)


@pytest.mark.parametrize("name", ["picture.bmp", "picture", ""])
def test_what_is_no_picture_is_refused_with_its_name(tmp_path, name):
    with pytest.raises(InputError, match=r"\.png, \.svg, \.pdf"):
        check_target(tmp_path / name)


def test_a_folder_is_no_file(tmp_path):
    (tmp_path / "a.png").mkdir()
    with pytest.raises(InputError, match=r"a\.png is a folder"):
        save(figure(), tmp_path / "a.png")


def test_without_matplotlib_the_error_says_how_it_is_installed(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    for call in (figure, lambda: check_target(tmp_path / "a.png")):
        with pytest.raises(MRRAGError, match=r"mrrag-llamaindex\[plot\]"):
            call()
    assert list(tmp_path.iterdir()) == []


def test_an_interval_has_two_ends_the_right_way_round():
    with pytest.raises(ValueError, match="two ends"):
        Point(0, 1, low=0.5)
    with pytest.raises(ValueError, match=r"from 0\.9 to 0\.1"):
        Point(0, 1, 0.9, 0.1)
