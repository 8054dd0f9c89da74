"""The tasks, one row each: a new task is one file and one row here.

Command line, documentation and tests take the names and everything else about a task from `ROWS`.
"""

from __future__ import annotations

from mrrag_llamaindex.errors import InputError
from mrrag_llamaindex.evaluation.markdown import markdown_table
from mrrag_llamaindex.evaluation.tasks.choice import CHOICE
from mrrag_llamaindex.evaluation.tasks.open_answers import OPEN
from mrrag_llamaindex.evaluation.tasks.report import REPORT
from mrrag_llamaindex.evaluation.tasks.task import Task
from mrrag_llamaindex.evaluation.tasks.yes_no import YES_NO

ROWS = (YES_NO, OPEN, CHOICE, REPORT)
"""All tasks, in the order of the documentation."""

TASKS = tuple(row.name for row in ROWS)
"""Their names."""


def task_named(name: str) -> Task:
    """Return a task.

    Raises
    ------
    InputError
        If there is none of that name.
    """
    for row in ROWS:
        if row.name == name:
            return row
    raise InputError(f"task {name!r} is not known; there are: {', '.join(TASKS)}")


def tasks_markdown() -> str:
    """Return the table of the documentation."""
    head = ("`--task`", "what is asked", "what is right", "how it is scored")
    return markdown_table(head, [(f"`{t.name}`", t.asks, t.right, t.scored) for t in ROWS])
