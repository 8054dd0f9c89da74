"""The table in its formats."""

from __future__ import annotations

import csv
import io
import json

import pytest
from rich.console import Console

from mrrag_llamaindex.commands.evaluate.eval_report import to_rich
from mrrag_llamaindex.errors import InputError
from mrrag_llamaindex.evaluation.data.prediction import Prediction
from mrrag_llamaindex.evaluation.report.table import build_table
from mrrag_llamaindex.evaluation.report.table_formats import (
    to_csv,
    to_latex,
    to_markdown,
    write_table,
)

ODD = "a_b & [x]|50%"


def run(method: str, right: int) -> list[Prediction]:
    """Eight of twelve are no; the first `right` answers are right, the others say nothing."""
    golds = ["no", "no", "yes"] * 4
    return [
        Prediction(method, f"q{n}", f"p{n // 2}", gold, gold if n < right else "hm")
        for n, gold in enumerate(golds)
    ]


@pytest.fixture
def table():
    runs = {name: run(name, right) for name, right in (("naive-rag", 6), (ODD, 9))}
    return build_table("phantom", runs, baseline="naive-rag")


def test_json_has_the_promised_keys_and_survives_a_round_trip(table):
    data = json.loads(json.dumps(table.as_dict(), allow_nan=False))
    assert data["data"] == "phantom"
    assert data["n"] == 12
    assert data["majority"]["label"] == "no"
    assert data["majority"]["accuracy"] == pytest.approx(8 / 12)
    first, second = data["rows"]
    promised = ("method", "accuracy", "accuracy_ci", "macro_f1", "precision", "recall")
    assert {*promised, "invalid_rate", "positive_f1"} <= set(first)
    assert first["accuracy"] == pytest.approx(0.5)
    assert first["invalid_rate"] == pytest.approx(0.5)
    assert len(first["accuracy_ci"]) == 2
    assert "versus" not in first
    assert second["versus"]["baseline"] == "naive-rag"
    assert second["versus"]["difference"] == pytest.approx(0.25)


def test_majority_stands_in_every_format(table):
    screen = Console(width=200, file=io.StringIO())
    screen.print(to_rich(table))
    texts = (to_markdown(table), to_csv(table), to_latex(table), screen.file.getvalue())
    for text in texts:
        assert "always no" in text
        assert "66.7" in text or "0.6666" in text


def test_markdown_cells_line_up_whatever_a_method_is_named(table):
    lines = [line for line in to_markdown(table).splitlines() if line.startswith("|")]
    assert len({line.replace(r"\|", "").count("|") for line in lines}) == 1
    assert len(lines) == 5
    assert r"a\_b & \[x\]\|50%" in lines[-1]


def test_latex_is_escaped(table):
    text = to_latex(table)
    assert r"a\_b \& [x]\textbar{}50\%" in text
    body = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert len({line.replace(r"\&", "").count("&") for line in body}) == 1
    assert text.count(r"\begin{tabular}{lrrrrrrrr}") == 1
    assert all(rule in text for rule in (r"\toprule", r"\midrule", r"\bottomrule"))


def test_csv_holds_every_number_unrounded(table):
    rows = list(csv.DictReader(io.StringIO(to_csv(table))))
    assert [row["method"] for row in rows] == ["always no", "naive-rag", ODD]
    assert float(rows[0]["accuracy"]) == 8 / 12
    assert float(rows[2]["accuracy"]) == 0.75
    assert float(rows[2]["accuracy_low"]) == table.rows[1].accuracy_ci[0]
    assert (rows[2]["gained"], rows[2]["lost"]) == ("3", "0")


def test_csv_gives_each_class_by_itself(table):
    _, row, _ = csv.DictReader(io.StringIO(to_csv(table)))
    # Six of twelve are answered, all right: 4 of the 8 noes and 2 of the 4 yeses.
    values = {name: float(row[name]) for name in row if name.startswith(("yes_", "no_"))}
    assert values == pytest.approx(
        {
            "yes_precision": 1, "yes_recall": 0.5, "yes_f1": 2 / 3, "yes_support": 4,
            "no_precision": 1, "no_recall": 0.5, "no_f1": 2 / 3, "no_support": 8,
        }
    )  # fmt: skip
    assert table.as_dict()["rows"][0]["classes"]["no"]["support"] == 8


