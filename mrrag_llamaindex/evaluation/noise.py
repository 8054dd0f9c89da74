"""Does noise hurt: accuracy and attention against the share of irrelevant documents, per policy.

Every question brings as many relevant as irrelevant documents. At noise k/K the first k of its K
places hold irrelevant ones; the places are shuffled once per question. So all policies, all scores
and all levels of noise see the same questions, and differences are paired by patient.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mrrag_llamaindex.errors import InputError
from mrrag_llamaindex.evaluation.attention_share import document_shares, noise_share
from mrrag_llamaindex.evaluation.noise_question import NoiseQuestion, Scores
from mrrag_llamaindex.evaluation.prefix_sweep import PrefixSweep, Readings, Variant
from mrrag_llamaindex.evaluation.resampling import Interval, interval, resampled_sums

if TYPE_CHECKING:
    from mrrag_llamaindex.steering.policy import PromptPolicy

OFF = "off"
"""Name of plain attention: plain RAG."""


@dataclass(frozen=True)
class Contestant:
    """A policy and the scores that it reads."""

    policy: str
    scores: Scores
    formula: PromptPolicy | None


@dataclass(frozen=True, eq=False)
class Cell:
    """What one contestant did at one level of noise, question by question.

    Attributes
    ----------
    right : ndarray of float, shape (n,)
        1 where the first answer token says the truth.
    noise_attention : ndarray, shape (n,)
        Share of document attention on irrelevant ones: question rows, the watched layers. NaN where
        no document is attended to.
    everywhere : ndarray, shape (n,)
        The same over all layers.
    at_answer : ndarray, shape (n,)
        The same in the watched layers, of the row that predicts the answer.
    """

    right: NDArray[np.float64]
    noise_attention: NDArray[np.float64]
    everywhere: NDArray[np.float64]
    at_answer: NDArray[np.float64]

    @classmethod
    def of(
        cls,
        readings: Readings,
        questions: Sequence[NoiseQuestion],
        irrelevant: int,
        layers: Sequence[int],
    ) -> Cell:
        """Score one variant's readings."""
        pairs = zip(readings.verdicts, questions, strict=True)
        right = np.array([float(verdict == item.truth) for verdict, item in pairs])
        marked = np.array([item.marked(irrelevant) for item in questions])
        every = range(readings.masses.shape[2])

        def share(chosen: Sequence[int], rows: str) -> NDArray[np.float64]:
            return noise_share(document_shares(readings.masses, chosen, rows), marked)

        return cls(
            right, share(layers, "question"), share(every, "question"), share(layers, "answer")
        )


Key = tuple[str, Scores, bool, int]
"""Policy, scores, adversarial, number of irrelevant documents."""


@dataclass(frozen=True, eq=False)
class NoiseResult:
    """Every question's outcome in every cell.

    Attributes
    ----------
    documents : int
        K.
    contestants : tuple of Contestant
    owners : tuple of str
        Patient of each question.
    layers : tuple of int
        Watched layers: those in which attention is reported.
    cells : mapping of (policy, scores, adversarial, irrelevant) to Cell
    seed : int
        Of the bootstrap.
    """

    documents: int
    contestants: tuple[Contestant, ...]
    owners: tuple[str, ...]
    layers: tuple[int, ...]
    cells: Mapping[Key, Cell]
    seed: int

    @property
    def half(self) -> int:
        """Irrelevant documents at half noise."""
        return self.documents // 2

    def accuracy(self, key: Key) -> tuple[float, Interval | None]:
        """Return the accuracy of a cell and its interval."""
        right = self.cells[key].right
        sums = resampled_sums(
            np.stack([right, np.ones_like(right)], axis=1), self.owners, self.seed
        )
        return float(right.mean()), interval(sums[:, 0] / sums[:, 1], self.owners)

    def attention(self, key: Key, field: str) -> tuple[float | None, Interval | None]:
        """Return the mean of one of a cell's shares, over the questions in which it is defined."""
        values: NDArray[np.float64] = getattr(self.cells[key], field)
        there = ~np.isnan(values)
        if not there.any():
            return None, None
        owners = [owner for owner, known in zip(self.owners, there, strict=True) if known]
        known = values[there]
        sums = resampled_sums(np.stack([known, np.ones_like(known)], axis=1), owners, self.seed)
        return float(known.mean()), interval(sums[:, 0] / sums[:, 1], owners)

    def difference(self, first: Key, second: Key) -> tuple[float, Interval | None]:
        """Return accuracy of the first minus that of the second, paired by patient."""
        values = self.cells[first].right - self.cells[second].right
        sums = resampled_sums(
            np.stack([values, np.ones_like(values)], axis=1), self.owners, self.seed
        )
        return float(values.mean()), interval(sums[:, 0] / sums[:, 1], self.owners)

    def loss(self, *, adversarial: bool = False) -> tuple[float, Interval | None]:
        """Return what plain RAG loses between no noise and half noise."""
        scores = self.contestants[0].scores
        return self.difference((OFF, scores, adversarial, 0), (OFF, scores, adversarial, self.half))

    def recovered(
        self, policy: str, scores: Scores, *, adversarial: bool = False
    ) -> tuple[float | None, Interval | None]:
        """Return the share of that loss which a policy wins back at half noise.

        ``(accuracy of the policy - accuracy of off) at half noise / loss of off``. None where
        plain RAG loses nothing; no interval where it loses nothing in more than one in 40 of the
        bootstrap samples, because a ratio has none then.
        """
        clean = self.cells[OFF, scores, adversarial, 0].right
        off = self.cells[OFF, scores, adversarial, self.half].right
        own = self.cells[policy, scores, adversarial, self.half].right
        pairs = np.stack([own - off, clean - off], axis=1)
        gain, lost = pairs.sum(axis=0)
        if lost <= 0:
            return None, None
        sums = resampled_sums(pairs, self.owners, self.seed)
        if np.quantile(sums[:, 1], 0.025) <= 0:
            return float(gain / lost), None
        kept = sums[sums[:, 1] > 0]
        return float(gain / lost), interval(kept[:, 0] / kept[:, 1], self.owners)


