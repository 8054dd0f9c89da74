"""One style: the same numbers are the same bytes, and what cannot be written is refused first."""

from __future__ import annotations

import os
import sys
import warnings
from xml.etree import ElementTree

import matplotlib
import pytest

from mrrag_llamaindex.errors import InputError, MRRAGError
from mrrag_llamaindex.plots import save
from mrrag_llamaindex.plots.marks import Point, draw_bars, draw_lines
from mrrag_llamaindex.plots.style import COLOURS, MARKERS, check_target, drawing, shown


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


def test_a_style_of_the_users_own_changes_no_byte(tmp_path):
    plain = save(figure(), tmp_path / "a.png").read_bytes()
    own = {"axes.facecolor": "black", "text.usetex": True, "savefig.bbox": "tight"}
    with matplotlib.rc_context(own):
        assert save(figure(), tmp_path / "b.png").read_bytes() == plain
        assert matplotlib.rcParams["axes.facecolor"] == "black"


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


@pytest.mark.parametrize(
    ("name", "reason"),
    [("file/a.png", "file is a file, not a folder"), (f"{'n' * 230}.png", "name is too long")],
)
def test_where_nothing_can_be_written_is_said_before_there_is_a_picture(tmp_path, name, reason):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=reason):
        check_target(tmp_path / name)
    assert check_target(tmp_path / "absent" / "too" / "a.PNG").parent.parent.exists() is False


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="everything can be written")
def test_a_folder_that_is_read_only_is_refused_first(tmp_path):
    tmp_path.chmod(0o555)
    with pytest.raises(InputError, match="read-only"):
        check_target(tmp_path / "new" / "a.png")


def test_names_of_others_are_one_line_without_control_characters():
    assert shown("a\nb\t c\x1b[2J\0") == "a b c[2J"
    assert shown("p" * 40, 10) == "ppppppp..."  # a long word is cut, too
    assert shown("p" * 10, 10) == "p" * 10


def test_an_svg_can_be_read_whatever_the_names_are(tmp_path):
    with drawing(3, 2, "title\x1b of\0 " + "many words " * 9) as made:
        draw_bars(made.subplots(), {"a\x08b": (0.5, None), "x" * 99: (1.0, None)})
    ElementTree.parse(save(made, tmp_path / "a.svg"))
    assert all(len(line) <= 27 for line in made.get_suptitle().splitlines())
    names = [label.get_text() for label in made.axes[0].get_yticklabels()]
    assert names == ["ab", "x" * 29 + "..."]


def test_characters_that_the_font_lacks_are_told_once_and_not_spelt_out(tmp_path):
    with drawing(3, 2, "\u80f8\u6c34") as made:
        made.subplots()
    with pytest.warns(UserWarning, match="a.png: the font lacks some characters") as caught:
        save(made, tmp_path / "a.png")
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        save(made, tmp_path / "a.svg")


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
