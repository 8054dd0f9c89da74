"""Epochs, steps and validation of a contrastive training, and what has to be kept of them."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mrrag_llamaindex.errors import InputError, TowerError
from mrrag_llamaindex.learning.towers.batches import epoch_batches, loaded_ahead, mixed_seed, seeded
from mrrag_llamaindex.learning.towers.contrastive import KINDS, backward_in_chunks, info_nce
from mrrag_llamaindex.learning.towers.likeness import ReportLikeness
from mrrag_llamaindex.learning.towers.pair_encoders import PairEncoder, encode_all
from mrrag_llamaindex.learning.towers.processes import Processes
from mrrag_llamaindex.learning.towers.recall import mean_recall, pair_ranks
from mrrag_llamaindex.learning.towers.settings import ContrastiveTraining
from mrrag_llamaindex.learning.towers.state import TrainingState
from mrrag_llamaindex.statistics.splits import Split

_LEAST_LOG_TEMPERATURE = math.log(0.01)


@dataclass(frozen=True)
class Progress:
    """What is told after an epoch: its number, from 1, mean loss and validation recall."""

    epoch: int
    loss: float
    recall: float
    best: bool


class Loop:
    """A training between two batches; `run` goes on from there. See `training.train`."""

    def __init__(
        self,
        encoder: PairEncoder,
        split: Split,
        likeness: ReportLikeness,
        how: ContrastiveTraining,
        processes: Processes,
    ) -> None:
        self.encoder, self.split, self.likeness, self.how = encoder, split, likeness, how
        self.processes = processes
        self.learned = encoder.log_temperature if how.temperature is None else None
        if self.learned is None and how.temperature is None:
            raise ValueError("these encoders have no temperature to learn; give one")
        unused = encoder.log_temperature if self.learned is None else None
        self.parameters = [
            p for p in encoder.module.parameters() if p.requires_grad and p is not unused
        ]
        matrices = [p for p in self.parameters if p.ndim > 1]
        others = [p for p in self.parameters if p.ndim <= 1]
        groups: list[dict[str, Any]] = [
            {"params": matrices, "weight_decay": how.weight_decay},
            {"params": others},
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=how.learning_rate, weight_decay=0.0)
        self.history: list[dict[str, Any]] = []
        self.losses: list[float] = []
        self.best = copy.deepcopy(_on_cpu(encoder.module.state_dict()))

    def restore(self, kept: dict[str, Any] | None) -> tuple[int, int]:
        """Take up what `as_dict` gave; returns the epoch and the batch to go on with."""
        if kept is None:
            return 0, 0
        self.encoder.module.load_state_dict(kept["module"])
        self.optimizer.load_state_dict(kept["optimizer"])
        self.history, self.losses, self.best = kept["history"], kept["losses"], kept["best"]
        return int(kept["epoch"]), int(kept["batch"])

    def as_dict(self, epoch: int, batch: int) -> dict[str, Any]:
        """All that the rest of the training depends on, ``batch`` of ``epoch`` being the next."""
        return {
            "module": _on_cpu(self.encoder.module.state_dict()),
            "optimizer": self.optimizer.state_dict(),
            "history": self.history,
            "losses": self.losses,
            "best": self.best,
            "epoch": epoch,
            "batch": batch,
        }

    def run(
        self,
        at: tuple[int, int],
        state: TrainingState | None,
        progress: Callable[[Progress], None] | None,
    ) -> tuple[int, int]:
        """Train to the end; returns the epoch and the batch that would be next."""
        epoch, first = at
        while epoch < self.how.max_epochs and not self._finished():
            rows = epoch_batches(self.split.train, self.how.batch_size, self.how.seed, epoch)
            batches = tuple(self.processes.whole(batch) for batch in rows)
            for number, batch, inputs in loaded_ahead(batches, first, self._load):
                self._step((epoch, number, len(batches)), batch, inputs)
                if state and self.processes.main and state.due:
                    state.write(self.as_dict(epoch, number + 1))
            told = self._validate(epoch + 1)
            epoch, first = epoch + 1, 0
            self.losses = []
            if state and self.processes.main and state.due:
                state.write(self.as_dict(epoch, 0))
            if progress:
                progress(told)
        return epoch, first

    def temperature(self) -> Tensor | float:
        """Tau of InfoNCE now; a learned one with its graph."""
        if self.learned is None:
            assert self.how.temperature is not None
            return self.how.temperature
        return self.learned.exp()

    def _finished(self) -> bool:
        recalls = [entry["validation_recall"] for entry in self.history]
        return bool(recalls) and len(recalls) - 1 - int(np.argmax(recalls)) >= self.how.patience

    def _load(self, batch: Tensor) -> tuple[list[Any], list[Any]]:
        own = batch[self.processes.place(len(batch))]
        size = self.how.chunk_size
        images, texts = (
            [
                self.encoder.load(kind, own[start : start + size].tolist())
                for start in range(0, len(own), size)
            ]
            for kind in KINDS
        )
        return images, texts

    def _step(
        self, at: tuple[int, int, int], batch: Tensor, inputs: tuple[list[Any], list[Any]]
    ) -> None:
        epoch, number, parts = at
        self.encoder.module.train()
        rate = self.how.rate(epoch * parts + number, self.how.max_epochs * parts)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        alike = self.likeness.matrix(batch)

        def encode(kind: str, chunk: int, part: Any) -> Tensor:
            # The same dropout in both passes over a chunk, and after a restart.
            place = (KINDS.index(kind), chunk, self.processes.index)
            with seeded(mixed_seed(self.how.seed, epoch, number, *place)), self._autocast():
                return self.encoder.encode(kind, part)

        def loss(image: Tensor, text: Tensor) -> Tensor:
            return info_nce(image, text, self.temperature(), alike.to(image.device))

        self.optimizer.zero_grad()
        gather = self.processes.gather if self.processes.count > 1 else None
        value = backward_in_chunks(encode, inputs, loss, gather).item()
        self.processes.add_gradients([p for p in self.parameters if p is not self.learned])
        where = (
            f"in batch {number + 1} of epoch {epoch + 1}: use a lower learning rate, or precision "
            "float32"
        )
        if not math.isfinite(value):
            raise TowerError(f"the loss is {value} {where}")
        norm = float(torch.nn.utils.clip_grad_norm_(self.parameters, self.how.clip))
        if not math.isfinite(norm):
            raise TowerError(f"the gradient's norm is {norm} {where}")
        self.optimizer.step()
        if self.learned is not None:
            # CLIP's floor: below it the loss follows single pairs. The parameter itself is held
            # there; clamped in the loss, it would have no gradient by which to come back.
            with torch.no_grad():
                self.learned.clamp_(min=_LEAST_LOG_TEMPERATURE)
        self.losses.append(value)

    def _validate(self, epoch: int) -> Progress:
        module = self.encoder.module
        self.processes.agree(module)
        rows = self.split.validation
        vectors = encode_all(self.encoder, rows.tolist(), self.how.chunk_size, self._autocast)
        recall = self.processes.same(mean_recall(pair_ranks(*vectors, self.likeness, rows)))
        better = all(recall > entry["validation_recall"] for entry in self.history)
        loss = sum(self.losses) / len(self.losses)
        self.history.append({"best_epoch": epoch, "train_loss": loss, "validation_recall": recall})
        if better:
            self.best = copy.deepcopy(_on_cpu(module.state_dict()))
        return Progress(epoch, loss, recall, better)

    def _autocast(self) -> Any:
        device = next(self.encoder.module.parameters()).device
        wanted = self.how.precision == "bfloat16" or (
            self.how.precision == "auto"
            and device.type == "cuda"
            and torch.cuda.is_bf16_supported()
        )
        return torch.autocast(device.type, dtype=torch.bfloat16, enabled=wanted)


def _on_cpu(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu() for name, tensor in state.items()}


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
