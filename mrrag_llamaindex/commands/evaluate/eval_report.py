"""What ``mrrag eval`` prints and writes."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mrrag_llamaindex.commands import console
from mrrag_llamaindex.errors import MRRAGError

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
