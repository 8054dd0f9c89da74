"""Each picture shows the numbers that its command prints, and says what they are."""

from __future__ import annotations

import pytest
from PIL import Image

from mrrag_llamaindex.plots import (
    draw_calibration,
    draw_fusion,
    draw_knockout,
    draw_noise,
    draw_table,
    draw_towers,
)
from mrrag_llamaindex.plots.answer import draw_asked

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
    usual = figure.get_figheight()
    many = [{**row, "edge": f"document-{n}->last"} for n in range(11) for row in search["curve"]]
    taller = draw_knockout({**search, "curve": many}).get_figheight()
    assert taller - usual == pytest.approx(0.4)  # 12 names in 3 columns: 4 rows in place of 2
    search["curve"] = [row for row in search["curve"] if row["edge"] in edges[:2]]
    assert len(draw_knockout(search).axes) == 1


def widths(axes) -> dict[str, float]:
    """Lengths of horizontal bars by name."""
    names = [tick.get_text() for tick in axes.get_yticklabels()]
    return dict(zip(names, (bar.get_width() for bar in axes.patches), strict=True))


CURVE = {"epoch": [0, 1, 2], "training_loss": [3.0, 2.0, 1.0], "validation_loss": [4.0, 3.5, 5.0]}
FUSION = {
    "recall_at_1": {"image_text": 0.5, "equal": 0.6, "learned": 0.7},
    "ci": {"image_text": (0.4, 0.6), "equal": (0.5, 0.7), "learned": (0.6, 0.8),
           "learned-equal": (-0.1, 0.3)},
    "gated": {"recall_at_1": 0.8, "ci": (0.7, 0.9)},
    "chance": 0.25,
    "n": 40,
}  # fmt: skip


def test_fusion_shows_recall_of_all_weights_chance_and_losses():
    training = {"learned": {"best_epoch": 1, "curve": CURVE}}
    recall, loss, validation = draw_fusion({**FUSION, "training": training}).axes
    assert widths(recall) == {"image-text": 0.5, "equal": 0.6, "learned": 0.7, "gated": 0.8}
    assert recall.get_title("left") == "40 questions; dashed: chance 0.250"
    assert list(recall.lines[-1].get_xdata()) == [0.25, 0.25]
    assert loss.get_title("left") == "training loss"
    line, ring = validation.lines
    assert line.get_xydata().tolist() == [[0, 4.0], [1, 3.5], [2, 5.0]]
    assert ring.get_xydata().tolist() == [[1, 3.5]]
    assert labels(loss) == ["learned"]
    pooled = draw_fusion({**FUSION, "regimes": {"image": FUSION, "text": FUSION}}).axes
    assert [axes.get_title("left").partition("\n")[0] for axes in pooled] == ["image", "text"]


def test_towers_show_every_seed_and_recall_of_the_ensemble_or_of_the_best_seed():
    cell = {"value": 0.5, "low": 0.4, "high": 0.6, "chance": 0.1}
    test = {"pairs": 10, "image_to_report": {"recall@1": cell}, "report_to_image": {}}
    seeds = [
        {"seed": 3, "best_epoch": 2, "validation_recall": 0.2, "test": None, "curve": CURVE},
        {"seed": 4, "best_epoch": 1, "validation_recall": 0.3, "test": test, "curve": CURVE},
    ]
    results = {"seeds": seeds, "pairs": 1000, "patients": 900}
    figure = draw_towers(results)
    loss, _, found, _ = figure.axes
    assert labels(loss) == ["seed 3", "seed 4"]
    assert [line.get_xdata().tolist() for line in loss.lines[1::2]] == [[2], [1]]
    assert widths(found) == {"recall@1": 0.5}
    assert figure.get_suptitle() == "Towers of 1,000 pairs of 900 patients"
    assert len(draw_towers({**results, "seeds": seeds[:1]}).axes) == 2
    many = draw_towers({**results, "seeds": [{**seeds[1], "seed": n} for n in range(5)]})
    assert many.axes[0].get_legend() is None
    assert len(many.subfigs[0].legends[0].get_texts()) == 5


def test_noise_has_a_plot_for_each_metric_kind_and_scores():
    points = [
        {"policy": policy, "scores": scores, "adversarial": False, "noise": noise,
         "accuracy": 1 - noise / 2, "ci": (0.1, 1.0),
         "noise_attention": noise or None, "noise_attention_ci": None}
        for policy in ("off", "ifa")
        for scores in ("true", "mcr")
        for noise in (0.5, 0.0)
    ]  # fmt: skip
    figure = draw_noise({"points": points, "documents": 2, "n": 8})
    accuracy, by_mcr, attention, _ = figure.axes
    assert [axes.get_title("left")[11:] for axes in (accuracy, by_mcr)] == [
        "true relevance",
        "MCR's scores",
    ]
    assert accuracy.lines[0].get_xydata().tolist() == [[0, 1], [0.5, 0.75]]
    assert attention.lines[0].get_xydata().tolist() == [[0.5, 0.5]]  # undefined without noise
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["off", "ifa"]
    points += [{**point, "adversarial": True} for point in points]
    assert grid_of({"points": points, "documents": 2, "n": 8}) == (4, 2)
    points = [point for point in points if point["scores"] == "true"]
    assert grid_of({"points": points, "documents": 2, "n": 8}) == (2, 2)


