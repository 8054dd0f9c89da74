"""Epochs, steps and validation of a contrastive training, and what has to be kept of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mrrag_llamaindex.errors import InputError, TowerError
from mrrag_llamaindex.learning.towers.batches import epoch_batches, loaded_ahead, mixed_seed, seeded
from mrrag_llamaindex.learning.towers.contrastive import KINDS, backward_in_chunks, info_nce
from mrrag_llamaindex.learning.towers.pair_encoders import PairEncoder, encode_all
from mrrag_llamaindex.learning.towers.processes import Processes
from mrrag_llamaindex.learning.towers.recall import mean_recall, pair_ranks
from mrrag_llamaindex.learning.towers.same_reports import SameReports
from mrrag_llamaindex.learning.towers.settings import ContrastiveTraining, Progress
from mrrag_llamaindex.learning.towers.state import TrainingState
from mrrag_llamaindex.learning.towers.training_pairs import Split

_LEAST_LOG_TEMPERATURE = math.log(0.01)


class Loop:
    """A training between two batches; `run` goes on from there. See `train`."""

    def __init__(
        self,
        encoder: PairEncoder,
        split: Split,
        reports: SameReports,
        settings: ContrastiveTraining,
        processes: Processes,
    ) -> None:
        self.encoder, self.split, self.reports, self.settings = encoder, split, reports, settings
        self.processes = processes
        self.patience = settings.patience
        self.learned = encoder.log_temperature if settings.temperature is None else None
        if self.learned is None and settings.temperature is None:
            raise ValueError("these encoders have no temperature to learn; give one")
        unused = encoder.log_temperature if self.learned is None else None
        self.parameters = [
            p for p in encoder.module.parameters() if p.requires_grad and p is not unused
        ]
        groups: list[dict[str, Any]] = [
            {"params": [p for p in self.parameters if p.ndim > 1]},
            {"params": [p for p in self.parameters if p.ndim <= 1], "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(
            groups, lr=settings.learning_rate, weight_decay=settings.weight_decay
        )
        self.history: list[dict[str, Any]] = []
        self.losses: list[float] = []
        self.best = self._weights()

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
            "module": dict(self.encoder.module.state_dict()),
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
        (epoch, first), settings = at, self.settings
        while epoch < settings.max_epochs and not self._finished():
            rows = epoch_batches(self.split.train, settings.batch_size, settings.seed, epoch)
            batches = tuple(self.processes.divisible(batch) for batch in rows)
            for number, batch, inputs in loaded_ahead(batches, first, self._load):
                self._step((epoch, number, len(batches)), batch, inputs)
                self._save(state, epoch, number + 1)
            epoch, first = epoch + 1, 0
            done = self._validate(epoch)
            self.losses = []
            self._save(state, epoch, 0)
            if progress:
                progress(done)
        return epoch, first

    def temperature(self) -> Tensor | float:
        """Tau of InfoNCE now; a learned one with its graph."""
        if self.learned is None:
            assert self.settings.temperature is not None
            return self.settings.temperature
        return self.learned.exp()

    def _save(self, state: TrainingState | None, epoch: int, batch: int) -> None:
        if state and self.processes.main and state.due:
            state.write(self.as_dict(epoch, batch))

    def _weights(self) -> dict[str, Tensor]:
        """Copy the weights to the CPU, where training leaves them as they are."""
        state = self.encoder.module.state_dict()
        return {name: tensor.detach().cpu().clone() for name, tensor in state.items()}

    def _finished(self) -> bool:
        recalls = [entry["validation_recall"] for entry in self.history]
        return len(recalls) - 1 - int(np.argmax(recalls or [0])) >= self.patience

    def _load(self, batch: Tensor) -> tuple[list[Any], list[Any]]:
        own = batch[self.processes.place(len(batch))]
        chunks = [chunk.tolist() for chunk in torch.split(own, self.settings.chunk_size)]
        images, texts = ([self.encoder.load(kind, rows) for rows in chunks] for kind in KINDS)
        return images, texts

    def _step(
        self, at: tuple[int, int, int], batch: Tensor, inputs: tuple[list[Any], list[Any]]
    ) -> None:
        epoch, number, parts = at
        self.encoder.module.train()
        rate = self.settings.rate(epoch * parts + number, self.settings.max_epochs * parts)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        alike = self.reports.matrix(batch)

        def encode(kind: str, chunk: int, part: Any) -> Tensor:
            # The same dropout in both passes over a chunk, and after a restart.
            place = (KINDS.index(kind), chunk, self.processes.index)
            with seeded(mixed_seed(self.settings.seed, epoch, number, *place)), self._autocast():
                return self.encoder.encode(kind, part)

        def loss(image: Tensor, text: Tensor) -> Tensor:
            value = info_nce(image, text, self.temperature(), alike.to(image.device))
            with seeded(mixed_seed(self.settings.seed, epoch, number, len(KINDS))):
                more = self.encoder.further_loss(batch, image, text, self.temperature())
            return value if more is None else value + more

        self.optimizer.zero_grad()
        gather = self.processes.gather if self.processes.count > 1 else None
        value = backward_in_chunks(encode, inputs, loss, gather).item()
        self.processes.add_gradients([p for p in self.parameters if p is not self.learned])
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.settings.clip).item()
        for name, size in (("loss", value), ("gradient's norm", norm)):
            if not math.isfinite(size):
                raise TowerError(
                    f"the {name} is {size} in batch {number + 1} of epoch {epoch + 1}: use a lower "
                    "learning rate, or precision float32"
                )
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
        vectors = encode_all(self.encoder, rows.tolist(), self.settings.chunk_size, self._autocast)
        recall = self.processes.same(mean_recall(pair_ranks(*vectors, self.reports, rows)))
        better = all(recall > entry["validation_recall"] for entry in self.history)
        loss = sum(self.losses) / len(self.losses)
        self.history.append({"best_epoch": epoch, "train_loss": loss, "validation_recall": recall})
        if better:
            self.best = self._weights()
        return Progress(epoch, loss, recall, better)

    def _autocast(self) -> Any:
        kind = next(self.encoder.module.parameters()).device.type
        auto = self.settings.precision == "auto" and kind == "cuda"
        mixed = self.settings.precision == "bfloat16" or (auto and torch.cuda.is_bf16_supported())
        return torch.autocast(kind, dtype=torch.bfloat16, enabled=mixed)


def require_reports(split: Split, reports: SameReports) -> None:
    """Raise `InputError` if there is nothing to tell apart in training or validation."""
    for name, part in (("training", split.train), ("validation", split.validation)):
        if len(part) < 2 or bool(reports.matrix(part, part[:1], near=False).all()):
            raise InputError(
                f"the {name} part has {len(part)} pairs and needs two different reports at least: "
                "more patients, or larger shares of them, are needed"
            )


def train(
    encoder: PairEncoder,
    split: Split,
    reports: SameReports,
    settings: ContrastiveTraining,
    state: TrainingState | None = None,
    *,
    processes: Processes | None = None,
    progress: Callable[[Progress], None] | None = None,
    keep_last: bool = False,
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
    reports : SameReports
        Of all pairs.
    settings : ContrastiveTraining
    state : TrainingState, optional
        Read first, and written while training.
    processes : Processes, optional
        Several devices; by default this process alone.
    progress : callable, optional
        Called after each epoch.
    keep_last : bool
        Keep the weights of the last epoch, and run all of ``max_epochs``: for a training whose
        length is known, on patients that include those of the validation.

    Returns
    -------
    dict
        Plain JSON: ``epochs``, ``best_epoch``, ``train_loss`` and ``validation_recall`` at that
        epoch, ``temperature``, ``train_pairs``, ``validation_pairs``, and ``curve``: by name
        ``epoch``, ``training_loss`` and ``validation_recall`` of all of them.

    Raises
    ------
    InputError
        If the training or the validation part has fewer than two different reports.
    TowerError
        If the loss, or its gradient, is no longer a finite number.
    """
    require_reports(split, reports)
    loop = Loop(encoder, split, reports, settings, processes or Processes())
    at = loop.restore(state.read()) if state else (0, 0)
    loop.patience = settings.max_epochs if keep_last else settings.patience
    at = loop.run(at, state, progress)
    if state and loop.processes.main:
        state.write(loop.as_dict(*at))
    if not keep_last:
        encoder.module.load_state_dict(loop.best)
    encoder.module.eval()
    return {
        "epochs": len(loop.history),
        **max(loop.history, key=lambda entry: (entry["validation_recall"], -entry["best_epoch"])),
        "temperature": float(torch.as_tensor(loop.temperature()).detach()),
        "train_pairs": len(split.train),
        "validation_pairs": len(split.validation),
        "curve": {
            name: [entry[key] for entry in loop.history]
            for name, key in (
                ("epoch", "best_epoch"),
                ("training_loss", "train_loss"),
                ("validation_recall", "validation_recall"),
            )
        },
    }
