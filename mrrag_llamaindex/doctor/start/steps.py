"""The commands that come next, as they can be pasted into a shell."""

from __future__ import annotations

import importlib.util
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from mrrag_llamaindex.store.places import without_password

QUESTION: Final = "Is there a pleural effusion?"
"""What is asked in an example."""

RECORDS: Final = "mined.jsonl"
"""File of training records in an example."""

LAYERS: Final = "layers"
"""Folder of a layer search in an example."""


@dataclass(frozen=True)
class Step:
    """One command.

    Attributes
    ----------
    what : str
        What it does, in words.
    command : str
        Quoted for a POSIX shell. Where it needs a file that nobody has named yet, the name stands
        in capitals, and `needs` says what it is.
    needs : str or None
        What has to be brought first; None: the command works as it stands.
    """

    what: str
    command: str
    needs: str | None = None


def command(*words: str, **options: str | None) -> str:
    """Return ``mrrag WORDS --option value``; options without a value are left out.

    Examples
    --------
    >>> command("ingest", "my pairs.csv", store="store", images=None)
    "mrrag ingest 'my pairs.csv' --store store"
    """
    named = {name: value for name, value in options.items() if value}
    parts = [
        part for name, value in named.items() for part in (f"--{name.replace('_', '-')}", value)
    ]
    return shlex.join(["mrrag", *words, *parts])


def columns_option(columns: Mapping[str, str]) -> str | None:
    """Return the value of ``--columns``, None where every column has the name of its role."""
    renamed = [f"{role}={name}" for role, name in columns.items() if role != name]
    return ",".join(renamed) or None


def learning_steps(
    store: str,
    model: str,
    questions: Sequence[str] | None,
    labels: Sequence[str],
    *,
    has_weights: bool = False,
) -> list[Step]:
    """Return the steps from a store to weights and a calibration.

    Parameters
    ----------
    store : str
    model : str
        Rates documents, where there are questions.
    questions : sequence of str or None
        The words that name a table of questions, and the options to read it; None without one.
    labels : sequence of str
        Columns of the pairs to learn from, where there are no questions.
    has_weights : bool
        Whether weights were learned already, so that only the calibration is lacking.
    """
    place = without_password(store)
    if questions:
        mine = command("mine", *questions, store=place, model=model, out=RECORDS)
        needs = None
    elif labels:
        mine = command("mine", store=place, labels=",".join(labels), out=RECORDS)
        needs = None
    else:
        mine = command("mine", "QUESTIONS.csv", store=place, model=model, out=RECORDS)
        needs = (
            "QUESTIONS.csv: questions with known answers, columns question_id, image, question, "
            "answer and patient_id"
        )
    after = None if needs is None else "the records that the command before writes"
    extra = Step("what learning needs", 'pip install "mrrag-llamaindex[learn]"')
    fusion = Step(
        "learn how much each similarity counts (refused where equal weights do as well)",
        command("train-fusion", RECORDS, store=place),
        after,
    )
    calibration = Step(
        "learn what a score means (refused where it means nothing)",
        command("calibrate", RECORDS, store=place),
        after,
    )
    return [
        *([extra] if missing_extra() else []),
        Step("find out which pairs help", mine, needs),
        *([] if has_weights else [fusion]),
        calibration,
    ]


def layers_step(model: str) -> Step:
    """Return the step that finds the layers in which a model reads documents."""
    search = command("find-layers", model=model, data="phantom", examples="40", out=LAYERS)
    return Step("find the layers in which the model reads documents", search)


def missing_extra() -> bool:
    """Return whether the extra ``learn`` is not installed."""
    return any(importlib.util.find_spec(name) is None for name in ("scipy", "sklearn"))
