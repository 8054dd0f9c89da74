"""The noise study on one's own copy of a data set: ``noise --data iu-xray --root DIR ...``."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mrrag_llamaindex.commands import console
from mrrag_llamaindex.commands.evaluate.noise_study import NoiseOptions, load_sweep, measure
from mrrag_llamaindex.errors import InputError

if TYPE_CHECKING:
    from mrrag_llamaindex.evaluation.data.data_set import EvaluationSet, Problem
    from mrrag_llamaindex.evaluation.data.embedded_set import EmbeddedSet
    from mrrag_llamaindex.evaluation.noise.prefix_sweep import PrefixSweep
    from mrrag_llamaindex.evaluation.noise.question import NoiseQuestion
    from mrrag_llamaindex.evaluation.noise.report import NoiseReport
    from mrrag_llamaindex.evaluation.noise.tuning import Tuned
    from mrrag_llamaindex.mcr.weights_file import AnyWeights
    from mrrag_llamaindex.towers.protocol import DualTower

EQUAL = "equal"
"""What ``--weights`` takes in place of a file."""


@dataclass(frozen=True)
class DataOptions:
    """Where one's own data lie.

    Attributes
    ----------
    data : str
    root, facts : pathlib.Path
    question_facts : pathlib.Path or None
        Labels of the questions' own reports, by question id.
    question_file, report_file, images : pathlib.Path or None
    weights : str or None
        A file, `EQUAL`, or None: MCR's scores are not measured.
    validation : float
        Share of the patients to tune on.
    """

    data: str
    root: Path
    facts: Path
    question_facts: Path | None
    question_file: Path | None
    report_file: Path | None
    images: Path | None
    weights: str | None
    validation: float


def data_noise(options: NoiseOptions, where: DataOptions) -> NoiseReport:
    """Measure on one's own data; settings are chosen on patients who are not measured."""
    from mrrag_llamaindex.evaluation.data.parts import drawn_questions, split_parts
    from mrrag_llamaindex.evaluation.noise.data import draw_data_trials, own_labels, sift
    from mrrag_llamaindex.evaluation.noise.findings import NOT_TOLD, RELEVANCE
    from mrrag_llamaindex.evaluation.noise.report import NoiseReport
    from mrrag_llamaindex.towers.loading import load_towers

    # Read first: what is wrong with the data is said before a model is loaded.
    found = _read(where)
    own = own_labels(found, _question_facts(where, found))
    found, problems = sift(found, options.documents, own)
    problems = [*found.problems, *problems]
    usable = len(found.questions)
    found = drawn_questions(found, math.ceil(options.count / (1 - where.validation)), options.seed)
    towers = load_towers(options.towers, device=options.device)
    weights, fusion = _weights(where, towers)
    sweep = load_sweep(options)
    embedded = _embed(found, towers)
    problems += _unusable(embedded)
    console.say_progress("drawing documents")
    trials = draw_data_trials(
        embedded,
        sweep.engine,
        own,
        documents=options.documents,
        weights=weights,
        seed=options.seed,
    )
    problems += trials.problems
    rows = [n for n, item in enumerate(embedded.questions) if item.question_id in trials.questions]
    parts = split_parts(embedded.subset(rows), where.validation, options.seed, learns=False)
    held = [] if parts.tune is None else _of(parts.tune, trials.questions)
    tuned, note = _tuned(sweep, held, options)
    result = measure(sweep, _of(parts.tests[0], trials.questions), tuned, options.seed)
    told = [RELEVANCE, NOT_TOLD]
    if len(found.questions) < usable:
        told.append(f"{len(found.questions)} of {usable} questions drawn (--count)")
    about = {
        "data": found.name,
        "relevance": RELEVANCE,
        "notes": told,
        "problems": dict(Counter(item.kind for item in problems).most_common()),
        "problem_list": [str(item) for item in problems],
    }
    chosen_on = {"seed": options.seed, "n": len(held), "note": note}
    return NoiseReport(result, tuple(tuned), chosen_on, fusion, about)


def _read(where: DataOptions) -> EvaluationSet:
    from mrrag_llamaindex.evaluation.data.readers import read_data
    from mrrag_llamaindex.evaluation.methods.finding_table import read_findings

    found = read_data(
        where.data,
        where.root,
        questions=where.question_file,
        reports=where.report_file,
        images=where.images,
    )
    if not found.pairs:
        raise InputError(
            f"{where.data} brings no reports: name a table of pairs with --report-file"
        )
    return replace(found, facts=read_findings(where.facts, {pair.pair_id for pair in found.pairs}))


def _question_facts(where: DataOptions, data: EvaluationSet) -> dict[str, dict[str, bool]] | None:
    from mrrag_llamaindex.evaluation.methods.finding_table import read_findings

    if where.question_facts is None:
        return None
    ids = {item.question_id for item in data.questions}
    return read_findings(where.question_facts, ids, "question_id")


def _weights(
    where: DataOptions, towers: DualTower
) -> tuple[AnyWeights | None, dict[str, Any] | None]:
    """Return the weights of MCR's scores, and what is told about them."""
    from mrrag_llamaindex.mcr.weights import FusionWeights
    from mrrag_llamaindex.mcr.weights_file import load_weights

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


def _embed(data: EvaluationSet, towers: DualTower) -> EmbeddedSet:
    from mrrag_llamaindex.evaluation.data.set_embedding import embed_set
    from mrrag_llamaindex.store.protocol import PairStore

    store = PairStore.create(
        "memory",
        towers_identity=towers.identity,
        towers_source=towers.source,
        dimension=towers.dimension,
    )
    console.say_progress(f"embedding {len(data.pairs)} pairs, {len(data.questions)} questions")
    with store, console.progress_bar("vectors") as advance:
        return embed_set(data, towers, store, progress=lambda done, total: advance(done))


def _unusable(data: EmbeddedSet) -> list[Problem]:
    from mrrag_llamaindex.evaluation.data.data_set import UNREADABLE, Problem

    return [Problem(UNREADABLE, repr(item.identifier), item.reason) for item in data.left_out]


def _of(data: EmbeddedSet, questions: dict[str, NoiseQuestion]) -> list[NoiseQuestion]:
    return [questions[item.question_id] for item in data.questions]


def _tuned(
    sweep: PrefixSweep, held: Sequence[NoiseQuestion], options: NoiseOptions
) -> tuple[list[Tuned], str]:
    """Choose settings on the held-out questions, or take the published ones if they are few."""
    from mrrag_llamaindex.evaluation.noise.tuning import LEAST_QUESTIONS, published, tune

    if len(held) < LEAST_QUESTIONS:
        note = (
            f"published settings: {len(held)} validation questions, and {LEAST_QUESTIONS} are "
            "needed to choose on" + ("; --validation 0 measures on them, too" if held else "")
        )
        console.say("note", note)
        critical = sweep.engine.loaded.critical_layers
        return published(options.policies, options.scores, critical), note
    console.say_progress(f"choosing settings on {len(held)} questions of other patients")
    return tune(sweep, held, options.policies, options.scores), "settings chosen"
