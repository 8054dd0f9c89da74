"""Each picture shows the numbers that its command prints, and says what they are."""

from __future__ import annotations

import pytest

from mrrag_llamaindex.plots import draw_calibration, draw_knockout

BIN = {"low": 0.2, "high": 0.4, "promised": 0.3, "happened": 0.25, "ci": (0.2, 0.32)}
CALIBRATION = {
    "reliability": [
        {**BIN, "documents": 1200},
        {**BIN, "low": 0.8, "high": 0.8, "promised": 0.8, "happened": 0.9, "ci": None,
         "documents": 7},
    ],
    "quality": {"brier": 0.101},
    "base_rate": {"brier": 0.2},
    "abstention": {"threshold": 0.45},
}  # fmt: skip


def texts(axes) -> list[str]:
    return [text.get_text() for text in axes.texts]


def labels(axes) -> list[str]:
    return [text.get_text() for text in axes.get_legend().get_texts()]


def test_calibration_shows_bins_intervals_counts_and_threshold():
    left, right = draw_calibration(CALIBRATION).axes
    diagonal, interval, points, threshold = left.lines
    assert points.get_xydata().tolist() == [[0.3, 0.25], [0.8, 0.9]]
    assert interval.get_xydata().tolist() == [[0.3, 0.2], [0.3, 0.32]]
    assert list(threshold.get_xdata()) == [0.45, 0.45]
    assert (diagonal.get_slope(), diagonal.get_xy1()) == (1, (0, 0))
    assert left.get_xlim() == left.get_ylim() == pytest.approx((0.15, 0.95))
    assert "0.101" in left.get_title("left")
    assert [bar.get_width() for bar in right.patches] == [1200, 7]
    assert texts(right) == ["1,200", "7"]
    assert [tick.get_text() for tick in right.get_yticklabels()] == ["0.200 to 0.400", "0.800"]


def test_knockout_shows_a_line_for_each_edge_and_shades_critical_layers():
    edges = ("documents->question", "image->question", "document-1->question+last")
    search = {
        "curve": [
            {"edge": edge, "layer": layer, "change": -layer - place, "ci": (-9, 9)}
            for place, edge in enumerate(edges)
            for layer in (1, 0, 2)
        ],
        "layers": [1, 2],
        "window": 2,
        "depth": 3,
        "examples": {"answered_correctly": 12},
    }
    figure = draw_knockout(search)
    parts, documents = figure.axes
    assert labels(parts) == ["documents → question", "image → question", "critical layers"]
    assert labels(documents) == ["document 1", "critical layers"]
    assert parts.lines[2].get_xydata().tolist() == [[0, -1], [1, -2], [2, -3]]
    assert [(patch.get_x(), patch.get_width()) for patch in parts.patches] == [(0.5, 1), (1.5, 1)]
    assert figure.get_suptitle() == "Attention blocked in 2 layers of 3 at a time, 12 questions"
    search["curve"] = [row for row in search["curve"] if row["edge"] in edges[:2]]
    assert len(draw_knockout(search).axes) == 1
