"""Which questions are learned from, which are tuned on, and which are scored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from mrrag_llamaindex.evaluation.data.data_set import EvaluationSet
from mrrag_llamaindex.evaluation.data.embedded_set import EmbeddedSet
from mrrag_llamaindex.evaluation.data.prediction import of_seed
from mrrag_llamaindex.statistics.patients import split_by_patient

MOST_TUNED = 200
"""Questions to tune on, at most: a method is run over them up to 12 times."""


@dataclass(frozen=True)
class Parts:
    """Sets that share no patient's question.

    Attributes
    ----------
    tests : tuple of EmbeddedSet
        Scored; one for each seed of the data.
    fit, tune : EmbeddedSet or None
        For what is learned, and for what is chosen.
    """

    tests: tuple[EmbeddedSet, ...]
    fit: EmbeddedSet | None = None
    tune: EmbeddedSet | None = None


def split_parts(data: EmbeddedSet, share: float, seed: int, *, learns: bool = True) -> Parts:
    """Take a share of the patients out of a set: half of them to learn on, half to tune on.

    Parameters
    ----------
    data : EmbeddedSet
    share : float
        Of the patients; at 0, or with fewer than three, every question is scored.
    seed : int
    learns : bool
        False: nothing is to be learned, so all of the share is for tuning.
    """
    patients = [data.patient(row) for row in range(len(data))]
    if share <= 0 or len(set(patients)) < 3:
        return Parts((data,))
    scored, held_out = split_by_patient(patients, share, seed)
    test, tune = data.subset(scored), data.subset(held_out, f"{data.name} validation")
    fit = None
    owners = [tune.patient(row) for row in range(len(tune))]
    if learns and len(set(owners)) > 1:
        tuning, learning = split_by_patient(owners, 0.5, seed)
        fit, tune = tune.subset(learning), tune.subset(tuning)
    if len(tune) > MOST_TUNED:
        places = np.random.default_rng(seed).permutation(len(tune))[:MOST_TUNED]
        tune = tune.subset(sorted(places.tolist()))
    return Parts((test,), fit, tune)


def with_questions(data: EvaluationSet, names: Sequence[str]) -> EvaluationSet:
    """Return a set with some of its questions, in its own order."""
    name_set = set(names)
    return replace(
        data,
        questions=tuple(item for item in data.questions if item.question_id in name_set),
        labels={name: label for name, label in data.labels.items() if name in name_set},
        options={name: texts for name, texts in data.options.items() if name in name_set},
    )


def drawn_questions(data: EvaluationSet, count: int | None, seed: int) -> EvaluationSet:
    """Return a set with so many of its questions, drawn by the seed; None: all."""
    if count is None or count >= len(data.questions):
        return data
    places = np.random.default_rng(seed).permutation(len(data.questions))[:count]
    return with_questions(data, [data.questions[n].question_id for n in places.tolist()])


def pooled_questions(data: EvaluationSet, tests: Sequence[EmbeddedSet]) -> EvaluationSet:
    """Return the questions that are scored, named as `prediction.pool` names them."""
    if len(tests) == 1:
        return with_questions(data, [item.question_id for item in tests[0].questions])
    golds = [gold for part in tests for gold in part.golds]
    questions = [of_seed(item, n) for n, part in enumerate(tests) for item in part.questions]
    labels = {item.question_id: gold for item, gold in zip(questions, golds, strict=True)}
    return EvaluationSet(data.name, tuple(questions), (), labels, task=data.task)
