"""Questions of the noise study from one's own data, and why the others cannot be asked.

Whatever cannot be asked is listed with its reason: a question whose own labels are not known, one
with too few relevant or irrelevant documents, one whose documents the model cannot hold. Its own
pair, study, patient and image are never evidence.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from mrrag_llamaindex.errors import ImageError, InputError, PromptError
from mrrag_llamaindex.evaluation.data.data_set import UNREADABLE, EvaluationSet, Problem
from mrrag_llamaindex.evaluation.data.embedded_set import EmbeddedSet
from mrrag_llamaindex.evaluation.data.findings import FindingLabels
from mrrag_llamaindex.evaluation.data.parts import with_questions
from mrrag_llamaindex.evaluation.data.set_embedding import image_key
from mrrag_llamaindex.evaluation.noise.question import NoiseQuestion
from mrrag_llamaindex.generation.checkpoints.image_readers import PreparedImage
from mrrag_llamaindex.generation.engine import LlavaEngine
from mrrag_llamaindex.generation.prompt.request import PromptDocument
from mrrag_llamaindex.images.load import load_image
from mrrag_llamaindex.mcr.weights_file import AnyWeights
from mrrag_llamaindex.store.ingest.question_table import GoldQuestion

OWN_REPORT = "own report unknown"
OWN_LABELS = "own finding labels unknown"
FEW_RELEVANT = "too few relevant documents"
FEW_IRRELEVANT = "too few irrelevant documents"
DOES_NOT_FIT = "prompt cannot be built"

Mask = NDArray[np.bool_]
OwnLabels = Mapping[str, Mapping[str, bool]]
"""By question id: finding labels of the question's own report."""


@dataclass(frozen=True)
class DataTrials:
    """Questions that can be asked, and why the others cannot.

    Attributes
    ----------
    questions : dict of str to NoiseQuestion
        By question id, in the order of the data.
    problems : tuple of Problem
    """

    questions: dict[str, NoiseQuestion]
    problems: tuple[Problem, ...]


def own_labels(data: EvaluationSet, extra: OwnLabels | None = None) -> OwnLabels:
    """Return what is known of the questions' own reports.

    Parameters
    ----------
    data : EvaluationSet
        A question's own report is the pair that it names.
    extra : mapping, optional
        Labels by question id, for questions whose report is not among the pairs; they take
        precedence over those of the pair.
    """
    of_pairs = {
        item.question_id: data.facts.get(item.pair_id, {})
        for item in data.questions
        if item.pair_id in {pair.pair_id for pair in data.pairs}
    }
    return {**of_pairs, **(extra or {})}


def sift(
    data: EvaluationSet, documents: int, own: OwnLabels
) -> tuple[EvaluationSet, list[Problem]]:
    """Keep the pairs that have labels, and the questions that can have enough documents.

    Only names are looked at, so nothing is embedded in vain.

    Parameters
    ----------
    data : EvaluationSet
        With the finding labels of its pairs as facts.
    documents : int
        K.
    own : mapping
        See `own_labels`.

    Raises
    ------
    InputError
        If no question is left; it says of what kinds the reasons are.
    """
    pairs = tuple(pair for pair in data.pairs if data.facts.get(pair.pair_id))
    owners = [
        np.array([value or "" for value in column], dtype=object)
        for column in zip(*((p.pair_id, p.patient_id, p.study_id) for p in pairs), strict=True)
    ]
    labels = FindingLabels.of([pair.pair_id for pair in pairs], data.facts)
    usable, problems = [], []
    for item in data.questions:
        hidden = np.zeros(len(pairs), dtype=bool)
        names = (item.pair_id, item.patient_id, item.study_id)
        for column, name in zip(owners, names, strict=True):
            hidden |= (column == name) if name else False
        evidence = _own_labels_missing(item, own, labels.least) or _offerable(
            item, own, labels, hidden, documents
        )
        if isinstance(evidence, Problem):
            problems.append(evidence)
        else:
            usable.append(item.question_id)
    check_any(usable, problems, data.name)
    facts = {pair.pair_id: data.facts[pair.pair_id] for pair in pairs}
    return replace(with_questions(data, usable), pairs=pairs, facts=facts), problems


