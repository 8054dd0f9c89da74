"""How towers are trained, and where: every setting, checked when it is made."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mrrag_llamaindex import defaults
from mrrag_llamaindex.learning.towers.same_reports import SAME_REPORT_JACCARD

PRECISIONS = ("auto", "float32", "bfloat16")
SCHEDULES = ("constant", "cosine")


@dataclass(frozen=True)
class ContrastiveTraining:
    """Settings of symmetric InfoNCE over pairs.

    The defaults are for whole towers; `for_heads` is the start for heads on frozen encoders.

    Attributes
    ----------
    temperature : float or None
        tau; None learns it, where the encoders have one to learn.
    batch_size : int
        Pairs whose reports are each other's negatives.
    chunk_size : int
        Pairs whose graph is held at once, see `backward_in_chunks`.
    learning_rate, weight_decay : float
        Of AdamW; vectors (biases, norms) do not decay.
    schedule : {"constant", "cosine"}
        Of the learning rate; ``"cosine"`` falls to 0 at ``max_epochs``.
    warmup : float
        Share of all steps in which the learning rate rises to its value.
    clip : float
        Largest norm of a gradient.
    max_epochs, patience : int
        Passes at most, and passes without better validation recall after which training ends.
    validation, test : float
        Shares of the patients held out: for stopping, and for the result.
    same_report : float
        See `SameReports`.
    precision : {"auto", "float32", "bfloat16"}
        ``"auto"`` is mixed precision (bfloat16) on CUDA devices that have it, else float32.
    freeze_batch_norm : bool
        See `TowerEncoder`.
    seed : int
        Of the split, fresh weights, batches and dropout.
    """

    temperature: float | None = None
    batch_size: int = 256
    chunk_size: int = 32
    learning_rate: float = 5e-5
    weight_decay: float = 1e-2
    schedule: str = "cosine"
    warmup: float = 0.05
    clip: float = 1.0
    max_epochs: int = 30
    patience: int = 5
    validation: float = 0.15
    test: float = 0.15
    same_report: float = SAME_REPORT_JACCARD
    precision: str = "auto"
    freeze_batch_norm: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if self.batch_size < 2:
            raise ValueError("batch_size must be at least 2: one pair has no negatives")
        if min(self.chunk_size, self.max_epochs, self.patience) < 1:
            raise ValueError("chunk_size, max_epochs and patience must be at least 1")
        if self.temperature is not None and self.temperature <= 0:
            raise ValueError(f"temperature must be positive, not {self.temperature}")
        if self.learning_rate <= 0 or self.clip <= 0 or self.weight_decay < 0:
            raise ValueError("learning_rate and clip must be positive, weight_decay not below 0")
        if not 0 <= self.warmup < 1:
            raise ValueError(f"warmup must be in [0, 1), not {self.warmup}")
        if not (0 < self.validation < 1 and 0 <= self.test < 1 and self.validation + self.test < 1):
            raise ValueError("validation must be in (0, 1), test in [0, 1), together below 1")
        if not 0 < self.same_report <= 1:
            raise ValueError(f"same_report must be in (0, 1], not {self.same_report}")
        for name, value, known in (
            ("precision", self.precision, PRECISIONS),
            ("schedule", self.schedule, SCHEDULES),
        ):
            if value not in known:
                raise ValueError(f"{name} must be one of {known}, not {value!r}")

    def rate(self, step: int, steps: int) -> float:
        """Learning rate of a step, counted from 0, of ``steps`` in all."""
        rising = round(self.warmup * steps)
        if step < rising:
            return self.learning_rate * (step + 1) / rising
        if self.schedule == "constant":
            return self.learning_rate
        done = (step - rising) / max(1, steps - rising)
        return self.learning_rate * (1 + math.cos(math.pi * done)) / 2


def for_heads(batch_size: int = 256) -> ContrastiveTraining:
    """Return settings for heads on frozen encoders.

    The temperature is higher than for whole encoders: on a few hundred pairs .07 is so sure of the
    training pairs that validation is best after one epoch, with heads that have hardly learnt
    anything.
    """
    return ContrastiveTraining(
        temperature=defaults.HEAD_TEMPERATURE,
        batch_size=batch_size,
        chunk_size=batch_size,
        learning_rate=1e-3,
        schedule="constant",
        warmup=0.0,
        max_epochs=200,
        patience=20,
        precision="float32",
    )


@dataclass(frozen=True)
class Progress:
    """An epoch that is done: its number, from 1, mean loss and validation recall."""

    epoch: int
    loss: float
    recall: float
    best: bool


@dataclass(frozen=True)
class TrainingRun:
    """Where and how often a training is kept, and what is reported meanwhile.

    Attributes
    ----------
    out : Path
        Folder of the towers. ``training`` in it holds cached features and training states; it
        may be removed once the towers are made.
    checkpoint_seconds : float
        See `TrainingState`.
    repeats : int
        Trainings with the seeds from the settings' on. Heads are kept all, as an ensemble; of
        whole towers, each with a split of its own, those of best validation recall are.
    on_features : callable, optional
        Takes ``"image"`` or ``"text"`` and the number of features that are ready.
    on_epoch : callable, optional
        Takes the seed and the `Progress`.
    on_costly : callable, optional
        See `TrainingState`.
    """

    out: Path
    checkpoint_seconds: float = 0.0
    repeats: int = 1
    on_features: Callable[[str, int], None] | None = None
    on_epoch: Callable[[int, Progress], None] | None = None
    on_costly: Callable[[float], None] | None = None

    def __post_init__(self) -> None:
        if self.repeats < 1:
            raise ValueError(f"repeats must be at least 1, not {self.repeats}")

    @property
    def work_folder(self) -> Path:
        """Where cached features and training states lie."""
        return self.out / "training"