def test_narrow_console_keeps_names_whole_and_says_what_it_leaves_out(table):
    screen = Console(width=100, file=io.StringIO())
    screen.print(to_rich(table, 100))
    text = screen.file.getvalue()
    assert ODD in text
    assert "precision, recall, yes F1" in " ".join(text.split())


def test_eighty_columns_keep_every_interval_on_one_line():
    def answers(method: str, step: int) -> list[Prediction]:
        wrong = range(0, 100, step)
        golds = ["no", "no", "yes"] * 34
        return [
            Prediction(method, f"q{n}", f"p{n}", gold, "hm" if n in wrong else gold)
            for n, gold in enumerate(golds)
        ]

    steps = {"naive-rag": 2, "mmed-rag-code": 3, "mcr+ifa": 7}
    runs = {name: answers(name, step) for name, step in steps.items()}
    screen = Console(width=80, file=io.StringIO())
    screen.print(to_rich(build_table("phantom", runs, baseline="naive-rag"), 80))
    text = screen.file.getvalue()
    lines = [line for line in text.splitlines() if line.startswith(tuple(steps))]
    assert [line.count("[") for line in lines] == [2, 3, 3]
    assert all(line.count("[") == line.count("]") for line in lines)
    assert "yes F1, McNemar p" in " ".join(text.split())


def test_eighty_columns_give_up_macro_f1_before_they_break_an_interval():
    golds = ["no", "no", "yes"] * 10

    def answers(method: str, wrong: int) -> list[Prediction]:
        texts = ["no" if n < wrong else gold for n, gold in enumerate(golds)]
        return [
            Prediction(method, f"q{n}", f"p{n}", gold, text)
            for n, (gold, text) in enumerate(zip(golds, texts, strict=True))
        ]

    runs = {"naive-rag": answers("naive-rag", 0), "mmed-rag-code": answers("mmed-rag-code", 30)}
    table = build_table("phantom", runs, baseline="naive-rag")
    screen = Console(width=80, file=io.StringIO())
    screen.print(to_rich(table, 80))
    lines = screen.file.getvalue().splitlines()
    (row,) = (line.split() for line in lines if line.startswith("naive-rag"))
    assert row == ["naive-rag", "100.0", "[88.6,", "100.0]", "0.0", "-"]
    (row,) = (line for line in lines if line.startswith("mmed-rag-code"))
    assert (row.count("["), row.count("]")) == (2, 2)
    assert "shows macro F1, precision" in " ".join(" ".join(lines).split())
    assert "macro F1" in to_markdown(table).splitlines()[0]


def test_single_patient_gives_no_intervals_and_says_so():
    alone = [Prediction("m", f"q{n}", "p", "yes", "Yes") for n in range(3)]
    table = build_table("x", {"m": alone})
    assert table.as_dict()["rows"][0]["accuracy_ci"] is None
    assert "No intervals" in to_markdown(table)


def test_methods_must_have_answered_the_same(tmp_path):
    with pytest.raises(InputError, match="same questions"):
        build_table("x", {"a": run("a", 5), "b": run("b", 5)[1:]})
    with pytest.raises(InputError, match="are of 'a'"):
        build_table("x", {"b": run("a", 5)})
    with pytest.raises(InputError, match="baseline"):
        build_table("x", {"a": run("a", 5)}, baseline="b")
    with pytest.raises(InputError, match="no method"):
        build_table("x", {})


def test_files_are_written(table, tmp_path):
    made = write_table(table, tmp_path / "out")
    assert [path.name for path in made] == ["table.md", "table.csv", "table.tex"]
    assert made[0].read_text(encoding="utf-8") == to_markdown(table)
