"""Does noise hurt: accuracy and attention against the share of irrelevant documents, per policy.

Every question brings as many relevant as irrelevant documents. At noise k/K the first k of its K
places hold irrelevant ones; the places are shuffled once per question. So all policies, all scores
and all levels of noise see the same questions, and differences are paired by patient.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from mrrag_llamaindex.errors import InputError
from mrrag_llamaindex.evaluation.noise.prefix_sweep import PrefixSweep, Variant
from mrrag_llamaindex.evaluation.noise.question import NoiseQuestion, Scores
from mrrag_llamaindex.evaluation.noise.readings import Readings
from mrrag_llamaindex.evaluation.noise.result import OFF, Cell, Contestant, Key, NoiseResult

if TYPE_CHECKING:
    from mrrag_llamaindex.steering.policy import SteeringPolicy


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
        scores: [item.lambdas(scores, irrelevant, adversarial=adversarial) for item in questions]
        for scores in {contestant.scores for contestant in contestants}
    }
    places: dict[tuple[SteeringPolicy | None, Scores | None], int] = {}
    variants: list[Variant] = []
    keys = [
        (c.formula, c.scores if c.formula is not None and c.formula.reads_lambdas else None)
        for c in contestants
    ]
    for c, key in zip(contestants, keys, strict=True):
        if key not in places:
            places[key] = len(variants)
            variants.append(Variant(c.formula, lambdas[c.scores]))
    images: Any = [item.image for item in questions]  # what is prepared already is passed on
    found = sweep.ask(requests, images, variants)
    return [found[places[key]] for key in keys]
