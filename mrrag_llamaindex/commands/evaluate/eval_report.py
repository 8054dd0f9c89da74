"""What ``mrrag eval`` prints and writes."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from rich.table import Table
from rich.text import Text

from mrrag_llamaindex.commands import console
from mrrag_llamaindex.commands.reports.pictures import draw_or_say
from mrrag_llamaindex.errors import InputError
from mrrag_llamaindex.evaluation.data.data_set import Problem
from mrrag_llamaindex.evaluation.data.embedded_set import LeftOut
from mrrag_llamaindex.evaluation.data.parsing import leading
from mrrag_llamaindex.evaluation.data.prediction import Prediction
from mrrag_llamaindex.evaluation.methods.registry import chosen_methods
from mrrag_llamaindex.evaluation.report import notes, table_formats
from mrrag_llamaindex.evaluation.run.answers_file import read_predictions
from mrrag_llamaindex.evaluation.run.harness import LAYERS
from mrrag_llamaindex.evaluation.run.records import Evaluation
from mrrag_llamaindex.evaluation.tasks.task import Scoring, Task
from mrrag_llamaindex.files.atomic import write_atomically
from mrrag_llamaindex.plots import draw_table

_WIDE, _NARROW = 116, 96


class AnyTable(notes.Compared, table_formats.Table, Protocol):
    """A result table of any task."""

    @property
    def spare_columns(self) -> Sequence[str]:
        """Heads of columns that a narrow console may lack, the last one first."""
        ...


_WIDE_ONLY = ("precision", "recall", "yes F1")
_INCOMPLETE = "left out of the data, or incomplete"


@dataclass(frozen=True)
class Telling:
    """How answers are scored, and where that is told.

    Parameters
    ----------
    scoring : Scoring
    seed : int
        Of the intervals.
    out : Path or None
        Folder for tables and results.
    picture : Path or None
        File for the plot.
    as_json : bool
        Print JSON alone.
    task : Task
    """

    scoring: Scoring
    seed: int
    out: Path | None
    picture: Path | None
    as_json: bool
    task: Task


def report(
    data: str,
    runs: Mapping[str, Sequence[Prediction]],
    run: Evaluation,
    problems: Sequence[Problem],
    telling: Telling,
) -> None:
    """Score the answers, write the files and print the table."""
    value = scored(data, runs, run, problems, telling)
    if telling.as_json:
        console.print_json(value)


def scored(
    data: str,
    runs: Mapping[str, Sequence[Prediction]],
    run: Evaluation,
    problems: Sequence[Problem],
    telling: Telling,
) -> dict[str, Any]:
    """Score the answers, write the files, print the table unless told not to, and return it."""
    scoring, seed, task, out = telling.scoring, telling.seed, telling.task, telling.out
    baseline = "naive-rag" if "naive-rag" in runs else None
    table = task.build_table(data, runs, scoring=scoring, seed=seed, baseline=baseline)
    comparisons = notes.steps(table, runs, seed, scoring.compared)
    if scoring.rule == "cares":
        run = replace(run, notes=(*run.notes, *_read_as_yes(runs)))
    told = {(item.method, item.baseline) for item in comparisons}
    untold = [pair for pair in scoring.compared if pair not in told]
    absent = [f"{one} minus {other} is not told: {_why(one, other, runs)}" for one, other in untold]
    run = replace(run, notes=(*run.notes, *absent))
    counts = dict(Counter(problem.kind for problem in problems).most_common())
    sentences = [
        *notes.lines(run, comparisons),
        *(f"{_INCOMPLETE}: {count} x {kind}" for kind, count in counts.items()),
    ]
    value = notes.as_dict(table, run, comparisons, counts)
    value["problem_list"] = [str(problem) for problem in problems]
    files = [] if out is None else _write(table, run, sentences, value, out)
    if (target := telling.picture or out) is not None:
        usual = target / f"{task.main}.png"
        files += draw_or_say(lambda: draw_table(value), telling.picture, usual)["figures"]
        value["files"] = files
    if not telling.as_json:
        _print(table, run, sentences, problems, task.main, out)
    return value


def _why(one: str, other: str, runs: Mapping[str, Sequence[Prediction]]) -> str:
    missing = [name for name in (one, other) if name not in runs]
    if missing:
        return f"{' and '.join(missing)} did not run"
    return "one of them lacks what they would be compared by"


def _read_as_yes(runs: Mapping[str, Sequence[Prediction]]) -> list[str]:
    """Say how many answers of each method the published rule reads that say neither."""
    notes_of = []
    for name, predictions in runs.items():
        count = sum(leading(item.text) == "other" for item in predictions)
        if count:
            notes_of.append(
                f"cares reads {count} of {len(predictions)} answers of {name} that begin with "
                "neither yes nor no"
            )
    return notes_of


def _write(
    table: AnyTable, run: Evaluation, sentences: Sequence[str], value: dict[str, Any], out: Path
) -> list[str]:
    written = list(table_formats.write_table(table, out))
    notes.add_to_markdown(written[0], [*sentences, *notes.grid_lines(run)])
    result = out / "result.json"
    write_atomically(result, json.dumps(value, indent=1, ensure_ascii=False), private=True)
    written.append(result)
    return [str(path) for path in written]


def _print(
    table: AnyTable,
    run: Evaluation,
    sentences: Sequence[str],
    problems: Sequence[Problem],
    main: str,
    out: Path | None,
) -> None:
    screen = console.screen()
    screen.print(to_rich(table, screen.width))
    screen.print()
    parts = {
        f"settings tried on validation questions: {main.replace('_', ' ')} (confidence) "
        "setting": notes.grid_lines(run),
        f"{_INCOMPLETE}, row by row": list(map(str, problems)),
    }
    output = list(sentences)
    for title, items in parts.items():
        if items:
            output += [title, *(f"  {item}" for item in items)]
    if out is not None:
        output.append(f"answers, tables and plot: {out}")
    for line in output:
        screen.print(line, soft_wrap=True)


def to_rich(table: AnyTable, width: int = _WIDE) -> Table:
    """Return the table for a console of ``width`` columns.

    A narrow one gets no precision, recall and yes F1, a very narrow one no McNemar p either, and no
    macro F1 where intervals would be broken; of another task's metrics the last ones go first, its
    main one never. The caption says so.
    """
    head, *lines = table.cells()
    sentences = table.sentences()
    hidden: tuple[str, ...] = () if width >= _WIDE else _WIDE_ONLY
    tight = width < _NARROW
    if tight and "McNemar p" in head:
        hidden = (*hidden, "McNemar p")
    hidden = tuple(name for name in hidden if name in head)
    columns = [place for place, name in enumerate(head) if name not in hidden]
    gap = 1 if tight else 2
    widest = [gap + max(len(line[place]) for line in (head, *lines)) for place in range(len(head))]
    spare = [name for name in table.spare_columns if name in head]
    while spare and sum(widest[place] for place in columns) > width + gap:
        name = spare.pop()
        hidden = (name, *hidden)
        columns.remove(head.index(name))
    if hidden:
        sentences.append(f"A wider console also shows {', '.join(hidden)}.")
    rendered = console.plain_table(gap)
    rendered.caption_justify = "left"
    for place in columns:
        # Of text, not markup: a method may be named "[x]".
        first = place == 0
        rendered.add_column(Text(head[place]), justify="left" if first else "right", no_wrap=first)
    for line in lines:
        rendered.add_row(*(Text(line[place]) for place in columns))
    rendered.caption = Text(" ".join(sentences))
    return rendered


def rescore(
    data: str,
    folder: Path,
    methods: str | None,
    telling: Telling,
) -> None:
    """Score the answers in a run's folder again and print the table.

    Raises
    ------
    InputError
        If the folder holds no answers of a finished run, or its own tables would be overwritten.
    """
    out, task = telling.out, telling.task
    if out is not None and out.resolve() == folder.resolve():
        raise InputError("--out is the run itself, whose tables it would replace: name another")
    if not task.keeps_golds:
        raise InputError(
            f"--rescore cannot score the task {task.name}: the files of a run do not hold the "
            "reference reports. Read the answers beside the data: --predictions FILE --name NAME"
        )
    answers, layers = _answers(folder, methods, task)
    left_out = [
        LeftOut(item.question_id, f"{name}: it could not be asked by the run that answered")
        for name, predictions in answers.items()
        for item in predictions
        if not item.text and item.p_yes is None
    ]
    note = (
        f"scored again from the answers in {folder.name}: no model was asked; questions, gold "
        "labels and settings are those of that run"
    )
    run = Evaluation(answers, {}, (), (note,), tuple(left_out), layers)
    report(data, answers, run, (), telling)


def _answers(
    folder: Path, methods: str | None, task: Task
) -> tuple[dict[str, list[Prediction]], tuple[int, ...]]:
    selected = chosen_methods(methods)
    paths = {name: folder / "predictions" / f"{name}.jsonl" for name in selected}
    missing = [name for name, path in paths.items() if not path.is_file()]
    if missing and (methods is not None or len(missing) == len(selected)):
        raise InputError(f"--rescore {folder.name} holds no answers of {missing[0]}")
    answers: dict[str, list[Prediction]] = {}
    sources, layers = set(), ()
    for name in selected:
        if name not in missing:
            header, answers[name] = read_predictions(paths[name])
            if header.task != task.name:
                raise InputError(
                    f"--rescore {folder.name} holds answers of the task {header.task}: add "
                    f"--task {header.task}"
                )
            sources.add((header.data, header.model))
            layers = tuple(header.settings.get(LAYERS, ()))
    if len(sources) > 1:
        raise InputError(f"--rescore {folder.name} holds answers of several runs; name --methods")
    return answers, layers
