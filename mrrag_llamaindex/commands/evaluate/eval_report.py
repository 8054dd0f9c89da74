"""What ``mrrag eval`` prints and writes."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mrrag_llamaindex.commands import console
from mrrag_llamaindex.errors import InputError, MRRAGError

if TYPE_CHECKING:
    from mrrag_llamaindex.evaluation.data.data_set import Problem
    from mrrag_llamaindex.evaluation.report.table import ResultTable
    from mrrag_llamaindex.evaluation.run.prediction import Prediction
    from mrrag_llamaindex.evaluation.run.records import Evaluation

_NOT_WHOLE = "left out of the data, or not whole"


def report(
    data: str,
    runs: Mapping[str, Sequence[Prediction]],
    found: Evaluation,
    problems: Sequence[Problem],
    *,
    scoring: str,
    seed: int,
    out: Path | None,
    as_json: bool,
) -> None:
    """Score the answers, write the files and print the table."""
    from mrrag_llamaindex.evaluation.report.notes import as_dict, lines, steps
    from mrrag_llamaindex.evaluation.report.table import build_table

    baseline = "naive-rag" if "naive-rag" in runs else None
    table = build_table(data, runs, rule=scoring, seed=seed, baseline=baseline)
    compared = steps(runs, scoring, seed)
    counts = dict(Counter(problem.kind for problem in problems).most_common())
    said = [
        *lines(found, compared),
        *(f"{_NOT_WHOLE}: {count} x {kind}" for kind, count in counts.items()),
    ]
    value = as_dict(table, found, compared, counts)
    value["problem_list"] = [str(problem) for problem in problems]
    if out is not None:
        value["files"] = _write(table, found, said, value, out)
    if as_json:
        console.print_json(value)
    else:
        _print(table, found, said, problems, out)


def _write(
    table: ResultTable, found: Evaluation, said: Sequence[str], value: dict[str, Any], out: Path
) -> list[str]:
    from mrrag_llamaindex.evaluation.report.notes import add_to_markdown, grid_lines
    from mrrag_llamaindex.evaluation.report.plots import table_plot
    from mrrag_llamaindex.evaluation.report.table_formats import write_table

    written = list(write_table(table, out))
    add_to_markdown(written[0], [*said, *grid_lines(found)])
    result = out / "result.json"
    result.write_text(json.dumps(value, indent=1, ensure_ascii=False), encoding="utf-8")
    written.append(result)
    try:
        written.append(table_plot(table, out / "accuracy.png"))
    except MRRAGError as error:
        console.say("note", f"no plot: {error}")
    return [str(path) for path in written]


def _print(
    table: ResultTable,
    found: Evaluation,
    said: Sequence[str],
    problems: Sequence[Problem],
    out: Path | None,
) -> None:
    from rich.console import Console

    from mrrag_llamaindex.evaluation.report.notes import grid_lines
    from mrrag_llamaindex.evaluation.report.table_formats import to_rich

    screen = Console(highlight=False)
    screen.print(to_rich(table, screen.width))
    screen.print()
    tried = [f"  {line}" for line in grid_lines(found)]
    if tried:
        tried.insert(0, "settings tried on validation questions: accuracy (confidence) setting")
    listed = [f"  {problem}" for problem in problems]
    if listed:
        listed.insert(0, f"{_NOT_WHOLE}, row by row")
    where = [] if out is None else [f"answers, tables and plot: {out}"]
    for line in (*said, *tried, *listed, *where):
        screen.print(line, markup=False, soft_wrap=True)


def rescore(
    data: str,
    folder: Path,
    methods: str | None,
    *,
    scoring: str,
    seed: int,
    out: Path | None,
    as_json: bool,
) -> None:
    """Score the answers in a run's folder again and print the table.

    Raises
    ------
    InputError
        If the folder holds no answers of a finished run, or its own tables would be overwritten.
    """
    from mrrag_llamaindex.evaluation.data.embedded_set import LeftOut
    from mrrag_llamaindex.evaluation.run.records import Evaluation

    if out is not None and out.resolve() == folder.resolve():
        raise InputError("--out is the run itself, whose tables it would replace: name another")
    runs, layers = _answers(folder, methods)
    left_out = [
        LeftOut(item.question_id, f"{name}: it could not be asked by the run that answered")
        for name, answers in runs.items()
        for item in answers
        if not item.text and item.p_yes is None
    ]
    note = (
        f"scored again from the answers in {folder.name}: no model was asked; questions, gold "
        "labels and settings are those of that run"
    )
    found = Evaluation(runs, {}, (), (note,), tuple(left_out), layers)
    report(data, runs, found, (), scoring=scoring, seed=seed, out=out, as_json=as_json)


def _answers(
    folder: Path, methods: str | None
) -> tuple[dict[str, list[Prediction]], tuple[int, ...]]:
    from mrrag_llamaindex.evaluation.methods.method import chosen_methods
    from mrrag_llamaindex.evaluation.run.answers_file import read_predictions
    from mrrag_llamaindex.evaluation.run.harness import LAYERS

    wanted = chosen_methods(methods)
    paths = {name: folder / "predictions" / f"{name}.jsonl" for name in wanted}
    there = {name: path for name, path in paths.items() if path.is_file()}
    if not there or (methods is not None and len(there) < len(wanted)):
        missing = next(name for name in wanted if name not in there)
        raise InputError(f"--rescore {folder.name} holds no answers of {missing}")
    runs: dict[str, list[Prediction]] = {}
    kinds, layers = set(), ()
    for name, path in there.items():
        header, runs[name] = read_predictions(path)
        kinds.add((header.data, header.model))
        layers = tuple(header.settings.get(LAYERS, ()))
    if len(kinds) > 1:
        raise InputError(f"--rescore {folder.name} holds answers of several runs; name --methods")
    return runs, layers
