"""From pairs to a folder of towers: heads on frozen encoders, or a whole ResNet and BERT."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from mrrag_llamaindex.errors import InputError
from mrrag_llamaindex.files.atomic import write_atomically
from mrrag_llamaindex.learning.towers.feature_cache import FeatureCache
from mrrag_llamaindex.learning.towers.loop import train
from mrrag_llamaindex.learning.towers.pair_encoders import (
    HeadsEncoder,
    PairEncoder,
    TowerEncoder,
    encode_all,
)
from mrrag_llamaindex.learning.towers.processes import Processes
from mrrag_llamaindex.learning.towers.recall import RANKS, pair_ranks, recall_with_intervals
from mrrag_llamaindex.learning.towers.same_reports import SameReports
from mrrag_llamaindex.learning.towers.settings import ContrastiveTraining, TrainingRun
from mrrag_llamaindex.learning.towers.state import TrainingState, belongs_to
from mrrag_llamaindex.learning.towers.training_pairs import TrainingPairs, split_pairs
from mrrag_llamaindex.towers.backbones.protocol import ImageBackbone, TextBackbone
from mrrag_llamaindex.towers.kinds.frozen import FrozenTower
from mrrag_llamaindex.towers.kinds.resnet_bert import ResNetBertTower
from mrrag_llamaindex.towers.projection_head import FittedHeads, ProjectionHead

RESULTS_FILE = "results.json"


def train_heads(
    image_backbone: ImageBackbone,
    text_backbone: TextBackbone,
    pairs: TrainingPairs,
    settings: ContrastiveTraining,
    run: TrainingRun,
    *,
    dimension: int = 128,
    hidden: int | None = None,
    dropout: float = 0.5,
    copy_backbones: bool = False,
) -> dict[str, Any]:
    """Train two heads on the cached features of frozen encoders; writes a `FrozenTower`.

    Parameters
    ----------
    image_backbone, text_backbone : backbones
        On the device that is to compute the features.
    pairs : TrainingPairs
    settings : ContrastiveTraining
        See `for_heads`.
    run : TrainingRun
    dimension, hidden, dropout
        See `ProjectionHead`.
    copy_backbones : bool
        See `FrozenTower.save`.

    Returns
    -------
    dict
        What ``results.json`` in the folder holds.
    """
    features = (
        _features("image", image_backbone, pairs.load, pairs, run),
        _features("text", text_backbone, pairs.texts, pairs, run),
    )

    def build(seed: int, rows: Tensor) -> HeadsEncoder:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            image, text = (
                ProjectionHead(part.shape[1], dimension, hidden, dropout) for part in features
            )
        image.standardise(features[0][rows])
        text.standardise(features[1][rows])
        return HeadsEncoder(image, text, features)

    def save(encoder: HeadsEncoder, record: dict[str, Any]) -> str:
        tower = FrozenTower(
            image_backbone, text_backbone, FittedHeads(encoder.image, encoder.text, record)
        )
        tower.save(run.out, copy_backbones=copy_backbones)
        return tower.identity

    regime = {"regime": "heads", "dimension": dimension, "hidden": hidden, "dropout": dropout}
    return _repeat(build, save, pairs, settings, run, Processes(), regime)


def train_whole(
    make: Callable[[int], ResNetBertTower],
    pairs: TrainingPairs,
    settings: ContrastiveTraining,
    run: TrainingRun,
    *,
    processes: Processes | None = None,
) -> dict[str, Any]:
    """Train every weight of a ResNet and a BERT; writes a `ResNetBertTower`.

    Parameters
    ----------
    make : callable
        From a seed to a tower, on the device that is to train it, e.g. with
        `ResNetBertTower.from_pretrained`.
    pairs : TrainingPairs
    settings : ContrastiveTraining
    run : TrainingRun
    processes : Processes, optional

    Returns
    -------
    dict
        What ``results.json`` in the folder holds.
    """
    together = processes or Processes()

    def build(seed: int, _: Tensor) -> TowerEncoder:
        return TowerEncoder(make(seed), pairs, settings.freeze_batch_norm)

    def save(encoder: TowerEncoder, _: dict[str, Any]) -> str:
        if together.main:
            encoder.tower.save(run.out)
        return encoder.tower.identity

    regime = {"regime": "full", "processes": together.count}
    return _repeat(build, save, pairs, settings, run, together, regime)


Encoder = TypeVar("Encoder", bound=PairEncoder)


def _repeat(
    build: Callable[[int, Tensor], Encoder],
    save: Callable[[Encoder, dict[str, Any]], str],
    pairs: TrainingPairs,
    settings: ContrastiveTraining,
    run: TrainingRun,
    processes: Processes,
    regime: dict[str, Any],
) -> dict[str, Any]:
    reports = SameReports(pairs.reports, settings.same_report)
    seeds, identity = [], ""
    for seed in range(settings.seed, settings.seed + run.repeats):
        split = split_pairs(pairs.patients, settings.validation, settings.test, seed)
        encoder = build(seed, split.train)
        own = replace(settings, seed=seed)
        owner = belongs_to(encoder, f"{pairs.digest()} {processes.count}", split, own)
        path = run.work_folder / f"seed-{seed}.pt"
        state = TrainingState(path, owner, run.checkpoint_seconds, run.on_costly)
        report = run.on_epoch and partial(run.on_epoch, seed)
        record = train(encoder, split, reports, own, state, processes=processes, progress=report)
        entry: dict[str, Any] = {"seed": seed, **record, "test": None}
        if len(split.test):
            vectors = encode_all(encoder, split.test.tolist(), settings.chunk_size)
            ranks = pair_ranks(*vectors, reports, split.test)
            patients = [pairs.patients[row] for row in split.test.tolist()]
            entry["test"] = recall_with_intervals(ranks, patients, seed=seed)
        seeds.append(entry)
        if seed == settings.seed:
            identity = save(encoder, record)
    results = {
        "mrrag": "train_towers",
        "version": 1,
        "towers_identity": identity,
        **regime,
        "pairs": len(pairs),
        "patients": len(set(pairs.patients)),
        "different_reports": reports.different,
        "skipped": len(pairs.skipped),
        "settings": asdict(settings),
        "over_seeds": _over_seeds(seeds),
        "seeds": seeds,
    }
    if processes.main:
        write_atomically(
            run.out / RESULTS_FILE, json.dumps(results, indent=2, allow_nan=False) + "\n"
        )
    return results


def _features(
    kind: str,
    backbone: ImageBackbone | TextBackbone,
    inputs: Callable[[list[int]], Any],
    pairs: TrainingPairs,
    run: TrainingRun,
) -> Tensor:
    features = FeatureCache(run.work_folder / "features", kind, backbone.reference()).features(
        pairs.image_keys if kind == "image" else pairs.text_keys,
        lambda rows: backbone.features(inputs(rows)),
        progress=run.on_features and partial(run.on_features, kind),
    )
    finite = torch.isfinite(features).all(dim=1)
    if not finite.all():
        row = int((~finite).nonzero()[0])
        raise InputError(
            f"the {kind} encoder's features of pair {pairs.pair_ids[row]!r} are not finite"
        )
    return features


def _over_seeds(seeds: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Mean and standard deviation (n - 1) of test recall over the seeds."""
    if any(entry["test"] is None for entry in seeds):
        return None
    summary: dict[str, Any] = {}
    for way in ("image_to_report", "report_to_image"):
        summary[way] = {}
        for rank in RANKS:
            values = [entry["test"][way][f"recall@{rank}"]["value"] for entry in seeds]
            deviation = float(np.std(values, ddof=1)) if len(values) > 1 else None
            summary[way][f"recall@{rank}"] = {"mean": float(np.mean(values)), "sd": deviation}
    return summary
