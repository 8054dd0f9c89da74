"""Contrastive training of towers: symmetric InfoNCE, early stopping on recall, resumable."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from mrrag_llamaindex.errors import InputError
from mrrag_llamaindex.learning.towers.likeness import ReportLikeness
from mrrag_llamaindex.learning.towers.loop import Loop, Progress
from mrrag_llamaindex.learning.towers.pair_encoders import PairEncoder
from mrrag_llamaindex.learning.towers.processes import Processes
from mrrag_llamaindex.learning.towers.settings import ContrastiveTraining
from mrrag_llamaindex.learning.towers.state import TrainingState
from mrrag_llamaindex.statistics.splits import Split


def train(
    encoder: PairEncoder,
    split: Split,
    likeness: ReportLikeness,
    how: ContrastiveTraining,
    state: TrainingState | None = None,
    *,
    processes: Processes | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> dict[str, Any]:
    """Train until validation recall (`mean_recall`) has stopped rising; the best is kept.

    The order of the pairs and the dropout of every batch follow from the seed and the batch's
    number alone. So a training that was killed and goes on from ``state`` ends with the same
    weights as one that was not (on one machine, with the same number of threads; on CUDA as far
    as its kernels repeat themselves).

    Parameters
    ----------
    encoder : PairEncoder
        In evaluation mode afterwards, with the weights of the best epoch.
    split : Split
    likeness : ReportLikeness
        Of all pairs.
    how : ContrastiveTraining
    state : TrainingState, optional
        Read first, and written while training.
    processes : Processes, optional
        Several devices; by default this process alone.
    progress : callable, optional
        Called after each epoch.

    Returns
    -------
    dict
        Plain JSON: ``epochs``, ``best_epoch``, ``train_loss`` and ``validation_recall`` at that
        epoch, ``temperature``, and ``train_pairs``, ``validation_pairs``.

    Raises
    ------
    InputError
        If the training or the validation part has fewer than two different reports.
    TowerError
        If the loss, or its gradient, is no longer a finite number.
    """
    for name, part in (("training", split.train), ("validation", split.validation)):
        if len(part) < 2 or bool(likeness.matrix(part, part[:1], near=False).all()):
            raise InputError(
                f"the {name} part has {len(part)} pairs and needs two different reports at least: "
                "more patients, or larger shares of them, are needed"
            )
    loop = Loop(encoder, split, likeness, how, processes or Processes())
    at = loop.restore(state.read()) if state else (0, 0)
    at = loop.run(at, state, progress)
    if state and loop.processes.main:
        state.write(loop.as_dict(*at))
    encoder.module.load_state_dict(loop.best)
    encoder.module.eval()
    return {
        "epochs": len(loop.history),
        **max(loop.history, key=lambda entry: (entry["validation_recall"], -entry["best_epoch"])),
        "temperature": float(torch.as_tensor(loop.temperature()).detach()),
        "train_pairs": len(split.train),
        "validation_pairs": len(split.validation),
    }