def run_noise(
    sweep: PrefixSweep,
    questions: Sequence[NoiseQuestion],
    contestants: Sequence[Contestant],
    *,
    layers: Sequence[int],
    seed: int = 0,
    advance: Callable[[int, int], None] = lambda done, total: None,
) -> NoiseResult:
    """Ask every question at every level of noise under every contestant.

    Parameters
    ----------
    sweep : PrefixSweep
    questions : sequence of NoiseQuestion
        All with the same number K of documents, K even.
    contestants : sequence of Contestant
        Policy `OFF` with a formula of None is among them for every kind of scores.
    layers : sequence of int
        Layers in which attention is reported, the same for all contestants.
    seed : int
        Of the bootstrap.
    advance : callable
        Takes the number of levels done and their total.

    Raises
    ------
    InputError
        If there is no question, K differs or is odd, or plain attention is missing.
    """
    counts = {len(question.relevant) for question in questions}
    if len(counts) != 1 or min(counts) < 2 or min(counts) % 2:
        raise InputError(
            f"questions with {sorted(counts)} documents: all need the same even number, so that "
            "half of them can be irrelevant"
        )
    for scores in {contestant.scores for contestant in contestants}:
        if not any(c == Contestant(OFF, scores, None) for c in contestants):
            raise InputError(f"plain attention is not among the contestants with {scores} scores")
    (count,) = counts
    adversarial = (False, True) if all(q.contradicting for q in questions) else (False,)
    levels = [(hostile, k) for hostile in adversarial for k in range(count + 1)]
    cells: dict[Key, Cell] = {}
    for done, (hostile, irrelevant) in enumerate(levels):
        advance(done, len(levels))
        if hostile and not irrelevant:  # without an irrelevant document the two are the same
            for c in contestants:
                cells[c.policy, c.scores, True, 0] = cells[c.policy, c.scores, False, 0]
            continue
        asked = ask(sweep, questions, contestants, irrelevant, adversarial=hostile)
        for c, readings in zip(contestants, asked, strict=True):
            cell = Cell.of(readings, questions, irrelevant, layers)
            cells[c.policy, c.scores, hostile, irrelevant] = cell
    advance(len(levels), len(levels))
    owners = tuple(question.patient_id for question in questions)
    return NoiseResult(count, tuple(contestants), owners, tuple(sorted(layers)), cells, seed)


def ask(
    sweep: PrefixSweep,
    questions: Sequence[NoiseQuestion],
    contestants: Sequence[Contestant],
    irrelevant: int,
    *,
    adversarial: bool = False,
) -> list[Readings]:
    """Ask the questions at one level of noise; what does not differ is asked once."""
    requests = [item.request(irrelevant, adversarial=adversarial) for item in questions]
    lambdas = {
        scores: [item.relevance(scores, irrelevant, adversarial=adversarial) for item in questions]
        for scores in {contestant.scores for contestant in contestants}
    }
    places: dict[tuple[PromptPolicy | None, Scores | None], int] = {}
    variants: list[Variant] = []
    for c in contestants:
        key = (c.formula, None if c.formula is None else c.scores)
        if key not in places:
            places[key] = len(variants)
            variants.append(Variant(c.formula, lambdas[c.scores]))
    found = sweep.ask(requests, [item.image for item in questions], variants)
    return [found[places[c.formula, None if c.formula is None else c.scores]] for c in contestants]
