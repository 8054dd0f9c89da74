"""Weights for each question: a small gate over the learned ones, kept where it helps.

The form is that of `QueryGatedWeights`: w = w_0 + r s tanh(W_2 tanh(W_1 x + v_1) + v_2), with x the
question's image and text features. It is trained on the smoothed accuracy of the vote.

A gate reads the image, and could learn by heart which weights answer the questions about it. So
there is one for each fold of the images, trained on the questions of the others, and a question is
asked of the gate that never saw its image. How many steps they take is chosen by what they do on
their own fold's training questions; 0, and the gate is off, where no step helps there.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mrrag_llamaindex.evaluation.votes.choice import (
    WIDTH,
    VoteSetting,
    best_pairs,
    of_gold,
    scores,
    smooth_accuracy,
)
from mrrag_llamaindex.evaluation.votes.features import FOLDS
from mrrag_llamaindex.evaluation.votes.tables import LEAST, VoteTable

STEPS = 60
REACH = 0.75
HIDDEN = 8
_POOL = 400


@dataclass(frozen=True, eq=False)
class VoteGate:
    """Gates over a setting, one for each fold.

    Attributes
    ----------
    base : VoteSetting
    steps : int
        Of training; 0: the gates are off.
    networks : dict of int to module
        By fold.
    """

    base: VoteSetting
    steps: int
    networks: dict[int, _Gate]

    def shares_of_yes(self, table: VoteTable) -> NDArray[np.float64]:
        """Return the share of yes for each question; NaN where no pair may vote."""
        pool = _Pool.of(table, self.base)
        shares = np.full(len(table.golds), np.nan)
        for fold, network in self.networks.items():
            own = np.flatnonzero(table.folds == fold)
            shares[own] = pool.rows(own).shares(network)
        return shares


class _Gate(nn.Module):
    def __init__(self, inputs: int, base: tuple[float, ...], seed: int) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.hidden, self.out = nn.Linear(inputs, HIDDEN), nn.Linear(HIDDEN, len(base))
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)
        self.register_buffer("base", torch.tensor(base))

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the weights of each question, shape (n, t)."""
        base: Tensor = self.get_buffer("base")
        moved = torch.tanh(self.out(torch.tanh(self.hidden(inputs))))
        return base + REACH * base.abs().max() * moved


@dataclass(frozen=True, eq=False)
class _Pool:
    """The candidates of each question: the best by the base weights, whom a gate ranks anew."""

    values: Tensor
    may: Tensor
    yes: Tensor
    inputs: Tensor
    setting: VoteSetting

    @classmethod
    def of(cls, table: VoteTable, setting: VoteSetting) -> _Pool:
        places, found = best_pairs(scores(table, setting.weights), _POOL)
        values = np.stack([np.take_along_axis(v, places, axis=1) for v in table.values], axis=-1)
        return cls(
            torch.from_numpy(values),
            torch.from_numpy(found > LEAST / 2),
            torch.from_numpy((table.codes[places] == 1).astype(np.float32)),
            torch.from_numpy(table.inputs),
            setting,
        )

    def rows(self, places: NDArray[np.intp]) -> _Pool:
        keep = torch.from_numpy(places)
        return _Pool(
            self.values[keep], self.may[keep], self.yes[keep], self.inputs[keep], self.setting
        )

    def yes_shares(self, network: _Gate) -> Tensor:
        score = torch.einsum("nkt,nt->nk", self.values, network(self.inputs))
        score = score.masked_fill(~self.may, -torch.inf)
        k = min(self.setting.k, score.shape[1])
        kept = score.detach().topk(k, dim=1).values[:, -1:]
        score = score.masked_fill(score.detach() < kept, -torch.inf)
        return (torch.softmax(score / self.setting.temperature, dim=1) * self.yes).sum(dim=1)

    def shares(self, network: _Gate) -> NDArray[np.float64]:
        with torch.inference_mode():
            return self.yes_shares(network).double().numpy()


def train_gate(table: VoteTable, base: VoteSetting, seed: int) -> VoteGate:
    """Train a gate for each fold of closed questions.

    Parameters
    ----------
    table : VoteTable
        Training questions.
    base : VoteSetting
        The learned weights, with their temperature and number of pairs.
    seed : int
        Of the start.
    """
    pool = _Pool.of(table, base)
    gained = np.zeros(STEPS + 1)
    curves: dict[int, list[_Gate]] = {}
    for fold in range(FOLDS):
        held, others = np.flatnonzero(table.folds == fold), np.flatnonzero(table.folds != fold)
        curves[fold] = _curve(pool.rows(others), table.subset(others), base, seed)
        part, check = pool.rows(held), table.subset(held)
        for step, network in enumerate(curves[fold]):
            gained[step] += smooth_accuracy(of_gold(check, part.shares(network))).sum()
    steps = int(np.argmax(gained))
    return VoteGate(base, steps, {fold: curve[steps] for fold, curve in curves.items()})


def _curve(pool: _Pool, table: VoteTable, base: VoteSetting, seed: int) -> list[_Gate]:
    """Return the gate after each step, the untrained one first."""
    network = _Gate(pool.inputs.shape[1], base.weights, seed)
    may = pool.may.any(dim=1)
    wanted = torch.from_numpy(table.affirmed)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2, weight_decay=0.1)
    curve = [copy.deepcopy(network)]
    for _ in range(STEPS if may.any() else 0):
        yes = pool.yes_shares(network)[may]
        share = torch.where(wanted[may], yes, 1 - yes)
        loss = -torch.sigmoid((share - 0.5) / WIDTH).mean()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        curve.append(copy.deepcopy(network))
    return curve + [curve[-1]] * (STEPS + 1 - len(curve))
