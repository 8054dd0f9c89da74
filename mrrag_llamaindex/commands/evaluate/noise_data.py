"""The noise study on one's own copy of a data set: ``noise --data iu-xray --root DIR ...``."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mrrag_llamaindex.commands import console
from mrrag_llamaindex.commands.evaluate.data import OwnCopy, embedded, unreadable
from mrrag_llamaindex.commands.evaluate.noise_study import NoiseOptions, asker, load_sweep, measure
from mrrag_llamaindex.evaluation.data.data_set import EvaluationSet
from mrrag_llamaindex.evaluation.data.embedded_set import EmbeddedSet
from mrrag_llamaindex.evaluation.data.finding_table import read_findings
from mrrag_llamaindex.evaluation.data.findings import NOT_TOLD, RELEVANCE
from mrrag_llamaindex.evaluation.data.parts import drawn_questions, split_parts
from mrrag_llamaindex.evaluation.methods.tuning import LEAST_QUESTIONS, Tuned
from mrrag_llamaindex.evaluation.noise import study
from mrrag_llamaindex.evaluation.noise.data import draw_data_trials, own_labels, sift
from mrrag_llamaindex.evaluation.noise.prefix_sweep import PrefixSweep
from mrrag_llamaindex.evaluation.noise.question import NoiseQuestion
from mrrag_llamaindex.evaluation.noise.report import NoiseReport
from mrrag_llamaindex.evaluation.noise.result import Contestant
from mrrag_llamaindex.evaluation.noise.workers import SweepWorkers
from mrrag_llamaindex.mcr.weights import FusionWeights
from mrrag_llamaindex.mcr.weights_file import AnyWeights, load_weights
from mrrag_llamaindex.towers.loading import load_towers
from mrrag_llamaindex.towers.protocol import DualTower

EQUAL = "equal"
"""What ``--weights`` takes in place of a file."""


@dataclass(frozen=True)
class DataOptions(OwnCopy):
    """One's own data for the noise study; ``facts`` must be there.

    Attributes
    ----------
    question_facts : pathlib.Path or None
        Labels of the questions' own reports, by question id.
    weights : str or None
        A file, `EQUAL`, or None: MCR's scores are not measured.
    validation : float
        Share of the patients to tune on.
    """

    question_facts: Path | None
    weights: str | None
    validation: float

    def own_facts(self, data: EvaluationSet) -> dict[str, dict[str, bool]] | None:
        """Read ``question_facts``."""
        if self.question_facts is None:
            return None
        ids = {item.question_id for item in data.questions}
        return read_findings(self.question_facts, ids, "question_id")


def data_noise(options: NoiseOptions, where: DataOptions) -> NoiseReport:
    """Measure on one's own data; settings are chosen on patients who are not measured."""
    # Read first: what is wrong with the data is said before a model is loaded.
    copy = where.read()
    own = own_labels(copy, where.own_facts(copy))
    usable, problems = sift(copy, options.documents, own)
    problems = [*copy.problems, *problems]
    data = drawn_questions(usable, math.ceil(options.count / (1 - where.validation)), options.seed)
    towers = load_towers(options.towers, device=options.model.device)
    weights, fusion = _weights(where, towers)
    sweep = load_sweep(options)
    console.say_progress(f"embedding {len(data.pairs)} pairs, {len(data.questions)} questions")
    with embedded([data], towers) as (sets, _):
        (vectors,) = sets
    problems += unreadable(sets)
    console.say_progress("drawing documents")
    trials = draw_data_trials(
        vectors,
        sweep.engine,
        own,
        documents=options.documents,
        weights=weights,
        seed=options.seed,
    )
    problems += trials.problems
    rows = [
        row for row, item in enumerate(vectors.questions) if item.question_id in trials.questions
    ]
    parts = split_parts(vectors.subset(rows), where.validation, options.seed, learns=False)
    held_out = [] if parts.tune is None else _of(parts.tune, trials.questions)
    with asker(sweep, options) as asking:
        tuned, note = _tuned(asking, held_out, options)
        result = measure(asking, _of(parts.tests[0], trials.questions), tuned, options.seed)
    notes = [RELEVANCE, NOT_TOLD]
    if len(data.questions) < len(usable.questions):
        notes.append(f"{len(data.questions)} of {len(usable.questions)} questions drawn (--count)")
    about = {
        "data": data.name,
        "relevance": RELEVANCE,
        "notes": notes,
        "problems": dict(Counter(item.kind for item in problems).most_common()),
        "problem_list": [str(item) for item in problems],
    }
    validation = {"seed": options.seed, "n": len(held_out), "note": note}
    return NoiseReport(result, tuple(tuned), validation, fusion, about)


def _weights(
    where: DataOptions, towers: DualTower
) -> tuple[AnyWeights | None, dict[str, Any] | None]:
    """Return the weights of MCR's scores, and what the report says of them."""
    if where.weights is None:
        return None, None
    weights: AnyWeights
    if where.weights == EQUAL:
        weights, source = FusionWeights(), "equal, as asked for; nothing was learned"
    else:
        weights = load_weights(where.weights, towers_identity=towers.identity)
        source = f"as in {Path(where.weights).name}"
    values = weights.as_dict() if isinstance(weights, FusionWeights) else None
    return weights, {"weights": values, "towers": towers.source, "labels": source}


def _of(data: EmbeddedSet, questions: dict[str, NoiseQuestion]) -> list[NoiseQuestion]:
    return [questions[item.question_id] for item in data.questions]


def _tuned(
    sweep: PrefixSweep | SweepWorkers, held_out: Sequence[NoiseQuestion], options: NoiseOptions
) -> tuple[list[Tuned[Contestant]], str]:
    """Choose settings on the held-out questions, or take the published ones if they are few."""
    if len(held_out) < LEAST_QUESTIONS:
        note = (
            f"published settings: {len(held_out)} validation questions, and {LEAST_QUESTIONS} are "
            "needed to choose on" + ("; --validation 0 measures on them, too" if held_out else "")
        )
        console.say("note", note)
        critical = sweep.engine.loaded.critical_layers
        return study.published(options.policies, options.scores, critical), note
    console.say_progress(f"choosing settings on {len(held_out)} questions of other patients")
    return study.tune(sweep, held_out, options.policies, options.scores), "settings chosen"
