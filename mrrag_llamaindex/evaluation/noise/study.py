"""Does noise hurt: accuracy and attention against the share of irrelevant documents, per policy.

Strength and layers of every policy are chosen first, on questions of other patients.

Every question brings as many relevant as irrelevant documents. At noise k/K the first k of its K
places hold irrelevant ones; the places are shuffled once per question. So all policies, all scores
and all levels of noise see the same questions, and differences are paired by patient.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from mrrag_llamaindex.errors import InputError
from mrrag_llamaindex.evaluation.methods.tuning import Layers, Try, Tuned, best_place, each_part
from mrrag_llamaindex.evaluation.noise.asking import Level, cells
from mrrag_llamaindex.evaluation.noise.prefix_sweep import PrefixSweep
from mrrag_llamaindex.evaluation.noise.question import NoiseQuestion, Scores
from mrrag_llamaindex.evaluation.noise.result import Cell, Contestant, Key, NoiseResult
from mrrag_llamaindex.evaluation.noise.workers import SweepWorkers
from mrrag_llamaindex.steering.policies.registry import OFF, POLICIES


def run_noise(
    sweep: PrefixSweep | SweepWorkers,
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
    sweep : PrefixSweep or SweepWorkers
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
    levels = [(hostile, k) for hostile in adversarial for k in range(hostile, count + 1)]
    found: dict[Key, Cell] = {}
    total = len(adversarial) * (count + 1)
    advance(0, total)
    outcomes = _cells(sweep, questions, contestants, levels, layers)
    for (hostile, irrelevant), level in zip(levels, outcomes, strict=True):
        # Without an irrelevant document the two kinds of noise are the same.
        kinds = adversarial if not irrelevant else (hostile,)
        for c, cell in zip(contestants, level, strict=True):
            found |= {(c.policy, c.scores, kind, irrelevant): cell for kind in kinds}
        advance(len(found) // len(contestants), total)
    owners = tuple(question.patient_id for question in questions)
    return NoiseResult(count, tuple(contestants), owners, tuple(sorted(layers)), found, seed)


def published(
    policies: Sequence[str], scores: Sequence[Scores], critical: Sequence[int]
) -> list[Tuned[Contestant]]:
    """Return every policy as it is without tuning: its published value, in the critical layers.

    For data with too few patients to choose on; nothing is known of how well it does.
    """
    layers = tuple(sorted(critical))
    tuned = []
    for kind in scores:
        for name in policies:
            settings = _settings(name, kind, [layers])
            tuned.append(Tuned(settings[len(settings) // 2], (), 0))
    return tuned


def tune(
    sweep: PrefixSweep | SweepWorkers,
    questions: Sequence[NoiseQuestion],
    policies: Sequence[str],
    scores: Sequence[Scores],
) -> list[Tuned[Contestant]]:
    """Choose every policy's setting by accuracy at half noise, the noise being other patients.

    Every policy has three values times the same sets of layers, so the budgets are equal, and the
    same questions; what is tuned with the truth as score is not used with MCR's. Equal accuracies
    are decided by the mean probability of the truth.

    Parameters
    ----------
    sweep : PrefixSweep or SweepWorkers
    questions : sequence of NoiseQuestion
        Not those of the measurement.
    policies : sequence of str
        Names of `POLICIES`, and `OFF`.
    scores : sequence of str

    Returns
    -------
    list of Tuned
        For each kind of scores, each policy.
    """
    layer_sets = each_part(sweep.depth, sweep.engine.loaded.critical_layers)
    contestants = [
        item for kind in scores for name in policies for item in _settings(name, kind, layer_sets)
    ]
    half = len(questions[0].relevant) // 2
    critical = sweep.engine.loaded.critical_layers
    (level,) = _cells(sweep, questions, contestants, [(False, half)], critical)
    tries = [
        Try(item, float(cell.right.mean()), float(cell.confidence.mean()))
        for item, cell in zip(contestants, level, strict=True)
    ]
    tuned = []
    for kind in scores:
        for name in policies:
            own = [t for t in tries if (t.setting.scores, t.setting.policy) == (kind, name)]
            tuned.append(Tuned(own[best_place(own)].setting, tuple(own), len(questions)))
    return tuned


def _cells(
    sweep: PrefixSweep | SweepWorkers,
    questions: Sequence[NoiseQuestion],
    contestants: Sequence[Contestant],
    levels: Sequence[Level],
    layers: Sequence[int],
) -> Iterator[list[Cell]]:
    if isinstance(sweep, SweepWorkers):
        return sweep.cells(questions, contestants, levels, layers)
    return cells(sweep, questions, contestants, levels, layers)


def _settings(name: str, scores: Scores, layer_sets: Sequence[Layers]) -> list[Contestant]:
    """Return a policy's three values in each set of layers, or plain attention."""
    if name == OFF:
        return [Contestant(OFF, scores, None)]
    # What acts outside of attention is left out, because attention is what is compared.
    policy = POLICIES[name]().attention_only()
    return [
        Contestant(name, scores, policy.at(value, layers))
        for value in policy.three_values
        for layers in layer_sets
    ]
