"""Run methods over questions: learn and tune on some patients, answer those of others.

Every method gets the same vectors, the same model and the same prompt. Nothing is learned or
chosen on a question that is scored: fusion weights and finding maps come from a `fit` set,
settings from a `tune` set, and the table from the `tests`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from mrrag_llamaindex.errors import InputError
from mrrag_llamaindex.evaluation.data.embedded_set import EmbeddedSet
from mrrag_llamaindex.evaluation.data.prediction import Prediction, PredictionHeader, pool
from mrrag_llamaindex.evaluation.methods.method import Method
from mrrag_llamaindex.evaluation.methods.registry import build_method, row_named
from mrrag_llamaindex.evaluation.methods.tuning import LEAST_QUESTIONS, Tuned, tune
from mrrag_llamaindex.evaluation.methods.vote import (
    NO_ANSWERS,
    NO_OPEN_ANSWERS,
    OPEN,
    has_answers,
)
from mrrag_llamaindex.evaluation.run.answering import Answering
from mrrag_llamaindex.evaluation.run.answers_file import PredictionWriter
from mrrag_llamaindex.evaluation.run.records import Evaluation, HarnessSettings
from mrrag_llamaindex.evaluation.run.workers import AnsweringWorkers, EngineFacts
from mrrag_llamaindex.files.digests import json_digest
from mrrag_llamaindex.store.ingest.question_table import digest_of

if TYPE_CHECKING:
    from mrrag_llamaindex.evaluation.methods.learning import Learned
    from mrrag_llamaindex.generation.interface import Engine

LAYERS = "critical_layers"
"""Setting of every file of answers: the layers that steering takes where none are named."""

NO_PAIRS = "there are no pairs to retrieve from"

NO_MODEL = "none"
"""Identity of the model in files of answers that no model gave."""

Progress = Callable[[str, int, int, int], None]
"""Takes what is being done, how many answers there are, of how many, and how many were resumed."""


class Harness:
    """Answers questions with one engine; a run with a folder resumes where it stopped.

    Parameters
    ----------
    engine : Engine, AnsweringWorkers or None
        Its critical layers are a setting of the run, which resumes only with the same ones. None:
        only methods that ask no model can be run. Workers write into the folder.
    towers_identity : str
        Of the towers that made all vectors.
    settings : HarnessSettings
    folder : pathlib.Path, optional
        Gets every answer as it is made; a stopped run resumes from it.
    progress : callable, optional
        See `Progress`.
    """

    def __init__(
        self,
        engine: Engine | AnsweringWorkers | None,
        towers_identity: str,
        settings: HarnessSettings,
        *,
        folder: Path | None = None,
        progress: Progress | None = None,
    ) -> None:
        self.engine = engine
        self.settings = settings
        self.folder = folder
        self._workers = engine if isinstance(engine, AnsweringWorkers) else None
        if self._workers is not None and folder is None:
            raise InputError("workers write their answers into a folder: name one")
        own = None if isinstance(engine, AnsweringWorkers) else engine
        self._answering = Answering(own, settings.max_new_tokens, settings.task.weighs_options)
        facts = self._workers.facts if self._workers else own and EngineFacts.of(own)
        self._layers = list(facts.critical_layers) if facts else []
        self._model = facts.identity if facts else NO_MODEL
        self._depth = facts.depth if facts else 1
        self._towers = towers_identity
        self._progress = progress
        self._done = self._total = self._resumed = 0

    def run(
        self,
        tests: Sequence[EmbeddedSet],
        learned: Learned,
        validation: EmbeddedSet | None = None,
    ) -> Evaluation:
        """Tune the methods and run them over the tests.

        Parameters
        ----------
        tests : sequence of EmbeddedSet
            One for each seed of the data; their answers are pooled, as of different patients.
        learned : Learned
        validation : EmbeddedSet, optional
            Questions of other patients. Without them, or with fewer than `LEAST_QUESTIONS`, the
            settings are the published ones.

        Raises
        ------
        InputError
            If no method can be run, or the folder holds answers of another run.
        """
        notes = list(learned.notes)
        methods, not_run = self._methods(learned, tests)
        if validation is None:
            notes.append("no validation questions: published settings")
        elif len(validation) < LEAST_QUESTIONS:
            notes.append(
                f"{len(validation)} validation questions are too few to tune on "
                f"({LEAST_QUESTIONS} are needed): published settings"
            )
            validation = None
        grids = {}
        if validation is not None:
            for method in methods:
                settings = row_named(method.name).settings(method, self._depth, self._layers)
                if len(settings) > 1:
                    grids[method.name] = settings
        self._done = self._resumed = 0
        self._total = len(methods) * sum(map(len, tests))
        tuned: dict[str, Tuned[Method]] = {}
        if validation is not None:
            self._total += sum(map(len, grids.values())) * len(validation)
            self._spread(
                [(item, validation, "validation") for grid in grids.values() for item in grid]
            )
            for name, grid in grids.items():
                tuned[name] = self._tuned(grid, validation)
        answers = {}
        chosen = [tuned[item.name].setting if item.name in tuned else item for item in methods]
        parts = [(data, f"test-{number}") for number, data in enumerate(tests)]
        self._spread([(method, *part) for method in chosen for part in parts])
        for method in chosen:
            name = method.name
            runs = {number: self.predict(method, *part) for number, part in enumerate(parts)}
            answers[name] = pool(runs) if len(runs) > 1 else runs[0]
            self._write_pooled(method, answers[name], tests)
        return Evaluation(
            answers,
            not_run,
            tuple(tuned.values()),
            tuple(notes),
            tuple(self._answering.left_out.values()),
            tuple(self._layers),
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
        if self.folder is None:
            return self._answer(method, data, (), lambda batch: None)
        with self._opened(method, data, part) as writer:
            self._resumed += len(writer.keys)
            self._done += len(writer.keys)
            fresh = self._answer(
                *(method, data, writer.keys),
                lambda batch: writer.append(self._kept(batch)),
            )
            answers = {item.question_id: item for item in (*writer.records, *fresh)}
        self._answering.note_unasked(answers.values())
        golds = zip(data.questions, data.golds, strict=True)
        # The labels are those of this run: its rule may not be that of the run which asked.
        return [replace(answers[item.question_id], gold=gold) for item, gold in golds]

    def _opened(
        self, method: Method, data: EmbeddedSet, part: str, *, keep: bool = True
    ) -> PredictionWriter:
        """Open the file of a method's answers; the run has a folder."""
        assert self.folder is not None
        settings = {
            "towers": self._towers,
            "pairs": json_digest(list(zip(data.pair_ids, data.reports, strict=True)), 16),
            "max_new_tokens": self.settings.max_new_tokens,
            # Named where it is not the default alone: files of earlier runs go on.
            **({} if data.one_per == "study" else {"one_per": data.one_per}),
            **method.settings(),
        }
        path = self.folder / "answers" / part / f"{method.name}-{json_digest(settings, 8)}.jsonl"
        # Not in the file's name: with other layers the file is refused, no second one is begun.
        settings[LAYERS] = self._layers
        header = PredictionHeader(
            *(method.name, digest_of(data.questions), self._model, self.settings.seed, settings),
            task=self.settings.task.name,
        )
        return PredictionWriter(path, header, keep=keep)

    def _spread(self, runs: Sequence[tuple[Method, EmbeddedSet, str]]) -> None:
        """Have workers, if there are any, write all answers; `predict` then reads them."""
        if self._workers is None:
            return
        with ExitStack() as stack:
            logs = [
                self._workers.sharded(
                    stack.enter_context(self._opened(method, data, part, keep=False)),
                    *(method, data, self.settings),
                )
                for method, data, part in runs
                if method.generates
            ]
            done, resumed = self._done, self._resumed + sum(len(log.log.keys) for log in logs)
            for name, count, left_out in self._workers.fill(logs):
                done += count
                self._answering.left_out.update(left_out)
                if self._progress is not None:
                    self._progress(name, done, self._total, resumed)

    def _answer(
        self,
        method: Method,
        data: EmbeddedSet,
        answered: Collection[str],
        write: Callable[[list[Prediction]], None],
    ) -> list[Prediction]:
        def keep(batch: list[Prediction]) -> None:
            write(batch)
            self._done += len(batch)
            if self._progress is not None:
                self._progress(method.name, self._done, self._total, self._resumed)

        return self._answering.answer(method, data, answered, keep)

    def _methods(
        self, learned: Learned, tests: Sequence[EmbeddedSet]
    ) -> tuple[list[Method], dict[str, str]]:
        has_pairs = all(item.pair_ids for item in tests)
        methods: list[Method] = []
        not_run: dict[str, str] = {}
        for name in self.settings.methods:
            row = row_named(name)
            lacks = row.learns and name not in learned.rankings
            if lacks or (row.learns_policy and name not in learned.policies):
                not_run[name] = learned.not_run.get(name, "nothing was learned for it")
                continue
            method = build_method(
                name,
                documents=self.settings.documents,
                weights=learned.weights,
                learned=learned.rankings.get(name),
                policy=learned.policies.get(name),
            )
            if method.ranking is not None and not has_pairs:
                not_run[name] = NO_PAIRS
                continue
            if not method.generates and not self.settings.task.votes:
                not_run[name] = f"a vote gives no answer to the task {self.settings.task.name}"
                continue
            if not method.generates and not all(map(has_answers, tests)):
                is_open = self.settings.task.name == OPEN
                not_run[name] = NO_OPEN_ANSWERS if is_open else NO_ANSWERS
                continue
            if method.generates and self.engine is None:
                not_run[name] = "no model was loaded"
                continue
            methods.append(method)
        if not methods:
            raise InputError(f"no method can be run: {'; '.join(dict.fromkeys(not_run.values()))}")
        return methods, not_run

    def _tuned(self, grid: Sequence[Method], validation: EmbeddedSet) -> Tuned[Method]:
        return tune(
            grid,
            lambda method: self.predict(method, validation, "validation"),
            row_named(grid[0].name).choose,
            scoring=self.settings.scoring,
            each=self.settings.task.each,
        )

    def _write_pooled(
        self, method: Method, answers: Sequence[Prediction], tests: Sequence[EmbeddedSet]
    ) -> None:
        if self.folder is None:
            return
        settings = {"towers": self._towers, **method.settings(), LAYERS: self._layers}
        data = json_digest([digest_of(item.questions) for item in tests], 16)
        path = self.folder / "predictions" / f"{method.name}.jsonl"
        path.unlink(missing_ok=True)
        header = PredictionHeader(
            *(method.name, data, self._model, self.settings.seed, settings),
            task=self.settings.task.name,
        )
        with PredictionWriter(path, header) as writer:
            writer.append(self._kept(answers))

    def _kept(self, answers: Sequence[Prediction]) -> list[Prediction]:
        """Return answers as they stand in files: where gold answers are reports, without them."""
        if self.settings.task.keeps_golds:
            return list(answers)
        return [replace(item, gold="") for item in answers]
