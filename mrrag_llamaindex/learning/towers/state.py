"""Where a training stands: one file, written whole, that says which training it belongs to."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

import torch

from mrrag_llamaindex.errors import TowerError
from mrrag_llamaindex.files.atomic import write_atomically
from mrrag_llamaindex.files.digests import json_digest
from mrrag_llamaindex.learning.towers.pair_encoders import PairEncoder
from mrrag_llamaindex.learning.towers.settings import ContrastiveTraining
from mrrag_llamaindex.learning.towers.training_pairs import Split
from mrrag_llamaindex.towers.identity import weights_digest

COSTLY_SHARE = 0.25
"""Share of a training's time from which saving is worth a word."""

COSTLY_AFTER = 60.0
"""Seconds of training before that share is judged; the advice, too, is to save this often."""


def belongs_to(encoder: PairEncoder, data: str, split: Split, settings: ContrastiveTraining) -> str:
    """Digest of all that a training's result depends on; call it before the training."""
    rows = [part.tolist() for part in (split.train, split.validation, split.test)]
    return json_digest([weights_digest(encoder.module), data, rows, asdict(settings)])


class TrainingState:
    """The file from which an interrupted training goes on.

    Parameters
    ----------
    path : Path
    belongs_to : str
        Digest of the pairs, the split, the settings and the weights at the start.
    seconds : float
        Least time between two writes; 0 writes after every batch.
    on_costly : callable, optional
        Takes the share of the time since the start that went into writing; called once, as soon
        as it is over `COSTLY_SHARE` in a training of more than `COSTLY_AFTER` seconds that
        writes more often than that.
    clock : callable
        Seconds that only rise.
    """

    def __init__(
        self,
        path: Path,
        belongs_to: str,
        seconds: float = 0.0,
        on_costly: Callable[[float], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if seconds < 0:
            raise ValueError(f"seconds between checkpoints must not be negative: {seconds}")
        self.path = path
        self._belongs_to = belongs_to
        self._seconds = seconds
        self._on_costly = on_costly if seconds < COSTLY_AFTER else None
        self._clock = clock
        self._spent = 0.0
        self._started = self._written = clock()

    def read(self) -> dict[str, Any] | None:
        """Return the state, or None if there is none.

        Raises
        ------
        TowerError
            If the file is damaged, or belongs to another training.
        """
        if not self.path.is_file():
            return None
        way_on = "choose another folder, or remove this one's to begin anew"
        try:
            state = torch.load(self.path, map_location="cpu", weights_only=True)
            owner = state["belongs_to"]
        # Damaged files raise errors of pickle, zipfile and torch alike.
        except Exception as error:
            raise TowerError(
                f"the training state {str(self.path)!r} cannot be read "
                f"({type(error).__name__}); {way_on}"
            ) from None
        if owner != self._belongs_to:
            raise TowerError(
                f"the training state {str(self.path)!r} is of other pairs, settings or encoders; "
                f"{way_on}"
            )
        return dict(state)

    @property
    def due(self) -> bool:
        """Whether it is time to write again."""
        return self._clock() - self._written >= self._seconds

    def write(self, state: dict[str, Any]) -> None:
        """Replace the file."""
        started = self._clock()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        owned = {**state, "belongs_to": self._belongs_to}
        write_atomically(self.path, lambda part: _save(owned, part), private=True)
        self._written = self._clock()
        self._spent += self._written - started
        elapsed = self._written - self._started
        if self._on_costly and elapsed > COSTLY_AFTER and self._spent > COSTLY_SHARE * elapsed:
            self._on_costly(self._spent / elapsed)
            self._on_costly = None


def _save(state: dict[str, Any], path: Path) -> None:
    with path.open("wb") as file:
        kept = _KeepsError(file)
        try:
            torch.save(state, kept)  # type: ignore[arg-type]  # all that it needs of one
        except RuntimeError:
            if kept.error is not None:
                raise kept.error from None
            raise


class _KeepsError:
    """A file that remembers why it could not be written: torch says a `RuntimeError` of its own."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        try:
            return self._file.write(data)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        self._file.flush()
