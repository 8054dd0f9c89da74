"""The members of an ensemble of heads: trained, chosen, measured, joined."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

from mrrag_llamaindex import defaults
from mrrag_llamaindex.learning.towers.heads.encoder import HeadFeatures, HeadsEncoder
from mrrag_llamaindex.learning.towers.loop import train
from mrrag_llamaindex.learning.towers.recall import pair_ranks, recall_with_intervals
from mrrag_llamaindex.learning.towers.same_reports import SameReports
from mrrag_llamaindex.learning.towers.settings import ContrastiveTraining, TrainingRun
from mrrag_llamaindex.learning.towers.state import TrainingState, belongs_to
from mrrag_llamaindex.learning.towers.training_pairs import Split, TrainingPairs
from mrrag_llamaindex.towers.projection_head import FittedHeads, HeadEnsemble, ProjectionHead

Hidden: TypeAlias = int | Literal["auto"] | None
"""Width of an image head's hidden layer, None for a linear one, "auto" to try both."""


@dataclass(frozen=True)
class MemberTraining:
    """What all members of an ensemble are trained with."""

    pairs: TrainingPairs
    features: HeadFeatures
    settings: ContrastiveTraining
    run: TrainingRun
    reports: SameReports
    dimension: int
    dropout: float

    def trained(
        self, seed: int, hidden: int | None, split: Split
    ) -> tuple[HeadsEncoder, dict[str, Any]]:
        """Return a member of best validation recall, and how it went."""
        encoder = self._empty(seed, hidden, split.train)
        settings = replace(self.settings, seed=seed)
        return encoder, self._run(encoder, settings, split, _state_name(seed, hidden))

    def final(self, seed: int, hidden: int | None, everyone: Split, epochs: int) -> HeadsEncoder:
        """Return a member trained on all pairs for a number of epochs."""
        encoder = self._empty(seed, hidden, everyone.train)
        settings = replace(self.settings, seed=seed, max_epochs=epochs)
        name = f"{_state_name(seed, hidden)}-final"
        self._run(encoder, settings, everyone, name, keep_last=True)
        return encoder

    def _run(
        self,
        encoder: HeadsEncoder,
        settings: ContrastiveTraining,
        split: Split,
        name: str,
        *,
        keep_last: bool = False,
    ) -> dict[str, Any]:
        data = f"{self.pairs.digest()} {keep_last} {self.dropout}"
        owner = belongs_to(encoder, data, split, settings)
        path = self.run.work_folder / f"{name}.pt"
        state = TrainingState(path, owner, self.run.checkpoint_seconds, self.run.on_costly)
        # A final fit has seen the validation patients: their recall would say nothing.
        heard = None if keep_last else self.run.on_epoch
        report = heard and partial(heard, settings.seed)
        return train(
            encoder, split, self.reports, settings, state, progress=report, keep_last=keep_last
        )

    def _empty(self, seed: int, hidden: int | None, rows: Tensor) -> HeadsEncoder:
        parts = self.features.image, self.features.text
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            image, text = (
                ProjectionHead(part.shape[1], self.dimension, width, self.dropout)
                for part, width in zip(parts, (hidden, None), strict=True)
            )
        image.standardise(parts[0][rows])
        text.standardise(parts[1][rows])
        return HeadsEncoder(image, text, self.features)


def _state_name(seed: int, hidden: int | None) -> str:
    return f"seed-{seed}" if hidden is None else f"seed-{seed}-hidden-{hidden}"


def choose_hidden(
    one: MemberTraining, wanted: Hidden, split: Split
) -> tuple[int | None, list[dict[str, Any]]]:
    """Return the width of the image head's hidden layer, and what was tried for it."""
    if wanted != "auto":
        return wanted, []
    if len(split.train) < defaults.HIDDEN_FROM:
        return None, []
    widths = (None, defaults.HIDDEN_WIDTH)
    tried = [
        {
            "hidden": width,
            "validation_recall": one.trained(one.settings.seed, width, split)[1][
                "validation_recall"
            ],
        }
        for width in widths
    ]
    best = max(tried, key=lambda entry: entry["validation_recall"])  # of equal ones the linear
    return best["hidden"], tried


def joined(members: Sequence[HeadsEncoder], record: dict[str, Any]) -> FittedHeads:
    """Return the members as one pair of heads."""
    if len(members) == 1:
        return FittedHeads(members[0].image, members[0].text, record)
    image = HeadEnsemble([member.image for member in members])
    text = HeadEnsemble([member.text for member in members])
    return FittedHeads(image.eval(), text.eval(), record)


def measured(
    encoder: HeadsEncoder,
    features: HeadFeatures,
    pairs: TrainingPairs,
    reports: SameReports,
    split: Split,
    seed: int,
) -> dict[str, Any] | None:
    """Return recall on the test patients, see `recall_with_intervals`; None without any."""
    if not len(split.test):
        return None
    encoder.module.eval()
    with torch.inference_mode():
        vectors = [
            encoder.encode(kind, part[split.test])
            for kind, part in (("image", features.image), ("text", features.text))
        ]
    ranks = pair_ranks(vectors[0], vectors[1], reports, split.test)
    patients = [pairs.patients[row] for row in split.test.tolist()]
    return recall_with_intervals(ranks, patients, seed=seed)
