"""From pairs to a folder of towers: heads on frozen encoders, or a whole ResNet and BERT."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mrrag_llamaindex.errors import InputError
from mrrag_llamaindex.files.atomic import write_atomically
from mrrag_llamaindex.learning.towers.feature_cache import FeatureCache
from mrrag_llamaindex.learning.towers.likeness import ReportLikeness
from mrrag_llamaindex.learning.towers.loop import Progress, train
from mrrag_llamaindex.learning.towers.pair_encoders import (
    HeadsEncoder,
    PairEncoder,
    TowerEncoder,
    encode_all,
)
from mrrag_llamaindex.learning.towers.processes import Processes
from mrrag_llamaindex.learning.towers.recall import RANKS, pair_ranks, recall_table
from mrrag_llamaindex.learning.towers.settings import ContrastiveTraining
from mrrag_llamaindex.learning.towers.state import TrainingState, belongs_to
from mrrag_llamaindex.learning.towers.training_pairs import TrainingPairs
from mrrag_llamaindex.statistics.splits import split_by_patient
from mrrag_llamaindex.towers.backbones.protocol import ImageBackbone, TextBackbone
from mrrag_llamaindex.towers.frozen import FrozenTower
from mrrag_llamaindex.towers.projection_head import FittedHeads, ProjectionHead
from mrrag_llamaindex.towers.resnet_bert import ResNetBertTower

RESULTS_FILE = "results.json"


def train_heads(
    image_backbone: ImageBackbone,
    text_backbone: TextBackbone,
    pairs: TrainingPairs,
    how: ContrastiveTraining,
    place: Workplace,
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
    how : ContrastiveTraining
        See `for_heads`.
    place : Workplace
    dimension, hidden, dropout
        See `ProjectionHead`.
    copy_backbones : bool
        See `FrozenTower.save`.

    Returns
    -------
    dict
        What ``results.json`` in the folder holds.
    """
    cache = place.out / WORK_FOLDER / "features"
    features = _features(image_backbone, text_backbone, pairs, cache, place)
    reports = ReportLikeness(pairs.reports, how.same_report)

    def build(seed: int, rows: Tensor) -> HeadsEncoder:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            image, text = (
                ProjectionHead(part.shape[1], dimension, hidden, dropout) for part in features
            )
        image.standardise(features[0][rows])
        text.standardise(features[1][rows])
        return HeadsEncoder(image, text, features)

    def save(encoder: PairEncoder, record: dict[str, Any]) -> str:
        heads: Any = encoder.module
        fitted = FittedHeads(heads["image"], heads["text"], record)
        tower = FrozenTower(image_backbone, text_backbone, fitted)
        tower.save(place.out, copy_backbones=copy_backbones)
        return tower.identity

    told = {"regime": "heads", "dimension": dimension, "hidden": hidden, "dropout": dropout}
    return _repeat(build, save, pairs, reports, how, place, Processes(), told)