def draw_data_trials(
    data: EmbeddedSet,
    engine: LlavaEngine,
    own: OwnLabels,
    *,
    documents: int,
    weights: AnyWeights | None = None,
    seed: int = 0,
) -> DataTrials:
    """Draw every question's documents, score them and prepare its image.

    Parameters
    ----------
    data : EmbeddedSet
        Of what `sift` kept.
    engine : LlavaEngine
        Says whether the documents fit into a prompt.
    own : OwnLabels
    documents : int
        K.
    weights : FusionWeights or QueryGatedWeights, optional
        Make MCR's scores. Without them the documents have none.
    seed : int

    Raises
    ------
    InputError
        If no question is left.
    """
    labels = FindingLabels.of(data.pair_ids, data.facts)
    rng = np.random.default_rng([seed, documents])
    prepared: dict[object, PreparedImage | None] = {}
    questions: dict[str, NoiseQuestion] = {}
    problems: list[Problem] = []
    for row, item in enumerate(data.questions):
        hidden = np.zeros(len(data.pair_ids), dtype=bool)
        hidden[data.own(row)] = True
        evidence = _offerable(item, own, labels, hidden, documents)
        if isinstance(evidence, Problem):
            problems.append(evidence)
            continue
        scores = None if weights is None else data.scores(row, weights)
        drawn = [
            tuple(_evidence(data, scores, rng.choice(np.flatnonzero(kind), documents, False)))
            for kind in evidence
        ]
        order = tuple(int(place) for place in rng.permutation(documents))
        try:
            key = image_key(item)
            if key not in prepared:
                prepared[key] = engine.read_image(load_image(item.image, what="query image"))
            question = NoiseQuestion(
                question_id=item.question_id,
                patient_id=data.patient(row),
                question=item.question,
                image=prepared[key],
                truth="yes" if data.golds[row] == "yes" else "no",
                relevant=drawn[0],
                irrelevant=drawn[1],
                contradicting=(),
                order=order,
            )
            _check_fits(question, prepared[key], engine)
        except ImageError as error:
            problems.append(Problem(UNREADABLE, _name(item), str(error)))
        except PromptError as error:
            problems.append(Problem(DOES_NOT_FIT, _name(item), str(error)))
        else:
            questions[item.question_id] = question
    check_any(list(questions), problems, data.name)
    return DataTrials(questions, tuple(problems))


def _own_labels_missing(item: GoldQuestion, own: OwnLabels, least: int) -> Problem | None:
    if item.question_id not in own:
        return Problem(OWN_REPORT, _name(item), "its own report is not among the pairs")
    known = len(own[item.question_id])
    if known < max(1, least):
        reason = f"{known} finding labels of its own report are known, {max(1, least)} are needed"
        return Problem(OWN_LABELS, _name(item), reason)
    return None


def _offerable(
    item: GoldQuestion, own: OwnLabels, labels: FindingLabels, hidden: Mask, documents: int
) -> tuple[Mask, Mask] | Problem:
    """Which pairs are relevant, and which irrelevant, without the question's own."""
    relevant, irrelevant = (kind & ~hidden for kind in labels.compared(own[item.question_id]))
    for kind, of_kind in ((FEW_RELEVANT, relevant), (FEW_IRRELEVANT, irrelevant)):
        if of_kind.sum() < documents:
            return Problem(kind, _name(item), f"{of_kind.sum()}, and {documents} are needed")
    return relevant, irrelevant


def _evidence(
    data: EmbeddedSet, scores: NDArray[np.float32] | None, places: NDArray[np.intp]
) -> Iterator[PromptDocument]:
    for n in places.tolist():
        score = None if scores is None else float(scores[n])
        yield PromptDocument(data.pair_ids[n], data.reports[n], score)


def _check_fits(question: NoiseQuestion, image: PreparedImage | None, engine: LlavaEngine) -> None:
    """Raise `PromptError` unless the prompt holds all documents at every level of noise."""
    count = len(question.relevant)
    for irrelevant in range(count + 1):
        fits = count - len(engine.prompt(question.request(irrelevant), image).dropped)
        if fits < count:
            raise PromptError(f"{fits} of its {count} documents fit into the model's prompt")


def _name(item: GoldQuestion) -> str:
    return f"question {item.question_id!r}"


def check_any(usable: Sequence[str], problems: Sequence[Problem], name: str) -> None:
    """Raise `InputError`, with the reasons and what to do, if no question is left."""
    if usable:
        return
    counts = Counter(item.kind for item in problems).most_common()
    why = ", ".join(f"{count} x {kind}" for kind, count in counts)
    remedies = {
        OWN_REPORT: "; give their labels by question_id (--question-facts), or a file of reports "
        "(--report-file) that also holds the questions' own: they are never offered",
        OWN_LABELS: "; also give their labels in --facts",
        DOES_NOT_FIT: "; ask for fewer --documents, or take a model with a longer window",
        FEW_RELEVANT: "; ask for fewer --documents, or give labels of more reports",
        FEW_IRRELEVANT: "; ask for fewer --documents, or give labels of more reports",
    }
    raise InputError(f"{name}: no question can be asked ({why}){remedies.get(counts[0][0], '')}")
