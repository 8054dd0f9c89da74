"""Run methods over questions: learn and tune on some patients, answer those of others.

Every method gets the same vectors, the same model and the same prompt. Nothing is learned or
chosen on a question that is scored: fusion weights and finding maps come from a `fit` set,
settings from a `tune` set, and the table from the `tests`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mrrag_llamaindex.errors import ImageError, PromptError
from mrrag_llamaindex.evaluation.methods import METHODS, Method, build_method
from mrrag_llamaindex.evaluation.prediction import (
    Prediction,
    PredictionHeader,
    PredictionWriter,
    pool,
)
from mrrag_llamaindex.evaluation.retrieval_runs import EmbeddedSet, LeftOut, image_key
from mrrag_llamaindex.evaluation.tuning import LEAST_QUESTIONS, Tuned, choose, variants
from mrrag_llamaindex.generation.model_identity import model_identity
from mrrag_llamaindex.generation.request import PromptRequest
from mrrag_llamaindex.images import load_image
from mrrag_llamaindex.retrieval.question_table import digest_of
from mrrag_llamaindex.retrieval.score import FusionWeights

if TYPE_CHECKING:
    from PIL.Image import Image

    from mrrag_llamaindex.evaluation.baselines.factual_agreement import FactualAgreement
    from mrrag_llamaindex.generation.engine import LlavaEngine
    from mrrag_llamaindex.retrieval.weights_file import AnyWeights

_BATCHES_AT_ONCE = 4

Progress = Callable[[str, int, int, int], None]
"""Takes what is being done, how many answers there are, of how many, and how many were resumed."""


@dataclass(frozen=True)
class HarnessSettings:
    """What is run.

    Attributes
    ----------
    methods : tuple of str
        Names of `METHODS`.
    documents : int
        K.
    max_new_tokens : int
        Longest answer. A yes or no comes first, so few are needed; CARES reads to the first full
        stop.
    scoring : str
        Rule by which validation answers are read.
    seed : int
        Written into the files.
    """

    methods: tuple[str, ...] = METHODS
    documents: int = 6
    max_new_tokens: int = 32
    scoring: str = "leading"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.documents < 1 or self.max_new_tokens < 1:
            raise ValueError("documents and max_new_tokens must be at least 1")


@dataclass(frozen=True)
class Learned:
    """What was learned before any method runs.

    Attributes
    ----------
    weights : FusionWeights or QueryGatedWeights
    agreement : FactualAgreement or None
    no_agreement : str
        Why there is none.
    notes : tuple of str
    """

    weights: AnyWeights = field(default_factory=FusionWeights)
    agreement: FactualAgreement | None = None
    no_agreement: str = "no finding labels are known for the pairs"
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Evaluation:
    """All answers of a run.

    Attributes
    ----------
    predictions : dict
        By method, in the order of the table; the seeds pooled.
    not_run : dict
        Method to the reason why it has no answers.
    tuned : tuple of Tuned
    notes : tuple of str
        What was learned or left as published, in words.
    left_out : tuple of LeftOut
        Questions that a method could not be asked.
    """

    predictions: dict[str, list[Prediction]]
    not_run: dict[str, str]
    tuned: tuple[Tuned, ...]
    notes: tuple[str, ...]
    left_out: tuple[LeftOut, ...]


class Harness:
    """Answers questions with one engine, and remembers what it was asked before.

    Parameters
    ----------
    engine : LlavaEngine
    towers_identity : str
        Of the towers that made all vectors.
    settings : HarnessSettings
    folder : pathlib.Path, optional
        Gets every answer as it is made; a run that was stopped goes on from there.
    progress : callable, optional
        See `Progress`.
    """

    def __init__(
        self,
        engine: LlavaEngine,
        towers_identity: str,
        settings: HarnessSettings,
        *,
        folder: Path | None = None,
        progress: Progress | None = None,
    ) -> None:
        self.engine = engine
        self.settings = settings
        self.folder = folder
        self.left_out: dict[tuple[str, str], LeftOut] = {}
        self._model = model_identity(engine.loaded)
        self._towers = towers_identity
        self._progress = progress
        self._done = self._total = self._resumed = 0
        self._images: dict[object, Image] = {}

    def run(
        self,
        tests: Sequence[EmbeddedSet],
        learned: Learned,
        tune: EmbeddedSet | None = None,
    ) -> Evaluation:
        """Tune the methods and run them over the tests.

        Parameters
        ----------
        tests : sequence of EmbeddedSet
            One for each seed of the data; their answers are pooled, as of different patients.
        learned : Learned
        tune : EmbeddedSet, optional
            Questions of other patients. Without them, or with fewer than `LEAST_QUESTIONS`, the
            settings are the published ones.
        """
        notes = list(learned.notes)
        methods, not_run = self._methods(learned)
        if tune is not None and len(tune) < LEAST_QUESTIONS:
            notes.append(
                f"{len(tune)} validation questions are too few to tune on ({LEAST_QUESTIONS} are "
                "needed): published settings"
            )
            tune = None
        elif tune is None:
            notes.append("no validation questions: published settings")
        depth = self.engine.planner.layers
        critical = self.engine.loaded.critical_layers
        grids = {m.name: variants(m, depth, critical) if tune else [m] for m in methods}
        self._done = self._resumed = 0
        self._total = sum(
            len(grid) * len(tune) for grid in grids.values() if tune and len(grid) > 1
        ) + len(methods) * sum(map(len, tests))
        tuned = []
        chosen = []
        for method in methods:
            if tune is None or len(grids[method.name]) == 1:
                chosen.append(method)
                continue
            found = self._tuned(grids[method.name], tune)
            tuned.append(found)
            chosen.append(found.method)
        answers = {}
        for method in chosen:
            runs = {
                number: self.predict(method, data, f"test-{number}")
                for number, data in enumerate(tests)
            }
            answers[method.name] = pool(runs) if len(runs) > 1 else runs[0]
            self._write_pooled(method, answers[method.name], tests)
        return Evaluation(
            answers, not_run, tuple(tuned), tuple(notes), tuple(self.left_out.values())
        )

    def predict(self, method: Method, data: EmbeddedSet, part: str) -> list[Prediction]:
        """Answer the questions of a set with one method, in their order.

        A question whose documents the model cannot read, or whose image has gone, counts as not
        answered: its text is empty, and it is listed.

        Parameters
        ----------
        method : Method
        data : EmbeddedSet
        part : str
            Names the file, together with method and settings.
        """
        header = PredictionHeader(
            method.name,
            digest_of(data.questions),
            self._model,
            self.settings.seed,
            {
                "towers": self._towers,
                "pairs": _digest(list(zip(data.pair_ids, data.reports, strict=True))),
                "max_new_tokens": self.settings.max_new_tokens,
                **method.settings(),
            },
        )
        if self.folder is None:
            return self._answer(method, data, set(), lambda batch: None)
        path = (
            self.folder / "answers" / part / f"{method.name}-{_digest(header.settings)[:8]}.jsonl"
        )
        with PredictionWriter(path, header) as writer:
            self._resumed += len(writer.answered)
            self._done += len(writer.answered)
            made = self._answer(method, data, writer.answered, writer.append)
            found = {item.question_id: item for item in (*writer.predictions, *made)}
        return [found[item.question_id] for item in data.questions]

    def _methods(self, learned: Learned) -> tuple[list[Method], dict[str, str]]:
        methods, not_run = [], {}
        for name in self.settings.methods:
            if name == "factmm-rag" and learned.agreement is None:
                not_run[name] = learned.no_agreement
                continue
            methods.append(
                build_method(
                    name,
                    documents=self.settings.documents,
                    weights=learned.weights,
                    agreement=learned.agreement,
                )
            )
        return methods, not_run

    def _tuned(self, grid: Sequence[Method], tune: EmbeddedSet) -> Tuned:
        return choose(
            grid,
            lambda method: self.predict(method, tune, "validation"),
            scoring=self.settings.scoring,
        )

    def _answer(
        self,
        method: Method,
        data: EmbeddedSet,
        answered: set[str],
        keep: Callable[[list[Prediction]], None],
    ) -> list[Prediction]:
        rows = [n for n, item in enumerate(data.questions) if item.question_id not in answered]
        size = _BATCHES_AT_ONCE * self.engine.batch_size
        made: list[Prediction] = []
        for start in range(0, len(rows), size):
            batch = self._batch(method, data, rows[start : start + size])
            keep(batch)
            made += batch
            self._done += len(batch)
            if self._progress is not None:
                self._progress(method.name, self._done, self._total, self._resumed)
        return made

    def _batch(self, method: Method, data: EmbeddedSet, rows: Sequence[int]) -> list[Prediction]:
        try:
            return self._generate(method, data, rows)
        except (PromptError, ImageError) as error:
            if len(rows) == 1:
                item = data.questions[rows[0]]
                reason = LeftOut(item.question_id, f"{method.name}: {error}")
                self.left_out[method.name, item.question_id] = reason
                return [self._prediction(method, data, rows[0], None)]
            # One question is refused for all of its batch, so they are asked one by one.
            return [item for row in rows for item in self._batch(method, data, [row])]

    def _generate(self, method: Method, data: EmbeddedSet, rows: Sequence[int]) -> list[Prediction]:
        requests = [
            PromptRequest(data.questions[row].question, tuple(method.documents(data, row)))
            for row in rows
        ]
        how = {} if method.decoding is None else {"decoding": method.decoding}
        answers = self.engine.generate(
            requests,
            self._shown(data, rows),
            policy=method.policy,
            max_new_tokens=self.settings.max_new_tokens,
            **how,
        )
        return [
            self._prediction(method, data, row, answer)
            for row, answer in zip(rows, answers, strict=True)
        ]

    def _shown(self, data: EmbeddedSet, rows: Sequence[int]) -> list[Image]:
        """Load the images of a batch; one that several rows ask about is loaded once."""
        keys = [image_key(data.questions[row]) for row in rows]
        kept = {key: self._images[key] for key in keys if key in self._images}
        for key, row in zip(keys, rows, strict=True):
            if key not in kept:
                kept[key] = load_image(data.questions[row].image, what="query image")
        self._images = kept
        return [kept[key] for key in keys]

    def _prediction(self, method: Method, data: EmbeddedSet, row: int, answer: Any) -> Prediction:
        item = data.questions[row]
        return Prediction(
            method.name,
            item.question_id,
            item.patient_id,
            data.golds[row],
            "" if answer is None else answer.text,
            None if answer is None else answer.p_yes,
            None if answer is None else answer.p_no,
            () if answer is None else answer.document_ids,
        )

    def _write_pooled(
        self, method: Method, answers: Sequence[Prediction], tests: Sequence[EmbeddedSet]
    ) -> None:
        if self.folder is None:
            return
        settings = {"towers": self._towers, **method.settings()}
        data = _digest([digest_of(item.questions) for item in tests])
        path = self.folder / "predictions" / f"{method.name}.jsonl"
        path.unlink(missing_ok=True)
        header = PredictionHeader(method.name, data, self._model, self.settings.seed, settings)
        with PredictionWriter(path, header) as writer:
            writer.append(answers)


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:16]
