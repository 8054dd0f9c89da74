"""From pairs to a folder of towers: every weight of a ResNet and a BERT."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from typing import Any

from mrrag_llamaindex.learning.towers.loop import train
from mrrag_llamaindex.learning.towers.pair_encoders import TowerEncoder, encode_all
from mrrag_llamaindex.learning.towers.processes import Processes
from mrrag_llamaindex.learning.towers.recall import pair_ranks, recall_with_intervals
from mrrag_llamaindex.learning.towers.results import over_seeds, write_results
from mrrag_llamaindex.learning.towers.same_reports import SameReports
from mrrag_llamaindex.learning.towers.settings import ContrastiveTraining, TrainingRun
from mrrag_llamaindex.learning.towers.state import TrainingState, belongs_to
from mrrag_llamaindex.learning.towers.training_pairs import TrainingPairs, split_pairs
from mrrag_llamaindex.towers.kinds.resnet_bert import ResNetBertTower


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
        Of its repeats, each with its own split, the one of best validation recall is kept.
    processes : Processes, optional

    Returns
    -------
    dict
        What ``results.json`` in the folder holds.
    """
    together = processes or Processes()
    reports = SameReports(pairs.reports, settings.same_report)
    entries: list[dict[str, Any]] = []
    identity, kept = "", -1.0
    for seed in range(settings.seed, settings.seed + run.repeats):
        split = split_pairs(pairs.patients, settings.validation, settings.test, seed)
        encoder = TowerEncoder(make(seed), pairs, settings.freeze_batch_norm)
        own = replace(settings, seed=seed)
        owner = belongs_to(encoder, f"{pairs.digest()} {together.count}", split, own)
        path = run.work_folder / f"seed-{seed}.pt"
        state = TrainingState(path, owner, run.checkpoint_seconds, run.on_costly)
        report = run.on_epoch and partial(run.on_epoch, seed)
        record = train(encoder, split, reports, own, state, processes=together, progress=report)
        entry: dict[str, Any] = {"seed": seed, **record, "test": None}
        if len(split.test):
            vectors = encode_all(encoder, split.test.tolist(), settings.chunk_size)
            ranks = pair_ranks(*vectors, reports, split.test)
            patients = [pairs.patients[row] for row in split.test.tolist()]
            entry["test"] = recall_with_intervals(ranks, patients, seed=seed)
        entries.append(entry)
        if record["validation_recall"] > kept:
            kept = record["validation_recall"]
            if together.main:
                encoder.tower.save(run.out)
            identity = encoder.tower.identity
    results = {
        "mrrag": "train_towers",
        "version": 1,
        "towers_identity": identity,
        "regime": "full",
        "processes": together.count,
        "pairs": len(pairs),
        "patients": len(set(pairs.patients)),
        "different_reports": reports.different,
        "skipped": len(pairs.skipped),
        "settings": asdict(settings),
        "over_seeds": over_seeds(entries),
        "seeds": entries,
    }
    if together.main:
        write_results(run.out, results)
    return results
