"""What follows for a table on this machine: towers, a model, and commands."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from mrrag_llamaindex.doctor.start.look import TableLook
from mrrag_llamaindex.doctor.start.steps import (
    QUESTION,
    Step,
    columns_option,
    command,
    layers_step,
    learning_steps,
)
from mrrag_llamaindex.doctor.start.suggestions import Suggestion, suggest_model, suggest_towers
from mrrag_llamaindex.doctor.start.tables import find_questions, question_words
from mrrag_llamaindex.errors import InputError
from mrrag_llamaindex.store.places import without_password

_FEW: Final = 500
"""Pairs below which the user is told that learning may be refused."""


@dataclass(frozen=True)
class Plan:
    """A table looked at, and what follows.

    Attributes
    ----------
    look : TableLook
    towers, model : Suggestion or None
        None where the table cannot be ingested.
    questions : str or None
        The table of questions that weights are learned from.
    notes : tuple of str
    steps : tuple of Step
        The commands, in order.
    """

    look: TableLook
    towers: Suggestion | None = None
    model: Suggestion | None = None
    questions: str | None = None
    notes: tuple[str, ...] = ()
    steps: tuple[Step, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        return asdict(self) | {"look": self.look.as_dict()}


def plan_for(
    look: TableLook,
    *,
    questions: Path | None = None,
    store: str = "store",
    towers: str | None = None,
    model: str | None = None,
    device: str = "auto",
) -> Plan:
    """Say what follows for a table; nothing is loaded or written.

    Parameters
    ----------
    look : TableLook
    questions : Path, optional
        By default a table beside that of the pairs, whose columns are called so.
    store : str
        Folder or URL of the store to be.
    towers, model : str, optional
        By default what is here and fits, see `suggest_towers`.
    device : str

    Raises
    ------
    InputError
        If a table of questions is given and lacks a column.
    MRRAGError
        If towers or a model are given that are none.
    """
    if look.problems:
        return Plan(look)
    home = Path(look.table).parent
    table = questions or find_questions(Path(look.table))
    words = None if table is None else question_words(table)
    if questions is not None and words is None:
        raise InputError(
            f"{questions.name} is no table of questions: it needs columns called question_id, "
            "image, question and answer, and patient_id, study_id or pair_id"
        )
    encoders, generator = suggest_towers(towers, home, device), suggest_model(model, device)
    fit = encoders.fits and generator.fits
    steps = _steps(look, store, encoders.name, generator.name, words) if fit else ()
    notes = [s.verdict for s in (encoders, generator) if not s.fits]
    if encoders.synthetic or generator.synthetic:
        notes.append(
            "phantom shows that everything works here; for real answers name towers and a model "
            "(--towers, --model): mrrag doctor says whether they fit, docs/pairs.md which load"
        )
    if look.pairs < _FEW:
        notes.append(
            f"with {look.pairs:,} pairs there is little to learn from: train-fusion and calibrate "
            "refuse what is not shown to help on other patients, and asking goes on without"
        )
    if words is None and not look.labels:
        notes.append(
            "weights and a calibration are learned from questions with known answers (a table with "
            "question_id, image, question, answer, patient_id): mrrag init TABLE --questions "
            "QUESTIONS; until then all similarities weigh the same"
        )
    if words is None and look.labels:
        notes.append(
            f"weights are learned from {', '.join(look.labels)}: pairs of the same value are "
            "taken to help each other; leave out what you do not ask about"
        )
    return Plan(look, encoders, generator, str(table) if words else None, tuple(notes), steps)


def _steps(
    look: TableLook, store: str, towers: str, model: str, questions: list[str] | None
) -> tuple[Step, ...]:
    place = without_password(store)
    ingest = command(
        "ingest",
        look.table,
        store=place,
        towers=towers,
        columns=columns_option(look.roles),
        images=look.images_folder,
        encoding=look.encoding,
        delimiter=look.delimiter,
    )
    assert look.images is not None
    learnable = questions or look.labels
    ask = command("ask", QUESTION, store=place, image=look.images.example, model=model)
    status = command("status", place, model=model)
    return (
        Step("embed the pairs into a store; run it again to resume or to update", ingest),
        *(learning_steps(place, model, questions, look.labels) if learnable else ()),
        layers_step(model),
        Step("ask; here about an image of the table, so its own report is found", ask),
        Step("see what the store holds and lacks", status),
    )
