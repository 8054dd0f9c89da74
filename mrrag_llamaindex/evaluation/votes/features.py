"""Features of a set of questions by frozen encoders, and heads that never saw what is asked about.

The image of a question may lie in the training part, with answers: heads that were fitted on them
would give these away. So the images are divided into folds, and a question's heads come from the
other folds. Images that are nearly the same count as one, and are never in two folds.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mrrag_llamaindex import defaults
from mrrag_llamaindex.evaluation.data.readers.vqa_rad import statement
from mrrag_llamaindex.images.load import load_image
from mrrag_llamaindex.learning.towers.heads.encoder import HeadFeatures
from mrrag_llamaindex.learning.towers.heads.recipe import HeadShape, fit_ensemble
from mrrag_llamaindex.learning.towers.settings import TrainingRun, for_heads
from mrrag_llamaindex.learning.towers.training_pairs import TrainingPairs
from mrrag_llamaindex.store.ingest.question_table import GoldQuestion
from mrrag_llamaindex.towers.backbones.protocol import ImageBackbone, TextBackbone
from mrrag_llamaindex.towers.projection_head import Head

Vectors = NDArray[np.float32]

NEAR_DUPLICATE = 0.95
"""Cosine of two images' features, as the encoder gives them, from which they count as one."""

FOLDS = 5

_AT_ONCE = 32


@dataclass(frozen=True, eq=False)
class Features:
    """What frozen encoders make of questions.

    Attributes
    ----------
    questions : tuple of GoldQuestion
        Training questions first.
    training : int
        How many of them are of the training part, whose statements are the pairs.
    image_of : ndarray of int, shape (q,)
        Row of each question's image.
    images : ndarray, shape (number of images, d_i)
    queries : ndarray, shape (q, d_t)
        Of the questions.
    statements : ndarray, shape (training, d_t)
        Of "question answer".
    encoders : str
        What made them, for the reader of a table.
    """

    questions: tuple[GoldQuestion, ...]
    training: int
    image_of: NDArray[np.int64]
    images: Vectors
    queries: Vectors
    statements: Vectors
    encoders: str

    @property
    def groups(self) -> NDArray[np.int64]:
        """Group of each image: those that are nearly the same are in one."""
        return near_duplicates(self.images)

    def folds(self, seed: int) -> NDArray[np.int64]:
        """Fold of each image; a group is in one fold."""
        groups = self.groups
        order = np.random.default_rng(seed).permutation(int(groups.max()) + 1)
        return np.asarray(order[groups] % FOLDS)


def encode(
    training: Sequence[GoldQuestion],
    test: Sequence[GoldQuestion],
    image_encoder: ImageBackbone,
    text_encoder: TextBackbone,
    *,
    name: str = "",
    progress: Callable[[int, int], None] | None = None,
) -> Features:
    """Compute the features of every image and text once.

    Parameters
    ----------
    training, test
        Both parts.
    image_encoder, text_encoder : backbones
    name : str
        See `Features.encoders`.
    progress : callable, optional
        Takes the number of images and texts that are done, and of all.
    """
    questions = (*training, *test)
    paths = list(dict.fromkeys(str(item.image) for item in questions))
    texts = list(
        dict.fromkeys([item.question for item in questions] + [statement(i) for i in training])
    )
    total = len(paths) + len(texts)

    def advance(done: int) -> None:
        if progress is not None:
            progress(done, total)

    image_parts, text_parts = [], []
    for start in range(0, len(paths), _AT_ONCE):
        some = [load_image(path, what="image") for path in paths[start : start + _AT_ONCE]]
        image_parts.append(image_encoder.features(some).numpy())
        advance(start + len(some))
    for start in range(0, len(texts), 8 * _AT_ONCE):
        text_parts.append(text_encoder.features(texts[start : start + 8 * _AT_ONCE]).numpy())
        advance(len(paths) + min(len(texts), start + 8 * _AT_ONCE))
    place = {path: number for number, path in enumerate(paths)}
    row = {text: number for number, text in enumerate(texts)}
    text_features = np.concatenate(text_parts)
    return Features(
        questions=questions,
        training=len(training),
        image_of=np.array([place[str(item.image)] for item in questions]),
        images=np.concatenate(image_parts).astype(np.float32),
        queries=text_features[[row[item.question] for item in questions]],
        statements=text_features[[row[statement(item)] for item in training]],
        encoders=name,
    )


def near_duplicates(images: Vectors, least: float = NEAR_DUPLICATE) -> NDArray[np.int64]:
    """Return the group of each image: chains of images whose cosine is at least ``least``.

    Examples
    --------
    >>> near_duplicates(np.array([[1, 0], [0, 1], [1, 0.1]], dtype=np.float32)).tolist()
    [0, 1, 0]
    """
    from scipy.sparse.csgraph import connected_components

    rows = unit(images)
    groups: NDArray[np.int64] = connected_components(rows @ rows.T >= least)[1].astype(np.int64)
    return groups


def unit(rows: Vectors) -> Vectors:
    """Return rows of unit length; a row of zeros stays one."""
    lengths = np.linalg.norm(rows, axis=-1, keepdims=True)
    return np.asarray(rows / np.maximum(lengths, 1e-12), dtype=np.float32)


def centred(rows: Vectors, reference: Vectors) -> Vectors:
    """Return unit rows of what differs from the mean of the reference rows."""
    return unit(rows - reference.mean(axis=0))


@dataclass(frozen=True, eq=False)
class HeadVectors:
    """Unit vectors in a common space: of images, questions and statements."""

    images: Vectors
    queries: Vectors
    statements: Vectors


def heads_of_fold(features: Features, fold: int, seed: int) -> HeadVectors:
    """Fit heads on the training pairs of all other folds, and embed everything with them.

    The recipe is that of ``mrrag train-towers`` with questions: an ensemble of linear heads,
    stopped on images held out among those that are fitted on, and fitted on all of these at last.
    """
    count = features.training
    places = np.flatnonzero(features.folds(seed)[features.image_of[:count]] != fold)
    image_of = features.image_of[places]
    asked = [features.questions[n] for n in places.tolist()]
    owners = features.groups[image_of]
    pairs = TrainingPairs(
        images=tuple(item.image for item in asked),
        reports=tuple(statement(item) for item in asked),
        patients=tuple(map(str, owners.tolist())),
        pair_ids=tuple(item.question_id for item in asked),
        image_keys=tuple(map(str, image_of.tolist())),
        text_keys=tuple(map(str, places.tolist())),
        skipped=(),
        questions=tuple(item.question for item in asked),
    )
    inputs = HeadFeatures(
        torch.from_numpy(features.images[image_of]),
        torch.from_numpy(features.statements[places]),
        torch.from_numpy(features.queries[places]),
        torch.from_numpy(owners),
    )
    settings = replace(for_heads(), validation=0.2, test=0.0, seed=seed)
    with tempfile.TemporaryDirectory() as folder:
        run = TrainingRun(Path(folder), checkpoint_seconds=math.inf, repeats=defaults.ENSEMBLE)
        shape = HeadShape(hidden=None, raw=0)  # the raw terms are computed on their own
        heads, _ = fit_ensemble(pairs, inputs, settings, run, shape)
    return HeadVectors(
        _projected(heads.image, features.images),
        _projected(heads.text, features.queries),
        _projected(heads.text, features.statements),
    )


def _projected(head: Head, features: Vectors) -> Vectors:
    with torch.inference_mode():
        projected: Tensor = head(torch.from_numpy(features))
    return unit(projected.numpy())
