"""What frozen encoders make of pairs, computed once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from mrrag_llamaindex.errors import InputError
from mrrag_llamaindex.files.digests import text_digest
from mrrag_llamaindex.learning.towers.heads.encoder import HeadFeatures
from mrrag_llamaindex.learning.towers.settings import TrainingRun
from mrrag_llamaindex.learning.towers.training_pairs import TrainingPairs
from mrrag_llamaindex.towers.backbones.feature_cache import FEATURES_FOLDER, FeatureCache
from mrrag_llamaindex.towers.backbones.protocol import ImageBackbone, TextBackbone


def features_of(
    image_backbone: ImageBackbone,
    text_backbone: TextBackbone,
    pairs: TrainingPairs,
    run: TrainingRun,
) -> HeadFeatures:
    """Return the encoders' features of all pairs, from the cache as far as they are known."""

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
