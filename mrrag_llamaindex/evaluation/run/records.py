"""What an evaluation is asked to run, and everything that it gave."""

from __future__ import annotations

from dataclasses import dataclass

from mrrag_llamaindex.evaluation.data.embedded_set import LeftOut
from mrrag_llamaindex.evaluation.data.prediction import Prediction
from mrrag_llamaindex.evaluation.methods.method import Method
from mrrag_llamaindex.evaluation.methods.registry import USUAL
from mrrag_llamaindex.evaluation.methods.tuning import Tuned
from mrrag_llamaindex.evaluation.tasks.task import Task
from mrrag_llamaindex.evaluation.tasks.yes_no import YES_NO


@dataclass(frozen=True)
class HarnessSettings:
    """What is run.

    Attributes
    ----------
    methods : tuple of str
        Names of `METHODS`.
    documents : int
        K.
    max_new_tokens : int
        Longest answer. A yes or no comes first, so few are needed; CARES reads to the first full
        stop.
    scoring : str
        Rule by which validation answers are read.
    seed : int
        Written into the files.
    task : Task
        What is asked.
    """

    methods: tuple[str, ...] = USUAL
    documents: int = 6
    max_new_tokens: int = 32
    scoring: str = "leading"
    seed: int = 0
    task: Task = YES_NO

    def __post_init__(self) -> None:
        if self.documents < 1 or self.max_new_tokens < 1:
            raise ValueError("documents and max_new_tokens must be at least 1")


@dataclass(frozen=True)
class Evaluation:
    """All answers of a run.

    Attributes
    ----------
    predictions : dict
        By method, in the order of the table; the seeds pooled.
    not_run : dict
        Method to the reason why it has no answers.
    tuned : tuple of Tuned
    notes : tuple of str
        What was learned or left as published, in words.
    left_out : tuple of LeftOut
        Questions that a method could not be asked.
    critical_layers : tuple of int
        What steering took where a method names no layers.
    """

    predictions: dict[str, list[Prediction]]
    not_run: dict[str, str]
    tuned: tuple[Tuned[Method], ...]
    notes: tuple[str, ...]
    left_out: tuple[LeftOut, ...]
    critical_layers: tuple[int, ...] = ()
