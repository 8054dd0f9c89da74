"""Tasks: which rows each takes, what is right, and tables with paired differences."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from mrrag_llamaindex.errors import InputError
from mrrag_llamaindex.evaluation.data.prediction import Prediction
from mrrag_llamaindex.evaluation.report.scored_table import build_scored_table
from mrrag_llamaindex.evaluation.report.table_formats import to_csv, to_latex, to_markdown
from mrrag_llamaindex.evaluation.tasks.choice import letter_of, likeliest
from mrrag_llamaindex.evaluation.tasks.registry import ROWS, TASKS, task_named
from mrrag_llamaindex.evaluation.tasks.task import Scoring


def answers(task: str, method: str, rows, **more) -> list[Prediction]:
    return [
        Prediction(method, f"q{n}", f"p{n}", gold, text, task=task, **more)
        for n, (gold, text) in enumerate(rows)
    ]


def test_names_are_those_of_the_rows():
    assert TASKS == ("yes-no", "open", "choice", "report")
    assert [task_named(name) for name in TASKS] == list(ROWS)
    with pytest.raises(InputError, match=r"task 'triage'.*yes-no, open, choice, report"):
        task_named("triage")


@pytest.mark.parametrize(
    ("task", "gold", "kind"),
    [
        ("yes-no", "Yes.", None),
        ("yes-no", "left lung", "free-text answer"),
        ("open", "left lung", None),
        ("open", "Yes", "closed question"),
        ("open", "No acute disease", None),
        ("choice", "B", None),
        ("choice", "left lung", "answer that is no option"),
        ("report", "Clear lungs.", None),
    ],
)
def test_what_is_a_question_of_a_task(task, gold, kind):
    found = task_named(task).asked("leading", "report").gold(gold)
    assert (found[0] if isinstance(found, tuple) else None) == kind


def test_a_report_is_cut_to_the_section_that_is_asked_for():
    asked = task_named("report").asked("leading", "impression")
    assert asked.gold("FINDINGS: Clear. IMPRESSION: Normal.") == "Normal."
    assert asked.gold("Clear lungs.") == (
        "report without the section",
        "the report has no impression",
    )
    assert "impression" in asked.question


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("B", "B"),
        ("b", "B"),
        ("(C) left lung", "C"),
        ("a) liver", "A"),
        ("Answer: D.", "D"),
        ("The correct option is B", "B"),
        ("A is right", "A"),
        ("A\nliver", "A"),
        ("Answer: A nodule", "A"),
        ("a nodule", ""),
        ("A nodule is seen.", ""),
        ("I cannot tell.", ""),
        ("A's", ""),
        ("Both", ""),
        ("left lung", ""),
        ("", ""),
    ],
)
def test_letters(text, letter):
    assert letter_of(text) == letter


def test_the_sum_favours_short_options_and_the_mean_does_not():
    options = ((-3.0, 1), (-4.0, 4), (-4.0, 4))
    assert likeliest(options) == "B"
    assert likeliest(options, per_token=False) == "A"


class TestTables:
    ROWS = (("left lung", "the left lung"), ("right", "left"), ("liver", "liver lobe"))

    def test_open_by_hand(self):
        table = build_scored_table(
            "toy", {"m": answers("open", "m", self.ROWS)}, task=task_named("open")
        )
        values = table.rows[0].values
        assert values["exact_match"] == pytest.approx(1 / 3)
        assert values["token_f1"] == pytest.approx((1 + 0 + 2 / 3) / 3)
        assert set(values) == {"exact_match", "token_f1", "bleu_1", "rouge_l"}
        assert table.frequent == {}  # all golds differ

    def test_a_difference_is_paired(self):
        better = [(gold, gold) for gold, _ in self.ROWS]
        runs = {
            "naive-rag": answers("open", "naive-rag", self.ROWS),
            "mcr": answers("open", "mcr", better)[::-1],
        }
        table = build_scored_table("toy", runs, task=task_named("open"), baseline="naive-rag")
        (difference,) = table.comparisons
        expected = 1 - (1 + 0 + 2 / 3) / 3
        assert difference.difference == pytest.approx(expected)
        low, high = difference.ci
        assert low <= expected <= high
        assert "mcr minus naive-rag: +44.4 points" in difference.sentence()

    def test_other_questions_are_refused(self):
        runs = {"a": answers("open", "a", self.ROWS), "b": answers("open", "b", self.ROWS[:2])}
        with pytest.raises(InputError, match="did not answer the same questions"):
            build_scored_table("toy", runs, task=task_named("open"))

    def test_the_most_frequent_answer_is_a_line(self):
        rows = [("left", "right"), ("left", "left"), ("right", "right")]
        table = build_scored_table(
            "toy", {"m": answers("open", "m", rows)}, task=task_named("open")
        )
        assert table.frequent["exact_match"] == pytest.approx(2 / 3)
        assert table.cells()[1][0] == "most frequent answer"

    def test_choice_by_hand_and_a_row_without_likelihoods(self):
        likely = ((-1.0, 1), (-4.0, 4)), ((-9.0, 3), (-2.0, 1)), ((-1.0, 1), (-0.5, 1))
        with_likelihood = [
            replace(item, likelihoods=options)
            for item, options in zip(
                answers("choice", "mcr", [("A", "B"), ("B", "(B)"), ("B", "?")]),
                likely,
                strict=True,
            )
        ]
        letters = answers("choice", "opera", [("A", "A"), ("B", "B"), ("B", "A")])
        runs = {"mcr": with_likelihood, "opera": letters}
        table = build_scored_table("toy", runs, task=task_named("choice"), baseline="mcr")
        values = table.rows[0].values
        # Equal means: the first option; then B; then B.
        assert values["likelihood"] == 1
        assert values["likelihood_sum"] == 1
        assert values["letter"] == pytest.approx(1 / 3)
        assert values["no_letter"] == pytest.approx(1 / 3)
        assert "likelihood" not in table.rows[1].values
        assert table.comparisons == ()
        assert table.missing == {}
        assert "-" in table.cells()[-1]

    def test_reports_name_what_is_missing_and_have_no_frequent_line(self):
        rows = [("No edema. Nodule.", "Nodule."), ("Edema.", "No edema."), ("Edema.", "Edema.")]
        table = build_scored_table(
            "toy", {"m": answers("report", "m", rows)}, task=task_named("report")
        )
        assert table.rows[0].values["label_f1"] == pytest.approx(4 / 5)
        assert table.missing["green"] == "not asked for: --clinical green"
        assert table.frequent == {}
        text = " ".join(table.sentences())
        assert "Without GREEN" in text
        assert "edema" not in text

    def test_every_format_holds_every_row(self):
        runs = {"a[1]": answers("open", "a[1]", self.ROWS), "b": answers("open", "b", self.ROWS)}
        table = build_scored_table("toy_1", runs, task=task_named("open"), baseline="b")
        assert "a\\[1\\]" in to_markdown(table)
        lines = to_csv(table).splitlines()
        assert lines[0].startswith("data,task,n,patients,method,exact_match,exact_match_low")
        assert len(lines) == 3
        assert to_latex(table).count(r"\midrule") == 1
        value = json.loads(json.dumps(table.as_dict()))
        assert value["rows"][0]["token_f1_ci"] == list(table.rows[0].intervals["token_f1"])
        assert value["rows"][0]["versus"]["metric"] == "token_f1"


def test_settings_are_chosen_by_what_each_answer_is_worth():
    judge = {
        "yes-no": [("yes", "Yes."), ("no", "maybe")],
        "open": [("left lung", "left"), ("liver", "spleen")],
        "choice": [("A", "A"), ("B", "?")],
        "report": [("Edema. Nodule.", "Edema."), ("Clear.", "Clear.")],
    }
    expected = {"yes-no": [1, 0], "open": [2 / 3, 0], "choice": [1, 0], "report": [2 / 3, 1]}
    for name, rows in judge.items():
        task = task_named(name)
        assert task.each(answers(name, "m", rows), "leading").tolist() == pytest.approx(
            expected[name]
        ), name
        assert task.score(answers(name, "m", rows), Scoring()).measures
