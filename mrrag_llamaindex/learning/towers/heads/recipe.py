"""From pairs to a folder of towers: an ensemble of heads on frozen encoders, beside their own."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from mrrag_llamaindex import defaults
from mrrag_llamaindex.learning.towers.heads.encoder import HeadFeatures, HeadsEncoder
from mrrag_llamaindex.learning.towers.heads.features import features_of
from mrrag_llamaindex.learning.towers.heads.members import (
    Hidden,
    MemberTraining,
    choose_hidden,
    joined,
    measured,
)
from mrrag_llamaindex.learning.towers.heads.scales import term_scales
from mrrag_llamaindex.learning.towers.heads.worth import worth_of_heads
from mrrag_llamaindex.learning.towers.loop import require_reports
from mrrag_llamaindex.learning.towers.results import over_seeds, write_results
from mrrag_llamaindex.learning.towers.same_reports import SameReports
from mrrag_llamaindex.learning.towers.settings import ContrastiveTraining, TrainingRun
from mrrag_llamaindex.learning.towers.training_pairs import Split, TrainingPairs, split_pairs
from mrrag_llamaindex.towers.backbones.protocol import ImageBackbone, TextBackbone
from mrrag_llamaindex.towers.kinds.frozen import FrozenTower
from mrrag_llamaindex.towers.projection_head import FittedHeads
from mrrag_llamaindex.towers.raw_projection import RawProjection


@dataclass(frozen=True)
class HeadShape:
    """What is trained on the features.

    Parameters
    ----------
    dimension : int
        n, of the common space of one member.
    hidden : int, None or "auto"
        Width of the hidden layer of the image head, None for a linear one; "auto" tries both on
        the validation patients where there are `defaults.HIDDEN_FROM` training pairs or more. The
        text head is linear.
    dropout : float
        See `ProjectionHead`.
    raw : int or None
        Most numbers of each encoder's own features; 0 for none. None: what is left of
        `defaults.HALF_LENGTH`.
    final_fit : bool
        Train once more, on all patients, for as many epochs as the validation chose.
    """

    dimension: int = 128
    hidden: Hidden = "auto"
    dropout: float = 0.5
    raw: int | None = None
    final_fit: bool = True

    def raw_length(self, members: int) -> int:
        """Return the length of a raw block beside so many members."""
        if self.raw is not None:
            return self.raw
        return max(self.dimension, defaults.HALF_LENGTH - members * self.dimension)


def train_heads(
    image_backbone: ImageBackbone,
    text_backbone: TextBackbone,
    pairs: TrainingPairs,
    settings: ContrastiveTraining,
    run: TrainingRun,
    shape: HeadShape | None = None,
    *,
    copy_backbones: bool = False,
) -> dict[str, Any]:
    """Train heads on the cached features of frozen encoders; writes a `FrozenTower`.

    Parameters
    ----------
    image_backbone, text_backbone : backbones
        On the device that is to compute the features.
    pairs : TrainingPairs
    settings : ContrastiveTraining
        See `for_heads`.
    run : TrainingRun
        Its ``repeats`` are the members of the ensemble, of one split.
    shape : HeadShape, optional
    copy_backbones : bool
        See `FrozenTower.save`.

    Returns
    -------
    dict
        What ``results.json`` in the folder holds. All that it says of held-out patients was
        measured before the final fit, with heads that had not seen them.
    """
    shape = shape or HeadShape()
    split = split_pairs(pairs.patients, settings.validation, settings.test, settings.seed)
    require_reports(split, SameReports(pairs.reports, settings.same_report))  # before it takes long
    features = features_of(image_backbone, text_backbone, pairs, run)
    fitted, results = fit_ensemble(pairs, features, settings, run, shape)
    tower = FrozenTower(image_backbone, text_backbone, fitted)
    tower.save(run.out, copy_backbones=copy_backbones)
    results = {
        "mrrag": "train_towers",
        "version": 1,
        "towers_identity": tower.identity,
        "regime": "heads",
        **{name: value for name, value in asdict(shape).items() if name != "raw"},
        **results,
        "pairs": len(pairs),
        "patients": len(set(pairs.patients)),
        "skipped": len(pairs.skipped),
        "settings": asdict(settings),
    }
    write_results(run.out, results)
    return results


def fit_ensemble(
    pairs: TrainingPairs,
    features: HeadFeatures,
    settings: ContrastiveTraining,
    run: TrainingRun,
    shape: HeadShape,
) -> tuple[FittedHeads, dict[str, Any]]:
    """Train the members, choose by validation, measure on test patients, and fit on all."""
    reports = SameReports(pairs.reports, settings.same_report)
    split = split_pairs(pairs.patients, settings.validation, settings.test, settings.seed)
    one = MemberTraining(pairs, features, settings, run, reports, shape.dimension, shape.dropout)
    hidden, choices = choose_hidden(one, shape.hidden, split)
    seeds = range(settings.seed, settings.seed + run.repeats)
    trained = [one.trained(seed, hidden, split) for seed in seeds]
    members = [encoder for encoder, _ in trained]
    entries = [
        {"seed": seed, **record, "test": measured(encoder, features, pairs, reports, split, seed)}
        for seed, (encoder, record) in zip(seeds, trained, strict=True)
    ]
    results: dict[str, Any] = {
        "hidden": hidden,
        "choices": choices,
        "different_reports": reports.different,
        "over_seeds": over_seeds(entries),
        "seeds": entries,
        "ensemble": None,
        "worth": None,
    }
    kept = [{name: record[name] for name in record if name != "curve"} for _, record in trained]
    fitted = joined(members, {"seeds": kept})
    if len(members) > 1:
        together = HeadsEncoder(fitted.image, fitted.text, features)  # type: ignore[arg-type]
        results["ensemble"] = measured(together, features, pairs, reports, split, settings.seed)
    raw = scales = None
    length = shape.raw_length(len(members))
    untrained = (
        RawProjection.fitted(features.image[split.train], length or defaults.HALF_LENGTH),
        RawProjection.fitted(features.text[split.train], length or defaults.HALF_LENGTH),
    )
    held_out = torch.cat([split.validation, split.test])
    if length:
        raw = untrained
        scales = term_scales((fitted.image, fitted.text), raw, features, held_out)
    fitted = replace(fitted, raw=untrained, scales=scales)
    results["worth"] = worth_of_heads(fitted, features, held_out, settings.seed, raw=bool(length))
    fitted = replace(fitted, raw=raw)
    if shape.final_fit:
        everyone = Split(torch.arange(len(pairs)), split.validation, split.test)
        members = [
            one.final(seed, hidden, everyone, record["best_epoch"])
            for seed, (_, record) in zip(seeds, trained, strict=True)
        ]
        fitted = replace(joined(members, fitted.record), raw=raw, scales=scales)
    results["scales"] = None if scales is None else list(scales)
    return fitted, results