def train_whole(
    make: Callable[[int], ResNetBertTower],
    pairs: TrainingPairs,
    how: ContrastiveTraining,
    place: Workplace,
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
    how : ContrastiveTraining
    place : Workplace
    processes : Processes, optional

    Returns
    -------
    dict
        What ``results.json`` in the folder holds.
    """
    together = processes or Processes()
    reports = ReportLikeness(pairs.reports, how.same_report)

    def build(seed: int, _: Tensor) -> TowerEncoder:
        return TowerEncoder(make(seed), pairs, how.freeze_batch_norm)

    def save(encoder: PairEncoder, _: dict[str, Any]) -> str:
        assert isinstance(encoder, TowerEncoder)
        if together.main:
            encoder.tower.save(place.out)
        return encoder.tower.identity

    told = {"regime": "full", "processes": together.count}
    return _repeat(build, save, pairs, reports, how, place, together, told)


def _repeat(
    build: Callable[[int, Tensor], PairEncoder],
    save: Callable[[PairEncoder, dict[str, Any]], str],
    pairs: TrainingPairs,
    reports: ReportLikeness,
    how: ContrastiveTraining,
    place: Workplace,
    processes: Processes,
    told: dict[str, Any],
) -> dict[str, Any]:
    seeds, identity = [], ""
    for seed in range(how.seed, how.seed + place.repeats):
        settings = replace(how, seed=seed)
        split = split_by_patient(pairs.patients, how.validation, how.test, seed)
        if how.test and not len(split.test):
            raise InputError("there are too few patients to hold some out for a test")
        encoder = build(seed, split.train)
        owner = belongs_to(encoder, f"{pairs.digest()} {processes.count}", split, settings)
        path = place.out / WORK_FOLDER / f"seed-{seed}.pt"
        state = TrainingState(path, owner, place.checkpoint_seconds, place.on_costly)
        report = None if place.on_epoch is None else _with_seed(place.on_epoch, seed)
        record = train(
            encoder, split, reports, settings, state, processes=processes, progress=report
        )
        entry: dict[str, Any] = {"seed": seed, **record, "test": None}
        if len(split.test):
            vectors = encode_all(encoder, split.test.tolist(), how.chunk_size)
            ranks = pair_ranks(*vectors, reports, split.test)
            patients = [pairs.patients[row] for row in split.test.tolist()]
            entry["test"] = recall_table(ranks, patients, seed=seed)
        seeds.append(entry)
        if seed == how.seed:
            identity = save(encoder, record)
    results = {
        "mrrag": "train_towers",
        "version": 1,
        "towers_identity": identity,
        **told,
        "pairs": len(pairs),
        "patients": len(set(pairs.patients)),
        "different_reports": reports.different,
        "skipped": len(pairs.skipped),
        "settings": asdict(how),
        "over_seeds": _over_seeds(seeds),
        "seeds": seeds,
    }
    if processes.main:
        text = json.dumps(results, indent=2, allow_nan=False) + "\n"
        write_atomically(place.out / RESULTS_FILE, lambda path: path.write_text(text))
    return results


def _features(
    image_backbone: ImageBackbone,
    text_backbone: TextBackbone,
    pairs: TrainingPairs,
    folder: Path,
    place: Workplace,
) -> tuple[Tensor, Tensor]:
    def told(kind: str) -> Callable[[int], None] | None:
        report = place.on_features
        return None if report is None else lambda done: report(kind, done)

    images = FeatureCache(folder, "image", image_backbone.reference()).features(
        pairs.image_keys,
        lambda rows: image_backbone.features(pairs.load(rows)),
        progress=told("image"),
    )
    texts = FeatureCache(folder, "text", text_backbone.reference()).features(
        pairs.text_keys,
        lambda rows: text_backbone.features([pairs.reports[row] for row in rows]),
        progress=told("text"),
    )
    for kind, found in (("image", images), ("text", texts)):
        if not torch.isfinite(found).all():
            row = int((~torch.isfinite(found).all(dim=1)).nonzero()[0])
            raise InputError(
                f"the {kind} encoder's features of pair {pairs.pair_ids[row]!r} are not finite"
            )
    return images, texts


def _over_seeds(seeds: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Mean and standard deviation (n - 1) of test recall over the seeds."""
    if any(entry["test"] is None for entry in seeds):
        return None
    told: dict[str, Any] = {}
    for way in ("image_to_report", "report_to_image"):
        told[way] = {}
        for rank in RANKS:
            values = [entry["test"][way][f"recall@{rank}"]["value"] for entry in seeds]
            deviation = float(np.std(values, ddof=1)) if len(values) > 1 else None
            told[way][f"recall@{rank}"] = {"mean": float(np.mean(values)), "sd": deviation}
    return told


def _with_seed(report: Callable[[int, Progress], None], seed: int) -> Callable[[Progress], None]:
    return lambda progress: report(seed, progress)


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