def grid_of(report) -> tuple[int, int]:
    """Rows and columns of the plots of `draw_noise`."""
    first, *_ = draw_noise(report).axes
    return first.get_subplotspec().get_gridspec().get_geometry()


def test_a_table_shows_its_main_metric_and_the_baseline():
    rows = [
        {"method": "mcr", "accuracy": 0.75, "accuracy_ci": (0.5, 1.0), "f1": 0.7, "f1_ci": None},
        {"method": "$a$", "accuracy": 0.5, "accuracy_ci": None},
    ]
    table = {"data": "mine", "n": 4, "rows": rows, "majority": {"label": "no", "accuracy": 0.6}}
    figure = draw_table(table)
    (axes,) = figure.axes
    assert widths(axes) == {"mcr": 0.75, "$a$": 0.5}
    assert texts(axes) == ["0.750", "0.500"]
    assert axes.get_title("left") == "dashed: always no, 0.600"
    assert figure.get_suptitle() == "mine, 4 questions"
    open_answers = {**table, "majority": None, "main": "f1", "most_frequent": {"f1": 0.2}}
    (axes,) = draw_table(open_answers).axes
    assert widths(axes) == {"mcr": 0.7}
    assert axes.get_title("left") == "dashed: most frequent answer, 0.200"
    with pytest.raises(ValueError, match="'recall'; there are: accuracy, f1"):
        draw_table(table, metric="recall")


def test_an_answer_shows_image_probabilities_and_what_each_pair_weighed():
    terms = {"image_text": 0.5, "image_image": -0.25, "score": 0.25}
    sources = [
        {"pair_id": "a", **terms, "lambda": 1.0, "probability": 0.9, "read": True,
         "influence": {"points": -3.0}},
        {"pair_id": "b", **terms, "lambda": 0.0, "probability": None, "read": False},
        {"pair_id": "c", **terms, "lambda": 0.5, "probability": None, "read": True},
    ]  # fmt: skip
    answer = {"question": "Q?", "answer": "no", "p_yes": 0.25, "p_no": 0.5, "sources": sources}
    other = {**answer, "answer": "yes", "p_yes": 0.75}
    film = Image.new("RGB", (4, 4))
    thumbnails = {"a": film, "b": "image cannot\nbe read"}
    figure = draw_asked([film, film], answer, thumbnails, {"a": "word " * 99}, other, title="T")
    one, two, shares, *cards = figure.axes
    assert len(one.images) == len(two.images) == 1
    assert [bar.get_width() for bar in shares.patches] == [0.25, 0.5, 0.75, 0.5]
    assert [tick.get_text() for tick in shares.get_yticklabels()] == ["p(yes)", "p(no)"]
    assert shares.get_title("left") == "Answer: no; without IFA (grey): yes"
    first, second = cards[1], cards[3]
    assert len(cards[0].images) == 1
    assert texts(cards[2]) == ["image cannot\nbe read"]
    assert texts(cards[4]) == ["no image"]
    name, numbers, said = texts(first)
    assert name == "1. a"
    assert " ".join(numbers.replace("\N{NO-BREAK SPACE}", " ").split()) == (
        "λ 1.00, helps with probability 0.90, moved -3.0 points "
        "score 0.25: image-text +0.50, image-image -0.25"
    )
    assert said.endswith(" ...")
    assert [bar.get_width() for bar in first.patches] == [1, 1.0]
    assert texts(second)[1].startswith("λ 0.00, not read")


def test_an_answer_shows_the_beginning_of_long_words():
    source = {"pair_id": "p" * 60, "score": 1.0, "weight": 1.0, "answer": "a" * 60}
    answer = {"question": "q" * 200, "answer": "a" * 60, "shares": {"a" * 60: 1.0}}
    figure = draw_asked([Image.new("L", (4, 4))], {**answer, "sources": [source]}, {}, {})
    _, bars, _, card, *_ = figure.axes
    assert figure.get_suptitle() == "q" * 54 + "..."  # 6.3 inches
    assert widths(bars) == {"a" * 15 + "...": 1}
    assert texts(card)[0] == "1. " + "p" * 25 + "..."
    assert "answers aaaaaaaaaaa..." in texts(card)[1]


def test_a_vote_shows_its_largest_shares_and_first_pairs():
    sources = [
        {"pair_id": f"p{n}", "score": 1.0, "weight": 0.125, "answer": "left"} for n in range(8)
    ]
    shares = {"left": 0.5, "right": 0.25, "a": 0.125, "b": 0.1, "c": 0.025}
    answer = {"question": "Where?", "answer": "left", "shares": shares, "sources": sources}
    figure = draw_asked([Image.new("L", (4, 4))], answer, {}, {})
    _, bars, *cards = figure.axes
    assert widths(bars) == {"left": 0.5, "right": 0.25, "a": 0.125, "b": 0.1}
    assert len(cards) == 12
    assert texts(cards[11])[:2] == ["6. p5", "weight 0.12, answers left\nscore 1.00:"]
    assert figure.subfigs[1].get_suptitle() == "evidence: the first 6 of 8 pairs"
