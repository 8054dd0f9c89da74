"""A result table for people: console, Markdown, CSV and LaTeX."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mrrag_llamaindex.evaluation.report.metrics import CLASSES
from mrrag_llamaindex.evaluation.report.table import METRICS, ResultTable
from mrrag_llamaindex.statistics.bootstrap import Interval

if TYPE_CHECKING:
    from rich.table import Table

_HEADS = ("accuracy", "macro F1", "precision", "recall", "yes F1", "invalid")
_LEFT_OUT = ("precision", "recall", "yes F1")
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
_WIDE = 116
_NARROW = 96
_OF_CLASS = ("precision", "recall", "f1", "support")
_MARKDOWN = re.compile(r"([\\`*_{}\[\]<>|~])")


def cells(table: ResultTable) -> tuple[list[str], list[list[str]]]:
    """Return head and lines as text, in percent; the majority baseline is the first line."""
    versus = table.comparisons[0].baseline if table.comparisons else None
    head = ["method", *_HEADS]
    if versus is not None:
        head += [f"against {versus}", "McNemar p"]
    always = table.majority
    first = [f"always {always.label}", _percent(always.accuracy), _percent(always.macro_f1)]
    lines = [first + ["-"] * (len(head) - len(first))]
    for row in table.rows:
        line = [row.method]
        for name in METRICS:
            ends = row.intervals[name] if name in _WITH_INTERVAL else None
            line.append(_percent(getattr(row, name)) + _ends(ends))
        comparison = table.comparison(row.method)
        if comparison is not None:
            line += [
                _percent(comparison.difference, "+") + _ends(comparison.ci, "+"),
                _p(comparison.p_mid),
            ]
        lines.append(line + ["-"] * (len(head) - len(line)))
    return head, lines


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


def to_rich(table: ResultTable, width: int = _WIDE) -> Table:
    """Return the table for a console of so many columns.

    A narrow one gets no precision, recall and yes F1, a very narrow one no McNemar p either, and no
    macro F1 where intervals would be broken; the caption says so.
    """
    from rich.table import Table
    from rich.text import Text

    head, lines = cells(table)
    sentences = notes(table)
    hidden: tuple[str, ...] = () if width >= _WIDE else _LEFT_OUT
    tight = width < _NARROW
    if tight and table.comparisons:
        hidden = (*hidden, "McNemar p")
    columns = [place for place, name in enumerate(head) if name not in hidden]
    gap = 1 if tight else 2
    needed = sum(gap + max(len(line[place]) for line in (head, *lines)) for place in columns)
    if tight and needed > width + gap:
        hidden = ("macro F1", *hidden)
        columns.remove(head.index("macro F1"))
    if hidden:
        sentences.append(f"A wider console also shows {', '.join(hidden)}.")
    rendered = Table(box=None, padding=(0, gap, 0, 0), header_style="bold", caption_justify="left")
    for place in columns:
        # Of text, not markup: a method may be named "[x]".
        first = place == 0
        rendered.add_column(Text(head[place]), justify="left" if first else "right", no_wrap=first)
    for line in lines:
        rendered.add_row(*(Text(line[place]) for place in columns))
    rendered.caption = Text(" ".join(sentences))
    return rendered


def to_markdown(table: ResultTable) -> str:
    """Return a Markdown table, with its notes below."""
    head, lines = cells(table)
    rule = ["---"] + ["---:"] * (len(head) - 1)
    body = [_line(head, _markdown), _line(rule, str), *(_line(line, _markdown) for line in lines)]
    return "\n".join([*body, "", " ".join(map(_markdown, notes(table))), ""])


def to_latex(table: ResultTable) -> str:
    r"""Return a ``tabular`` for ``\input``; it needs the package booktabs."""
    head, lines = cells(table)
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
    names = [f"{name}{part}" for name in METRICS for part in ("", "_low", "_high")]
    per_class = [f"{name}_{part}" for name in CLASSES for part in _OF_CLASS]
    extra = ["versus", "difference", "difference_low", "difference_high"]
    extra += ["gained", "lost", "p_exact", "p_mid"]
    target = io.StringIO()
    writer = csv.writer(target, lineterminator="\n")
    writer.writerow(["data", "rule", "n", "patients", "method", *names, *extra, *per_class])
    start = [table.data, table.rule, table.n, table.patients]
    always = table.majority
    known = {"accuracy": always.accuracy, "macro_f1": always.macro_f1}
    blank = [""] * len(extra)
    unsaid = [""] * len(per_class)
    line = [f"always {always.label}", *(known.get(n, "") for n in names)]
    writer.writerow([*start, *line, *blank, *unsaid])
    for row in table.rows:
        values: list[object] = []
        for name in METRICS:
            values += [getattr(row, name), *(row.intervals[name] or ("", ""))]
        comparison = table.comparison(row.method)
        if comparison is not None:
            values += [comparison.baseline, comparison.difference, *(comparison.ci or ("", ""))]
            values += [comparison.gained, comparison.lost, comparison.p_exact, comparison.p_mid]
        else:
            values += blank
        values += [getattr(row.classes[name], part) for name in CLASSES for part in _OF_CLASS]
        writer.writerow([*start, row.method, *values])
    return target.getvalue()


def write_table(table: ResultTable, folder: str | Path, name: str = "table") -> tuple[Path, ...]:
    """Write ``name.md``, ``name.csv`` and ``name.tex`` into a folder, which is made if absent."""
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    rendered = {".md": to_markdown(table), ".csv": to_csv(table), ".tex": to_latex(table)}
    for suffix, text in rendered.items():
        (target / f"{name}{suffix}").write_text(text, encoding="utf-8", newline="")
    return tuple(target / f"{name}{suffix}" for suffix in rendered)


def _percent(share: float, sign: str = "") -> str:
    return f"{100 * share:{sign}.1f}"


def _ends(ends: Interval | None, sign: str = "") -> str:
    return "" if ends is None else f" [{_percent(ends[0], sign)}, {_percent(ends[1], sign)}]"


def _p(value: float) -> str:
    return "<.001" if value < 0.001 else f"{value:.3f}".lstrip("0")


def _line(texts: Sequence[str], escape: Callable[[str], str]) -> str:
    return "| " + " | ".join(map(escape, texts)) + " |"


def _latex_line(texts: Sequence[str]) -> str:
    return " & ".join(_latex(text) for text in texts) + r" \\"


def _latex(text: str) -> str:
    # A line that begins with a bracket would be read as the length of the line break before it.
    escaped = "".join(_LATEX.get(sign, sign) for sign in " ".join(text.split()))
    escaped = _MINUS.sub("$-$", escaped)
    return f"{{{escaped}}}" if escaped.startswith("[") else escaped


def _markdown(text: str) -> str:
    return _MARKDOWN.sub(r"\\\1", " ".join(text.split()))
