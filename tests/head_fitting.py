"""Two heads fitted on a few hundred cached features: what the figures on covid-cxr were made with.

`mrrag train-towers` stops by validation recall; this stops by validation loss, and takes seconds.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mrrag_llamaindex import defaults
from mrrag_llamaindex.learning.towers.contrastive import info_nce
from mrrag_llamaindex.towers.projection_head import FittedHeads, ProjectionHead


@dataclass(frozen=True)
class HeadTraining:
    """Settings; a share of the groups is held out for early stopping (0: none)."""

    dimension: int = 128
    hidden: int | None = None
    temperature: float = defaults.HEAD_TEMPERATURE
    learning_rate: float = 1e-3
    weight_decay: float = 1e-2
    dropout: float = 0.5
    batch_size: int = 256
    max_epochs: int = 200
    patience: int = 20
    validation_fraction: float = 0.2
    seed: int = 0


def fit_heads(
    image_features: Tensor,
    text_features: Tensor,
    groups: Sequence[str],
    reports: Sequence[str],
    training: HeadTraining,
) -> FittedHeads:
    """Heads under which the halves of a pair meet; no group is in both parts of the split."""
    train, held = _split(groups, training)
    known: dict[str, int] = {}
    plain = (" ".join(report.split()).casefold() for report in reports)
    numbers = torch.tensor([known.setdefault(report, len(known)) for report in plain])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(training.seed)
        image, text = (
            ProjectionHead(features.shape[1], training.dimension, training.hidden, training.dropout)
            for features in (image_features, text_features)
        )
        image.standardise(image_features[train])
        text.standardise(text_features[train])

        def loss_of(rows: Tensor) -> Tensor:
            alike = numbers[rows][:, None] == numbers[rows][None, :]
            vectors = image(image_features[rows]), text(text_features[rows])
            return info_nce(*vectors, training.temperature, alike)

        heads = nn.ModuleDict({"image": image, "text": text})
        record = _train(heads, loss_of, train, held, training)
    heads.eval().requires_grad_(False)
    return FittedHeads(image, text, record)


def _train(
    heads: nn.ModuleDict, loss_of: Any, train: Tensor, held: Tensor, training: HeadTraining
) -> dict[str, Any]:
    optimizer = torch.optim.AdamW(
        heads.parameters(), lr=training.learning_rate, weight_decay=training.weight_decay
    )
    best_epoch, least, kept, epoch = 0, float("inf"), heads.state_dict(), 0
    for epoch in range(1, training.max_epochs + 1):
        heads.train()
        shuffled = train[torch.randperm(len(train))]
        for rows in shuffled.tensor_split(-(-len(shuffled) // training.batch_size)):
            optimizer.zero_grad()
            loss_of(rows).backward()
            optimizer.step()
        heads.eval()
        if not len(held):
            best_epoch = epoch
            continue
        with torch.no_grad():
            value = loss_of(held).item()
        if value < least:
            best_epoch, least, kept = epoch, value, copy.deepcopy(heads.state_dict())
        elif epoch - best_epoch >= training.patience:
            break
    heads.load_state_dict(kept)
    return {"epochs": epoch, "best_epoch": best_epoch}


def _split(groups: Sequence[str], training: HeadTraining) -> tuple[Tensor, Tensor]:
    names = sorted(set(groups))
    order = torch.randperm(len(names), generator=torch.Generator().manual_seed(training.seed))
    count = round(training.validation_fraction * len(names))
    out = {names[index] for index in order[:count].tolist()}
    held = [index for index, group in enumerate(groups) if group in out]
    kept = [index for index, group in enumerate(groups) if group not in out]
    return torch.tensor(kept, dtype=torch.int64), torch.tensor(held, dtype=torch.int64)
