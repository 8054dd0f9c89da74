"""Learning the fusion weights from cached similarities: InfoNCE over three numbers.

The towers are frozen, so a question's candidates are three similarities each, and Eq. 2 of the
paper is a multinomial logistic regression: with s = a t_1 + b t_2 + c t_3,

    L = -log( exp(s_+ / tau) / (exp(s_+ / tau) + sum over the m negatives of exp(s_- / tau)) ).

It is convex in (a, b, c); its gradient is (E_p[t] - t_+) / tau, with p the softmax over the
positive and its negatives. Training starts at equal weights, draws nothing and takes seconds: a
killed run is started again and gives the same numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mrrag_llamaindex.errors import InputError
from mrrag_llamaindex.retrieval.weights import TERMS, FusionWeights

Array = NDArray[np.float64]


@dataclass(frozen=True)
class FusionExample:
    """One question's cached similarities: a positive, and negatives below it.

    Parameters
    ----------
    patient_id : str
    positive : ndarray
        Shape (3,), in the order of `TERMS`.
    negatives : ndarray
        Shape (m, 3), m at least 1.
    """

    patient_id: str
    positive: Array
    negatives: Array

    def __post_init__(self) -> None:
        shapes = self.positive.shape, self.negatives.shape
        width = len(TERMS)
        if shapes != ((width,), (len(self.negatives), width)) or not len(self.negatives):
            raise InputError(f"a training example has shapes {shapes}; expected (3,) and (m, 3)")


@dataclass(frozen=True)
class FusionSettings:
    """How the weights are learned.

    Parameters
    ----------
    temperature : float
        tau. The loss depends on weights / tau alone, so learning tau as well would add nothing
        but a free scale; with `learn_temperature` that scale is fixed by giving the weights the
        length of (1, 1, 1), and tau is what the data leave for it.
    learn_temperature : bool
    learning_rate : float
        Of Adam (the paper's 1e-2).
    epochs : int
        Most passes; each is one step on all examples.
    patience : int
        Passes without a better validation recall, loss deciding ties, before training stops.
    """

    temperature: float = 0.07
    learn_temperature: bool = False
    learning_rate: float = 1e-2
    epochs: int = 1000
    patience: int = 200

    def __post_init__(self) -> None:
        if min(self.temperature, self.learning_rate) <= 0 or min(self.epochs, self.patience) < 1:
            raise ValueError("temperature, learning rate, epochs and patience must be positive")


@dataclass(frozen=True)
class LearnedFusion:
    """The weights, the temperature that belongs to them, and how they were reached."""

    weights: FusionWeights
    temperature: float
    epoch: int
    loss: float
    validation_recall: float


def infonce(
    weights: Array, examples: Sequence[FusionExample], temperature: float
) -> tuple[float, Array]:
    """Return the mean loss of Eq. 2 and its gradient in the weights, shape (3,)."""
    return _infonce(weights, *_padded(examples), temperature)


def split_by_patient(
    patients: Sequence[str], fraction: float, seed: int
) -> tuple[list[int], list[int]]:
    """Return the places of the training and the held-out rows; no patient is in both.

    Raises
    ------
    InputError
        If there are fewer than two patients.
    """
    names = sorted(set(patients))
    if len(names) < 2:
        raise InputError("the fusion needs at least two patients: one part is held out")
    count = min(max(1, round(fraction * len(names))), len(names) - 1)
    drawn = np.random.default_rng(seed).permutation(len(names))[:count]
    out = {names[place] for place in drawn}
    kept = [place for place, name in enumerate(patients) if name not in out]
    return kept, [place for place, name in enumerate(patients) if name in out]


def train_fusion(
    training: Sequence[FusionExample],
    validation: Sequence[FusionExample],
    settings: FusionSettings | None = None,
) -> LearnedFusion:
    """Learn the weights with Adam from equal weights; keep those best on `validation`.

    Raises
    ------
    InputError
        If either part is empty.
    """
    settings = settings or FusionSettings()
    if not training or not validation:
        raise InputError("the fusion needs examples to learn from and examples to validate on")
    padded, held = _padded(training), _padded(validation)
    weights, tau = np.ones(len(TERMS)), settings.temperature
    mean, square = np.zeros_like(weights), np.zeros_like(weights)
    best: tuple[tuple[float, float], Array, int] | None = None
    for epoch in range(settings.epochs + 1):
        standing = (_recall(weights, *held), -_infonce(weights, *held, tau)[0])
        if best is None or standing > best[0]:
            best = (standing, weights.copy(), epoch)
        elif epoch - best[2] >= settings.patience:
            break
        gradient = _infonce(weights, *padded, tau)[1]
        mean = 0.9 * mean + 0.1 * gradient
        square = 0.999 * square + 0.001 * gradient**2
        step = mean / (1 - 0.9 ** (epoch + 1))
        weights -= (
            settings.learning_rate * step / (np.sqrt(square / (1 - 0.999 ** (epoch + 1))) + 1e-8)
        )
    assert best is not None
    (recall, loss), weights, epoch = best
    if settings.learn_temperature:
        scale = np.sqrt(len(TERMS)) / np.linalg.norm(weights)
        weights, tau = weights * scale, tau * float(scale)
    return LearnedFusion(FusionWeights(*weights.tolist()), tau, epoch, -loss, recall)


def _padded(examples: Sequence[FusionExample]) -> tuple[Array, NDArray[np.bool_]]:
    """Return terms (n, 1 + most negatives, 3), the positive first, and which are real."""
    most = 1 + max(len(example.negatives) for example in examples)
    terms = np.zeros((len(examples), most, len(TERMS)))
    real = np.zeros((len(examples), most), dtype=bool)
    for row, example in enumerate(examples):
        count = 1 + len(example.negatives)
        terms[row, :count] = np.concatenate([example.positive[None], example.negatives])
        real[row, :count] = True
    return terms, real


def _infonce(
    weights: Array, terms: Array, real: NDArray[np.bool_], temperature: float
) -> tuple[float, Array]:
    scores = np.where(real, terms @ weights / temperature, -np.inf)
    top = scores.max(axis=1, keepdims=True)
    total = top + np.log(np.exp(scores - top).sum(axis=1, keepdims=True))
    chance = np.exp(scores - total)
    expected = (chance[..., None] * terms).sum(axis=1)
    gradient = (expected - terms[:, 0]).mean(axis=0) / temperature
    return float((total[:, 0] - scores[:, 0]).mean()), gradient


def _recall(weights: Array, terms: Array, real: NDArray[np.bool_]) -> float:
    """Return how often the positive is strictly first: a tie with a negative is no success."""
    scores = np.where(real, terms @ weights, -np.inf)
    return float((scores[:, 0] > scores[:, 1:].max(axis=1)).mean())
