"""Tables in Markdown."""

from __future__ import annotations

from collections.abc import Sequence


def markdown_table(
    head: Sequence[str], lines: Sequence[Sequence[str]], rule: Sequence[str] = ()
) -> str:
    """Return a table; cells are taken as they are, so that they may hold markup.

    Parameters
    ----------
    head : sequence of str
    lines : sequence of sequence of str
    rule : sequence of str
        Of the columns: ``---`` (left, the default) or ``---:`` (right).

    Examples
    --------
    >>> print(markdown_table(("a", "b"), [("1", "2")]))
    | a | b |
    | --- | --- |
    | 1 | 2 |
    """
    rows = (head, rule or ["---"] * len(head), *lines)
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)
