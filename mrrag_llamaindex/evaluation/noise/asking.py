"""Ask questions at one level of noise under every contestant, and score what is answered."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

from mrrag_llamaindex.evaluation.noise.prefix_sweep import PrefixSweep, Variant
from mrrag_llamaindex.evaluation.noise.question import NoiseQuestion, Scores
from mrrag_llamaindex.evaluation.noise.readings import Readings
from mrrag_llamaindex.evaluation.noise.result import Cell, Contestant
from mrrag_llamaindex.steering.policy import SteeringPolicy

Level: TypeAlias = tuple[bool, int]
"""Whether the noise is adversarial, and how many documents are noise."""


def cells(
    sweep: PrefixSweep,
    questions: Sequence[NoiseQuestion],
    contestants: Sequence[Contestant],
    levels: Sequence[Level],
    layers: Sequence[int],
) -> Iterator[list[Cell]]:
    """Yield for each level what each contestant did at it; attention is watched in ``layers``."""
    for hostile, count in levels:
        answers = ask(sweep, questions, contestants, count, adversarial=hostile)
        yield [Cell.of(readings, questions, count, layers) for readings in answers]


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
    readings = sweep.ask(requests, images, variants)
    return [readings[places[key]] for key in keys]
