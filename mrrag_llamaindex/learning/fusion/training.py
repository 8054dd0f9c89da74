"""Learning the fusion weights from cached similarities: InfoNCE over three numbers, or four.

The towers are frozen, so a question's candidates are three similarities each (four with the one
that the paper does not have), and Eq. 2 of the paper is a multinomial logistic regression: with
s = a t_1 + b t_2 + c t_3,

    L = -log( exp(s_+ / tau) / (exp(s_+ / tau) + sum over the m negatives of exp(s_- / tau)) ).

It is convex in (a, b, c); its gradient is (E_p[t] - t_+) / tau, with p the softmax over the
positive and its negatives. A mined question has one positive, the candidate of highest confidence.
Where the truth is known and several candidates are right, exp(s_+ / tau) is the sum over all of
them (MIL-NCE, Miech et al., CVPR 2020), so that any of them may come first and none has to be
chosen; t_+ in the gradient is then their mean under the softmax over the positives alone.

Training starts at equal weights, draws nothing and takes seconds: a killed run is started again and
gives the same numbers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mrrag_llamaindex import defaults
from mrrag_llamaindex.errors import InputError
from mrrag_llamaindex.learning.fusion.examples import FusionExample, PaddedExamples
from mrrag_llamaindex.mcr.weights import ALL_TERMS, TERMS, FusionWeights

Array = NDArray[np.float64]
Losses = tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class FusionSettings:
    """How the weights are learned.

    Parameters
    ----------
    temperature : float
        tau. The loss depends on weights / tau alone, so learning tau as well would add nothing
        but a free scale; with `learn_temperature` that scale is fixed by giving the weights the
        length of the equal ones, and tau is what the data leave for it.
    learn_temperature : bool
    learning_rate : float
        Of Adam (the paper's 1e-2).
    epochs : int
        Most passes; each is one step on all examples.
    patience : int
        Passes without a lower validation loss before training stops. The loss, because recall on
        a few dozen questions moves in steps of a question and is at its best by luck.
    prior : float or None
        Standard deviation of a normal prior of each weight around its start, the equal weights:
        ``|w - w_0|^2 / (2 prior^2 n)`` is added to the mean loss of n examples. A few dozen
        examples leave the weights near equal; hundreds outweigh it. ``inf`` for none. By default
        the one of `defaults.PRIORS` whose weights have the least validation loss.
    """

    temperature: float = 0.07
    learn_temperature: bool = False
    learning_rate: float = 1e-2
    epochs: int = 1000
    patience: int = 200
    prior: float | None = None

    def __post_init__(self) -> None:
        prior = 1.0 if self.prior is None else self.prior
        positive = all(one > 0 for one in (self.temperature, self.learning_rate, prior))
        if not positive or min(self.epochs, self.patience) < 1:
            raise ValueError(
                "temperature, learning rate, epochs, patience and prior must be positive"
            )


@dataclass(frozen=True)
class LearnedFusion:
    """The weights, the temperature that belongs to them, and how they were reached.

    Attributes
    ----------
    weights : FusionWeights
    temperature : float
    epoch : int
        Steps to them.
    loss : float
        On the validation examples; nothing had a lower one.
    validation_recall : float
        How often a positive was strictly first of a validation example.
    prior : float
        See `FusionSettings`.
    losses : tuple of (float, float)
        On the training and on the validation examples, before the first step and after each.
    """

    weights: FusionWeights
    temperature: float
    epoch: int
    loss: float
    validation_recall: float
    prior: float = math.inf
    losses: Losses = ()


def infonce(
    weights: Array, examples: Sequence[FusionExample], temperature: float
) -> tuple[float, Array]:
    """Return the mean loss of Eq. 2 and its gradient in the weights, shape (t,) like them."""
    return _infonce(weights, PaddedExamples.of(examples, ALL_TERMS[: len(weights)]), temperature)


def train_fusion(
    training: Sequence[FusionExample],
    validation: Sequence[FusionExample],
    settings: FusionSettings | None = None,
    *,
    terms: tuple[str, ...] = TERMS,
) -> LearnedFusion:
    """Learn the weights with Adam from equal weights; keep those of least loss on `validation`.

    Parameters
    ----------
    training, validation
        Examples of different patients.
    settings
        Default: `FusionSettings()`.
    terms
        `TERMS`, `HEAD_TERMS` to learn the fourth weight, too (it starts at 0), or `ALL_TERMS`
        (which all start at 1).

    Raises
    ------
    InputError
        If either part is empty, or lacks a similarity.
    """
    settings = settings or FusionSettings()
    if not training or not validation:
        raise InputError("the fusion needs examples to learn from and examples to validate on")
    batch, check = PaddedExamples.of(training, terms), PaddedExamples.of(validation, terms)
    priors = defaults.PRIORS if settings.prior is None else (settings.prior,)
    learned = [_trained(batch, check, settings, terms, prior) for prior in priors]
    return min(learned, key=lambda one: one.loss)  # of equal ones the narrowest


def _trained(
    batch: PaddedExamples,
    check: PaddedExamples,
    settings: FusionSettings,
    terms: tuple[str, ...],
    prior: float,
) -> LearnedFusion:
    weights, tau = FusionWeights.equal(terms).as_array(terms), settings.temperature
    start, pull = weights.copy(), 1 / (prior**2 * len(batch.terms))
    mean, square = np.zeros_like(weights), np.zeros_like(weights)
    best: tuple[float, Array, int] | None = None
    losses: list[tuple[float, float]] = []
    for epoch in range(settings.epochs + 1):
        loss = _infonce(weights, check, tau)[0]
        fitted, gradient = _infonce(weights, batch, tau)
        losses.append((fitted, loss))
        if best is None or loss < best[0]:
            best = (loss, weights.copy(), epoch)
        elif epoch - best[2] >= settings.patience:
            break
        gradient = gradient + pull * (weights - start)
        mean = 0.9 * mean + 0.1 * gradient
        square = 0.999 * square + 0.001 * gradient**2
        step = mean / (1 - 0.9 ** (epoch + 1))
        weights -= (
            settings.learning_rate * step / (np.sqrt(square / (1 - 0.999 ** (epoch + 1))) + 1e-8)
        )
    assert best is not None
    loss, weights, epoch = best
    recall = check.recall(weights)
    if settings.learn_temperature:
        scale = float(np.sqrt(start @ start) / np.linalg.norm(weights))
        weights, tau = weights * scale, tau * scale
    named = dict(zip(terms, weights.tolist(), strict=True))
    chosen = FusionWeights(**named)
    return LearnedFusion(chosen, tau, epoch, loss, recall, prior, tuple(losses))


def _infonce(weights: Array, batch: PaddedExamples, temperature: float) -> tuple[float, Array]:
    scores = np.where(batch.real, batch.terms @ weights / temperature, -np.inf)
    every, of_all = _softmax(scores)
    right, of_right = _softmax(np.where(batch.right, scores, -np.inf))
    gradient = ((every - right)[..., None] * batch.terms).sum(axis=1).mean(axis=0) / temperature
    return float((of_all - of_right).mean()), gradient


def _softmax(scores: Array) -> tuple[Array, Array]:
    """Return softmax and log-sum-exp over the last axis."""
    top = scores.max(axis=-1, keepdims=True)
    powers = np.exp(scores - top)
    total = powers.sum(axis=-1, keepdims=True)
    return powers / total, (np.log(total) + top)[..., 0]
