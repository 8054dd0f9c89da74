"""Training the gate of `QueryGatedWeights`: the same InfoNCE, over a correction of global weights.

Full batches, AdamW (its weight decay pulls the correction back to zero), the start drawn from a
seed, and the step of least validation loss is kept. The first of these is the untrained gate, so a
gate that does not help other patients is left as the global weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mrrag_llamaindex.errors import InputError
from mrrag_llamaindex.learning.fusion.examples import FusionExample, PaddedExamples
from mrrag_llamaindex.learning.fusion.training import LearnedFusion, Losses
from mrrag_llamaindex.mcr.gated_weights import QueryGatedWeights
from mrrag_llamaindex.mcr.weights import ALL_TERMS, TERMS

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class GateSettings:
    """How a gate is trained.

    Parameters
    ----------
    hidden : int
        Width of its hidden layer.
    reach : float
        How far a weight may move, as a share of the largest global one; above 0 and below 1.
    learning_rate, weight_decay : float
        Of AdamW.
    epochs : int
        Most passes; each is one step on all examples.
    patience : int
        Passes without a lower validation loss before training stops.
    seed : int
        Of the hidden layer's start.

    Raises
    ------
    ValueError
        If a number is out of range.
    """

    hidden: int = 8
    reach: float = 0.75
    learning_rate: float = 1e-2
    weight_decay: float = 0.1
    epochs: int = 500
    patience: int = 50
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.hidden, self.epochs, self.patience) < 1 or self.learning_rate <= 0:
            raise ValueError("hidden, epochs, patience and learning rate must be positive")
        if self.weight_decay < 0 or self.seed < 0 or not 0 < self.reach < 1:
            raise ValueError(
                "weight decay and seed must not be negative, and reach must be above 0, below 1"
            )


@dataclass(frozen=True)
class LearnedGate:
    """A gate, and how it was reached.

    Attributes
    ----------
    weights : QueryGatedWeights
    epoch : int
        Steps to it; 0 if no step was better than the global weights.
    loss, base_loss : float
        On the validation examples: with the gate, and with the global weights.
    losses : tuple of (float, float)
        See `LearnedFusion`.
    """

    weights: QueryGatedWeights
    epoch: int
    loss: float
    base_loss: float
    losses: Losses = ()


def train_gate(
    training: Sequence[FusionExample],
    validation: Sequence[FusionExample],
    base: LearnedFusion,
    settings: GateSettings | None = None,
    *,
    terms: tuple[str, ...] = TERMS,
) -> LearnedGate:
    """Learn how each question moves the global weights.

    Parameters
    ----------
    training, validation
        Examples of different patients, with the vectors of their questions.
    base
        The global weights, learned on the same examples, and their temperature.
    settings
        Default: `GateSettings()`.
    terms
        The weights that are moved: `TERMS`, `HEAD_TERMS` or `ALL_TERMS`.

    Raises
    ------
    InputError
        If either part is empty, or the vectors of a question are missing.
    """
    import torch

    settings = settings or GateSettings()
    if not training or not validation:
        raise InputError("the gate needs examples to learn from and examples to validate on")
    fit, check = (_tensors(part, terms) for part in (training, validation))
    start = torch.from_numpy(base.weights.as_array(terms))
    size = settings.reach * float(np.abs(base.weights.as_array(ALL_TERMS)).max())
    drawn = torch.Generator().manual_seed(settings.seed)
    shape = (settings.hidden, fit[-1].shape[1])
    options: dict[str, Any] = {"dtype": torch.float64}
    parameters = [
        torch.randn(shape, generator=drawn, **options),
        torch.zeros(settings.hidden, **options),
        torch.zeros((len(terms), settings.hidden), **options),
        torch.zeros(len(terms), **options),
    ]
    for parameter in parameters:
        parameter.requires_grad_()
    optimiser = torch.optim.AdamW(
        parameters, lr=settings.learning_rate, weight_decay=settings.weight_decay
    )
    losses: list[tuple[float, float]] = []
    best = 0
    for epoch in range(settings.epochs + 1):
        with torch.no_grad():
            loss = float(_loss(parameters, start, size, check, base.temperature))
        optimiser.zero_grad()
        fitted = _loss(parameters, start, size, fit, base.temperature)
        losses.append((fitted.item(), loss))
        if epoch == 0 or loss < losses[best][1]:
            best, kept = epoch, [parameter.detach().clone() for parameter in parameters]
        elif epoch - best >= settings.patience:
            break
        torch.autograd.backward(fitted)
        optimiser.step()
    first, first_bias, last, last_bias = (tensor.numpy() for tensor in kept)
    gate = QueryGatedWeights(base.weights, first, first_bias, last, last_bias, settings.reach)
    return LearnedGate(gate, best, losses[best][1], losses[0][1], tuple(losses))


def _tensors(examples: Sequence[FusionExample], terms: tuple[str, ...]) -> tuple[Tensor, ...]:
    """Return terms (n, c, t), which are right and which are real (n, c), and questions (n, l)."""
    import torch

    queries = [np.concatenate(item.query) for item in examples if item.query is not None]
    if len(queries) < len(examples) or len({query.shape for query in queries}) > 1:
        raise InputError(
            "weights for each question are learned from the questions' vectors, and these "
            "examples lack some: mine the records again"
        )
    batch = PaddedExamples.of(examples, terms)
    stacked = np.stack(queries).astype(np.float64)
    return tuple(map(torch.from_numpy, (batch.terms, batch.right, batch.real, stacked)))


def _loss(
    parameters: list[Tensor],
    start: Tensor,
    size: float,
    examples: tuple[Tensor, ...],
    temperature: float,
) -> Tensor:
    """Return the mean of `training.infonce`, with the weights of each question."""
    import torch

    terms, right, real, queries = examples
    hidden_weight, hidden_bias, out_weight, out_bias = parameters
    hidden = torch.tanh(queries @ hidden_weight.T + hidden_bias)
    weights = start + size * torch.tanh(hidden @ out_weight.T + out_bias)
    scores = (terms * weights[:, None]).sum(-1) / temperature
    nothing = torch.tensor(-torch.inf, dtype=scores.dtype)
    of_all = torch.where(real, scores, nothing).logsumexp(-1)
    return (of_all - torch.where(right, scores, nothing).logsumexp(-1)).mean()
