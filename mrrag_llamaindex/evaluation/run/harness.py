"""Run methods over questions: learn and tune on some patients, answer those of others.

Every method gets the same vectors, the same model and the same prompt. Nothing is learned or
chosen on a question that is scored: fusion weights and finding maps come from a `fit` set,
settings from a `tune` set, and the table from the `tests`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mrrag_llamaindex.errors import InputError
from mrrag_llamaindex.evaluation.data.embedded_set import EmbeddedSet
from mrrag_llamaindex.evaluation.methods.method import Method, build_method
from mrrag_llamaindex.evaluation.methods.tuning import LEAST_QUESTIONS, Tuned, choose, variants
from mrrag_llamaindex.evaluation.run.answering import Answering
from mrrag_llamaindex.evaluation.run.answers_file import PredictionWriter
from mrrag_llamaindex.evaluation.run.prediction import Prediction, PredictionHeader, pool
from mrrag_llamaindex.evaluation.run.records import Evaluation, HarnessSettings
from mrrag_llamaindex.generation.checkpoints.profile_store import model_identity
from mrrag_llamaindex.store.question_table import digest_of

if TYPE_CHECKING:
    from mrrag_llamaindex.evaluation.methods.learning import Learned
    from mrrag_llamaindex.generation.engine import LlavaEngine

LAYERS = "critical_layers"
"""Setting of every file of answers: the layers that steering takes where none are named."""

NO_PAIRS = "there are no pairs to retrieve from"

Progress = Callable[[str, int, int, int], None]
"""Takes what is being done, how many answers there are, of how many, and how many were resumed."""


class Harness:
    """Answers questions with one engine, and remembers what it was asked before.

    Parameters
    ----------
    engine : LlavaEngine
        Its critical layers are a setting of the run: a run goes on with the same ones alone.
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
        self._answering = Answering(engine, settings.max_new_tokens)
        self._layers = list(engine.loaded.critical_layers)
        self._model = model_identity(engine.loaded)
        self._towers = towers_identity
        self._progress = progress
        self._done = self._total = self._resumed = 0

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

        Raises
        ------
        InputError
            If no method can be run, or the folder holds answers of another run.
        """
        notes = list(learned.notes)
        methods, not_run = self._methods(learned, has_pairs=all(item.pair_ids for item in tests))
        if tune is not None and len(tune) < LEAST_QUESTIONS:
            notes.append(
                f"{len(tune)} validation questions are too few to tune on ({LEAST_QUESTIONS} are "
                "needed): published settings"
            )
            tune = None
        elif tune is None:
            notes.append("no validation questions: published settings")
        depth = self.engine.planner.layers
        grids = {m.name: variants(m, depth, self._layers) if tune else [m] for m in methods}
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
            answers,
            not_run,
            tuple(tuned),
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
        settings = {
            "towers": self._towers,
            "pairs": _digest(list(zip(data.pair_ids, data.reports, strict=True))),
            "max_new_tokens": self.settings.max_new_tokens,
            **method.settings(),
        }
        if self.folder is None:
            return self._answer(method, data, (), lambda batch: None)
        path = self.folder / "answers" / part / f"{method.name}-{_digest(settings)[:8]}.jsonl"
        # Not in the file's name: under other layers the file is refused, and not begun beside.
        settings[LAYERS] = self._layers
        header = PredictionHeader(
            method.name, digest_of(data.questions), self._model, self.settings.seed, settings
        )
        with PredictionWriter(path, header) as writer:
            self._resumed += len(writer.keys)
            self._done += len(writer.keys)
            made = self._answer(method, data, writer.keys, writer.append)
            found = {item.question_id: item for item in (*writer.records, *made)}
        self._answering.note_unasked(found.values())
        golds = zip(data.questions, data.golds, strict=True)
        # The labels are those of this run: its rule may not be that of the run which asked.
        return [replace(found[item.question_id], gold=gold) for item, gold in golds]

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

    def _methods(self, learned: Learned, *, has_pairs: bool) -> tuple[list[Method], dict[str, str]]:
        methods, not_run = [], {}
        for name in self.settings.methods:
            if name == "factmm-rag" and learned.agreement is None:
                not_run[name] = learned.no_agreement
                continue
            method = build_method(
                name,
                documents=self.settings.documents,
                weights=learned.weights,
                agreement=learned.agreement,
            )
            if method.ranking is not None and not has_pairs:
                not_run[name] = NO_PAIRS
                continue
            methods.append(method)
        if not methods:
            raise InputError(f"no method can be run: {'; '.join(dict.fromkeys(not_run.values()))}")
        return methods, not_run

    def _tuned(self, grid: Sequence[Method], tune: EmbeddedSet) -> Tuned:
        return choose(
            grid,
            lambda method: self.predict(method, tune, "validation"),
            scoring=self.settings.scoring,
        )

    def _write_pooled(
        self, method: Method, answers: Sequence[Prediction], tests: Sequence[EmbeddedSet]
    ) -> None:
        if self.folder is None:
            return
        settings = {"towers": self._towers, **method.settings(), LAYERS: self._layers}
        data = _digest([digest_of(item.questions) for item in tests])
        path = self.folder / "predictions" / f"{method.name}.jsonl"
        path.unlink(missing_ok=True)
        header = PredictionHeader(method.name, data, self._model, self.settings.seed, settings)
        with PredictionWriter(path, header) as writer:
            writer.append(answers)


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:16]
