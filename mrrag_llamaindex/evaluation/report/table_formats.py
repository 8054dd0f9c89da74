"""A result table for people: text cells, Markdown, CSV and LaTeX."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from mrrag_llamaindex.evaluation.markdown import markdown_table
from mrrag_llamaindex.files.atomic import write_atomically

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
_MARKDOWN = re.compile(r"([\\`*_{}\[\]<>|~])")


class Table(Protocol):
    """A result table: what every format is made of."""

    def cells(self) -> list[list[str]]:
        """Return the lines as text, in percent: the head first."""
        ...

    def sentences(self) -> list[str]:
        """Return what has to be known to read it, one sentence each."""
        ...

    def numbers(self) -> tuple[list[str], list[dict[str, object]]]:
        """Return every number: names of the columns, and the lines."""
        ...

    @property
    def baselines(self) -> int:
        """Lines below the head that are no method's."""
        ...


def to_markdown(table: Table) -> str:
    """Return a Markdown table, with its notes below."""
    head, *lines = (list(map(_markdown, line)) for line in table.cells())
    rule = ["---"] + ["---:"] * (len(head) - 1)
    body = markdown_table(head, lines, rule)
    return f"{body}\n\n{_markdown(' '.join(table.sentences()))}\n"


def to_latex(table: Table) -> str:
    r"""Return a ``tabular`` for ``\input``; it needs the package booktabs."""
    head, *lines = table.cells()
    first = table.baselines
    body = [
        *(f"% {note}" for note in table.sentences()),
        r"\begin{tabular}{l" + "r" * (len(head) - 1) + "}",
        r"\toprule",
        _latex_line(head),
        r"\midrule",
        *[part for line in lines[:first] for part in (_latex_line(line), r"\midrule")],
        *map(_latex_line, lines[first:]),
        r"\bottomrule",
        r"\end{tabular}",
    ]
    return "\n".join(body) + "\n"


def to_csv(table: Table) -> str:
    """Return every number, unrounded shares from 0 to 1, with the ends of its interval."""
    names, lines = table.numbers()
    target = io.StringIO()
    writer = csv.DictWriter(target, names, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return target.getvalue()


def write_table(table: Table, folder: str | Path, name: str = "table") -> tuple[Path, ...]:
    """Write ``name.md``, ``name.csv`` and ``name.tex`` into a folder, which is made if absent."""
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    rendered = {".md": to_markdown(table), ".csv": to_csv(table), ".tex": to_latex(table)}
    for suffix, text in rendered.items():
        write_atomically(target / f"{name}{suffix}", text)
    return tuple(target / f"{name}{suffix}" for suffix in rendered)


def _latex_line(texts: Sequence[str]) -> str:
    return " & ".join(_latex(text) for text in texts) + r" \\"


def _latex(text: str) -> str:
    # A line that begins with a bracket would be read as the length of the line break before it.
    escaped = "".join(_LATEX.get(sign, sign) for sign in " ".join(text.split()))
    escaped = _MINUS.sub("$-$", escaped)
    return f"{{{escaped}}}" if escaped.startswith("[") else escaped


def _markdown(text: str) -> str:
    return _MARKDOWN.sub(r"\\\1", " ".join(text.split()))
