"""Answers that a run left behind, read by another rule: no model, no images, no data set."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from mrrag_llamaindex.commands.evaluate.eval_report import report
from mrrag_llamaindex.errors import InputError

if TYPE_CHECKING:
    from mrrag_llamaindex.evaluation.run.prediction import Prediction


def rescore(
    data: str,
    folder: Path,
    methods: str | None,
    *,
    scoring: str,
    seed: int,
    out: Path | None,
    as_json: bool,
) -> None:
    """Score the answers in a run's folder again and print the table.

    Raises
    ------
    InputError
        If the folder holds no answers of a finished run, or its own tables would be overwritten.
    """
    from mrrag_llamaindex.evaluation.data.embedded_set import LeftOut
    from mrrag_llamaindex.evaluation.run.records import Evaluation

    if out is not None and out.resolve() == folder.resolve():
        raise InputError("--out is the run itself, whose tables it would replace: name another")
    runs, layers = _answers(folder, methods)
    left_out = [
        LeftOut(item.question_id, f"{name}: it could not be asked by the run that answered")
        for name, answers in runs.items()
        for item in answers
        if not item.text and item.p_yes is None
    ]
    note = (
        f"scored again from the answers in {folder.name}: no model was asked; questions, gold "
        "labels and settings are those of that run"
    )
    found = Evaluation(runs, {}, (), (note,), tuple(left_out), layers)
    report(data, runs, found, (), scoring=scoring, seed=seed, out=out, as_json=as_json)


def _answers(
    folder: Path, methods: str | None
) -> tuple[dict[str, list[Prediction]], tuple[int, ...]]:
    from mrrag_llamaindex.evaluation.methods.method import chosen_methods
    from mrrag_llamaindex.evaluation.run.answers_file import read_predictions
    from mrrag_llamaindex.evaluation.run.harness import LAYERS

    wanted = chosen_methods(methods)
    paths = {name: folder / "predictions" / f"{name}.jsonl" for name in wanted}
    there = {name: path for name, path in paths.items() if path.is_file()}
    if not there or (methods is not None and len(there) < len(wanted)):
        missing = next(name for name in wanted if name not in there)
        raise InputError(f"--rescore {folder.name} holds no answers of {missing}")
    runs: dict[str, list[Prediction]] = {}
    kinds, layers = set(), ()
    for name, path in there.items():
        header, runs[name] = read_predictions(path)
        kinds.add((header.data, header.model))
        layers = tuple(header.settings.get(LAYERS, ()))
    if len(kinds) > 1:
        raise InputError(f"--rescore {folder.name} holds answers of several runs; name --methods")
    return runs, layers
