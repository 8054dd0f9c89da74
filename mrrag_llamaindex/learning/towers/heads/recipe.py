"""From pairs to a folder of towers: an ensemble of heads on frozen encoders, beside their own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

from mrrag_llamaindex import defaults
from mrrag_llamaindex.errors import InputError
from mrrag_llamaindex.learning.towers.heads.encoder import HeadFeatures, HeadsEncoder
from mrrag_llamaindex.learning.towers.heads.scales import term_scales
from mrrag_llamaindex.learning.towers.heads.worth import worth_of_heads
from mrrag_llamaindex.learning.towers.loop import train
from mrrag_llamaindex.learning.towers.recall import pair_ranks, recall_with_intervals
from mrrag_llamaindex.learning.towers.results import over_seeds, write_results
from mrrag_llamaindex.learning.towers.same_reports import SameReports
from mrrag_llamaindex.learning.towers.settings import ContrastiveTraining, TrainingRun
from mrrag_llamaindex.learning.towers.state import TrainingState, belongs_to
from mrrag_llamaindex.learning.towers.training_pairs import Split, TrainingPairs, split_pairs
from mrrag_llamaindex.towers.backbones.feature_cache import FEATURES_FOLDER, FeatureCache
from mrrag_llamaindex.towers.backbones.protocol import ImageBackbone, TextBackbone
from mrrag_llamaindex.towers.kinds.frozen import FrozenTower
from mrrag_llamaindex.towers.projection_head import FittedHeads, HeadEnsemble, ProjectionHead
from mrrag_llamaindex.towers.raw_projection import RawProjection

Hidden: TypeAlias = int | Literal["auto"] | None


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
    one = _Member(pairs, features, settings, run, reports, shape.dimension, shape.dropout)
    hidden, choices = _hidden(one, shape.hidden, split)
    seeds = range(settings.seed, settings.seed + run.repeats)
    trained = [one.trained(seed, hidden, split) for seed in seeds]
    members = [encoder for encoder, _ in trained]
    entries = [
        {"seed": seed, **record, "test": _test(encoder, features, pairs, reports, split, seed)}
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
    fitted = _joined(members, {"seeds": [record for _, record in trained]})
    if len(members) > 1:
        joined = HeadsEncoder(fitted.image, fitted.text, features)  # type: ignore[arg-type]
        results["ensemble"] = _test(joined, features, pairs, reports, split, settings.seed)
    raw = scales = None
    if length := shape.raw_length(len(members)):
        raw = (
            RawProjection.fitted(features.image[split.train], length),
            RawProjection.fitted(features.text[split.train], length),
        )
        held_out = torch.cat([split.validation, split.test])
        scales = term_scales((fitted.image, fitted.text), raw, features, held_out)
        fitted = replace(fitted, raw=raw, scales=scales)
        results["worth"] = worth_of_heads(fitted, features, held_out, settings.seed)
    if shape.final_fit:
        everyone = Split(torch.arange(len(pairs)), split.validation, split.test)
        members = [
            one.final(seed, hidden, everyone, record["best_epoch"])
            for seed, (_, record) in zip(seeds, trained, strict=True)
        ]
        fitted = replace(_joined(members, fitted.record), raw=raw, scales=scales)
    results["scales"] = None if scales is None else list(scales)
    return fitted, results


@dataclass(frozen=True)
class _Member:
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
        name = f"seed-{seed}" if hidden is None else f"seed-{seed}-hidden-{hidden}"
        settings = replace(self.settings, seed=seed)
        return encoder, self._run(encoder, settings, split, name)

    def final(self, seed: int, hidden: int | None, everyone: Split, epochs: int) -> HeadsEncoder:
        """Return a member trained on all pairs for a number of epochs."""
        encoder = self._empty(seed, hidden, everyone.train)
        settings = replace(self.settings, seed=seed, max_epochs=epochs)
        self._run(encoder, settings, everyone, f"seed-{seed}-final", keep_last=True)
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
        owner = belongs_to(encoder, f"{self.pairs.digest()} {keep_last}", split, settings)
        path = self.run.work_folder / f"{name}.pt"
        state = TrainingState(path, owner, self.run.checkpoint_seconds, self.run.on_costly)
        report = self.run.on_epoch and partial(self.run.on_epoch, settings.seed)
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


def _hidden(one: _Member, wanted: Hidden, split: Split) -> tuple[int | None, list[dict[str, Any]]]:
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


def _joined(members: Sequence[HeadsEncoder], record: dict[str, Any]) -> FittedHeads:
    if len(members) == 1:
        return FittedHeads(members[0].image, members[0].text, record)
    image = HeadEnsemble([member.image for member in members])
    text = HeadEnsemble([member.text for member in members])
    return FittedHeads(image.eval(), text.eval(), record)


def _test(
    encoder: HeadsEncoder,
    features: HeadFeatures,
    pairs: TrainingPairs,
    reports: SameReports,
    split: Split,
    seed: int,
) -> dict[str, Any] | None:
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


def features_of(
    image_backbone: ImageBackbone,
    text_backbone: TextBackbone,
    pairs: TrainingPairs,
    run: TrainingRun,
) -> HeadFeatures:
    """Return the encoders' features of all pairs, from the cache as far as they are known."""
    from mrrag_llamaindex.files.digests import text_digest

    def cached(
        kind: str,
        backbone: ImageBackbone | TextBackbone,
        keys: Sequence[str],
        compute: Callable[[list[int]], Tensor],
    ) -> Tensor:
        progress = run.on_features and partial(run.on_features, kind)
        found = FeatureCache(run.out / FEATURES_FOLDER, kind, backbone.reference()).features(
            keys, compute, progress=progress
        )
        finite = torch.isfinite(found).all(dim=1)
        if not finite.all():
            row = int((~finite).nonzero()[0])
            raise InputError(
                f"the {kind} encoder's features of pair {pairs.pair_ids[row]!r} are not finite"
            )
        return found

    numbers = {name: number for number, name in enumerate(dict.fromkeys(pairs.patients))}
    image = cached(
        "image",
        image_backbone,
        pairs.image_keys,
        lambda rows: image_backbone.features(pairs.load(rows)),
    )
    text = cached(
        "text",
        text_backbone,
        pairs.text_keys,
        lambda rows: text_backbone.features(pairs.texts(rows)),
    )
    question = None
    asked = [row for row, text in enumerate(pairs.questions) if text]
    if asked:
        question = torch.zeros_like(text)
        question[asked] = cached(
            "text",
            text_backbone,
            [text_digest(pairs.questions[row]) for row in asked],
            lambda rows: text_backbone.features([pairs.questions[asked[row]] for row in rows]),
        )
    owner = torch.tensor([numbers[name] for name in pairs.patients])
    return HeadFeatures(image, text, question, owner)
