"""A result table for people: text cells, Markdown, CSV and LaTeX."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from pathlib import Path

from mrrag_llamaindex.evaluation.markdown import markdown_table
from mrrag_llamaindex.evaluation.report.metrics import CLASSES
from mrrag_llamaindex.evaluation.report.table import METRICS, ResultTable
from mrrag_llamaindex.files.atomic import write_atomically
from mrrag_llamaindex.statistics.bootstrap import Interval

_HEADS = ("accuracy", "macro F1", "precision", "recall", "yes F1", "invalid")
_WITH_INTERVAL = ("accuracy", "macro_f1")
_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
}
_MINUS = re.compile(r"(?<![^\[ ])-(?=\d)")
_OF_CLASS = ("precision", "recall", "f1", "support")
_MARKDOWN = re.compile(r"([\\`*_{}\[\]<>|~])")


def cells(table: ResultTable) -> list[list[str]]:
    """Return the lines as text, in percent: the head, the majority baseline, the methods."""
    versus = table.comparisons[0].baseline if table.comparisons else None
    head = ["method", *_HEADS, *([] if versus is None else [f"against {versus}", "McNemar p"])]
    always = table.majority
    lines = [[f"always {always.label}", _percent(always.accuracy), _percent(always.macro_f1)]]
    for row in table.rows:
        line = [row.method]
        for name in METRICS:
            ends = row.intervals[name] if name in _WITH_INTERVAL else None
            line.append(_percent(getattr(row, name)) + _ends(ends))
        if (other := table.comparison(row.method)) is not None:
            line += [_percent(other.difference, "+") + _ends(other.ci, "+"), _p(other.p_mid)]
        lines.append(line)
    return [head, *(line + ["-"] * (len(head) - len(line)) for line in lines)]


def notes(table: ResultTable) -> list[str]:
    """Return what has to be known to read the table, one sentence each."""
    sentences = [
        f"{table.data}: {table.n} questions about {table.patients} patients, in percent.",
        "Brackets: 95% intervals, bootstrap by patient."
        if table.patients > 1
        else "No intervals: they are drawn over patients, and there is only one.",
        "An answer that says neither yes nor no is wrong, counts as invalid, and predicts neither."
        if table.rule == "leading"
        else "Answers read by the CARES rule, which takes everything that does not say no for yes.",
        "Precision, recall and macro F1 are means over yes and no; yes F1 is of that class alone.",
    ]
    if table.comparisons:
        sentences.append(
            "McNemar p (mid-p) takes questions for independent; several about one patient are not, "
            "so judge by the interval of the difference."
        )
    return sentences


def to_markdown(table: ResultTable) -> str:
    """Return a Markdown table, with its notes below."""
    head, *lines = (list(map(_markdown, line)) for line in cells(table))
    rule = ["---"] + ["---:"] * (len(head) - 1)
    body = markdown_table(head, lines, rule)
    return f"{body}\n\n{_markdown(' '.join(notes(table)))}\n"


def to_latex(table: ResultTable) -> str:
    r"""Return a ``tabular`` for ``\input``; it needs the package booktabs."""
    head, *lines = cells(table)
    body = [
        *(f"% {note}" for note in notes(table)),
        r"\begin{tabular}{l" + "r" * (len(head) - 1) + "}",
        r"\toprule",
        _latex_line(head),
        r"\midrule",
        _latex_line(lines[0]),
        r"\midrule",
        *map(_latex_line, lines[1:]),
        r"\bottomrule",
        r"\end{tabular}",
    ]
    return "\n".join(body) + "\n"


def to_csv(table: ResultTable) -> str:
    """Return every number, unrounded shares from 0 to 1, with the ends of its interval.

    The last columns are precision, recall, F1 and support of each class by itself.
    """
    about = {"data": table.data, "rule": table.rule, "n": table.n, "patients": table.patients}
    always = table.majority
    lines: list[dict[str, object]] = [
        {"method": f"always {always.label}"}
        | {"accuracy": always.accuracy, "macro_f1": always.macro_f1}
    ]
    for row in table.rows:
        line: dict[str, object] = {"method": row.method}
        for name in METRICS:
            line[name] = getattr(row, name)
            line |= _csv_ends(name, row.intervals[name])
        if (other := table.comparison(row.method)) is not None:
            line |= {"versus": other.baseline, "difference": other.difference}
            line |= _csv_ends("difference", other.ci)
            line |= {name: getattr(other, name) for name in ("gained", "lost", "p_exact", "p_mid")}
        for name in CLASSES:
            line |= {f"{name}_{part}": getattr(row.classes[name], part) for part in _OF_CLASS}
        lines.append(line)
    metrics = [f"{name}{part}" for name in METRICS for part in ("", "_low", "_high")]
    versus = ["versus", "difference", "difference_low", "difference_high"]
    classes = [f"{name}_{part}" for name in CLASSES for part in _OF_CLASS]
    names = [*about, "method", *metrics, *versus, "gained", "lost", "p_exact", "p_mid", *classes]
    target = io.StringIO()
    writer = csv.DictWriter(target, names, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(about | line for line in lines)
    return target.getvalue()


def write_table(table: ResultTable, folder: str | Path, name: str = "table") -> tuple[Path, ...]:
    """Write ``name.md``, ``name.csv`` and ``name.tex`` into a folder, which is made if absent."""
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    rendered = {".md": to_markdown(table), ".csv": to_csv(table), ".tex": to_latex(table)}
    for suffix, text in rendered.items():
        write_atomically(target / f"{name}{suffix}", text)
    return tuple(target / f"{name}{suffix}" for suffix in rendered)


def _percent(share: float, sign: str = "") -> str:
    return f"{100 * share:{sign}.1f}"


def _ends(ends: Interval | None, sign: str = "") -> str:
    return "" if ends is None else f" [{_percent(ends[0], sign)}, {_percent(ends[1], sign)}]"


def _p(value: float) -> str:
    return "<.001" if value < 0.001 else f"{value:.3f}".lstrip("0")


def _csv_ends(name: str, ends: Interval | None) -> dict[str, object]:
    return {} if ends is None else {f"{name}_low": ends[0], f"{name}_high": ends[1]}


def _latex_line(texts: Sequence[str]) -> str:
    return " & ".join(_latex(text) for text in texts) + r" \\"


def _latex(text: str) -> str:
    # A line that begins with a bracket would be read as the length of the line break before it.
    escaped = "".join(_LATEX.get(sign, sign) for sign in " ".join(text.split()))
    escaped = _MINUS.sub("$-$", escaped)
    return f"{{{escaped}}}" if escaped.startswith("[") else escaped


def _markdown(text: str) -> str:
    return _MARKDOWN.sub(r"\\\1", " ".join(text.split()))
