"""Where a training stands: one file, written whole, that says which training it belongs to."""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from mrrag_llamaindex.errors import TowerError
from mrrag_llamaindex.towers.atomic import write_atomically
from mrrag_llamaindex.towers.contrastive_training import ContrastiveTraining
from mrrag_llamaindex.towers.identity import weights_digest
from mrrag_llamaindex.towers.pair_encoders import PairEncoder
from mrrag_llamaindex.towers.splits import Split


def belongs_to(encoder: PairEncoder, data: str, split: Split, how: ContrastiveTraining) -> str:
    """Digest of all that a training's result depends on; call it before the training."""
    rows = [part.tolist() for part in (split.train, split.validation, split.test)]
    told = [weights_digest(encoder.module), data, rows, asdict(how)]
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


class TrainingState:
    """The file from which an interrupted training goes on.

    Parameters
    ----------
    path : Path
    belongs_to : str
        Digest of the pairs, the split, the settings and the weights at the start.
    seconds : float
        Least time between two writes; 0 writes after every batch.
    """

    def __init__(self, path: Path, belongs_to: str, seconds: float = 60.0) -> None:
        if seconds < 0:
            raise ValueError(f"seconds between checkpoints must not be negative: {seconds}")
        self.path = path
        self._belongs_to = belongs_to
        self._seconds = seconds
        self._written = time.monotonic()

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
        return time.monotonic() - self._written >= self._seconds

    def write(self, state: dict[str, Any]) -> None:
        """Replace the file."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        told = {**state, "belongs_to": self._belongs_to}
        write_atomically(self.path, lambda beside: torch.save(told, beside))
        self._written = time.monotonic()
