"""Where a training of towers is kept, how often, and what is told meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mrrag_llamaindex.learning.towers.loop import Progress

WORK_FOLDER = "training"


@dataclass(frozen=True)
class Workplace:
    """Where and how often a training is kept, and what is told meanwhile.

    Attributes
    ----------
    out : Path
        Folder of the towers. ``training`` in it holds cached features and training states; it
        may be removed once the towers are made.
    checkpoint_seconds : float
        See `TrainingState`.
    repeats : int
        Trainings with the seeds from the settings' on, each with its own split. The towers are
        those of the first; the others show how far the result depends on the seed.
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
