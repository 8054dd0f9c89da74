"""From scores to probabilities, and a threshold with a stated error rate: ``calibrate``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from mrrag_llamaindex import defaults
from mrrag_llamaindex.commands import console
from mrrag_llamaindex.commands.options import AsJson, Device
from mrrag_llamaindex.errors import InputError

if TYPE_CHECKING:
    from mrrag_llamaindex.learning.calibration.data import ScoredQuestion
    from mrrag_llamaindex.learning.calibration.fit import CalibrationReport
    from mrrag_llamaindex.mcr.weights_file import AnyWeights


def calibrate(
    records: Annotated[
        Path | None, typer.Argument(help="File that mrrag mine wrote (.jsonl).")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="File for the calibration: calibration.json in the store.")
    ] = None,
    data: Annotated[
        Literal["phantom"] | None,
        typer.Option(help="In place of a file: synthetic studies, labelled by their truth."),
    ] = None,
    weights: Annotated[
        Path | None, typer.Option(help="Fusion weights in use (JSON); default: equal weights.")
    ] = None,
    method: Annotated[
        str,
        typer.Option(
            metavar="isotonic|platt", help="Any rising curve, or two numbers (for few questions)."
        ),
    ] = "isotonic",
    rule: Annotated[
        str,
        typer.Option(
            metavar="helps_right|helps|right",
            help="When a mined document supports: it beats no document, it gives the right one of "
            "yes and no, or both.",
        ),
    ] = "helps_right",
    error_rate: Annotated[
        float, typer.Option(help="Most of the answered questions that may be wrong.")
    ] = 0.1,
    confidence: Annotated[
        float, typer.Option(help="Probability with which that must hold.")
    ] = 0.95,
    depth: Annotated[
        int, typer.Option(min=1, help="Best-ranked documents of a question that count.")
    ] = defaults.CANDIDATES,
    questions: Annotated[
        int, typer.Option(min=4, help="Synthetic questions, with --data phantom.")
    ] = 400,
    held_out: Annotated[
        float, typer.Option(min=0.05, max=0.9, help="Share of the patients to measure on.")
    ] = 0.5,
    seed: Annotated[int, typer.Option(min=0, help="Of the split by patient.")] = 0,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Learn what a score means, and below which one it is better not to answer."""
    from mrrag_llamaindex.learning.calibration.fit import CalibrationSettings, fit_calibration
    from mrrag_llamaindex.mcr.score import FusionWeights
    from mrrag_llamaindex.mcr.weights_file import load_weights

    if (records is None) == (data is None):
        raise InputError("name either a file of training records or --data phantom")
    try:
        settings = CalibrationSettings(
            method=method,  # type: ignore[arg-type]  # checked there
            error_rate=error_rate,
            confidence=confidence,
            held_out=held_out,
            seed=seed,
        )
    except ValueError as error:
        raise InputError(str(error)) from None
    used: AnyWeights = FusionWeights() if weights is None else load_weights(weights)
    if records is None:
        asked, identity = _phantom(seed, questions, used, depth, device)
        source = "phantom"
    else:
        asked, identity = _mined(records, used, rule, depth)
        source = f"mined records, rule {rule}"
    if weights is not None:
        load_weights(weights, towers_identity=identity)  # learned on other towers: refused
    about = {"source": source, "depth": depth}
    made = fit_calibration(
        asked, towers_identity=identity, weights=used, settings=settings, about=about
    )
    if out is not None:
        try:
            made.calibration.save(out)
        except OSError as error:
            raise InputError(f"{out.name} cannot be written: {error.strerror}") from None
    if made.why_not:
        console.say("note", made.why_not)
    if as_json:
        console.print_json(made.as_dict())
    else:
        _print(made)


def _mined(
    path: Path, weights: AnyWeights, rule: str, depth: int
) -> tuple[list[ScoredQuestion], str]:
    from mrrag_llamaindex.learning.calibration.data import of_records
    from mrrag_llamaindex.learning.mining.records import read_training_set

    found = read_training_set(path)
    if not found.records:
        raise InputError(f"{path.name} holds no question")
    if weights.as_dict() != found.header.settings.get("weights"):
        console.say(
            "note",
            f"the candidates in {path.name} were retrieved with other weights, so a document that "
            "these would rank first may be missing: for a threshold that holds, mine again with "
            "--weights",
        )
    try:
        asked = of_records(found.records, weights, rule=rule, depth=depth)  # type: ignore[arg-type]
    except ValueError as error:
        raise InputError(str(error)) from None
    return asked, found.header.towers_identity


def _phantom(
    seed: int, questions: int, weights: AnyWeights, depth: int, device: str
) -> tuple[list[ScoredQuestion], str]:
    from mrrag_llamaindex.learning.calibration.data import of_questions
    from mrrag_llamaindex.phantom.sets.support_labels import label_phantom
    from mrrag_llamaindex.towers.loading import load_towers

    towers = load_towers(defaults.PHANTOM, device=device)
    labelled = label_phantom(seed, towers, queries=questions)
    return of_questions(labelled, weights, depth=depth), towers.identity


def _print(made: CalibrationReport) -> None:
    print(
        f"{made.calibration.method} curve; on {made.documents} documents of {made.questions} "
        f"questions of {made.patients} other patients (95% interval, by patient):"
    )
    print(f"  {'':<28} {'calibrated':<24} base rate for all")
    for name, title in (
        ("brier", "Brier score"),
        ("log_loss", "log loss"),
        ("ece", "expected calibration error"),
    ):
        cells = []
        for found in (made.quality, made.base_rate):
            low, high = found.ci[name]
            cells.append(f"{getattr(found, name):.3f} [{low:.3f}, {high:.3f}]")
        print(f"  {title:<28} {cells[0]:<24} {cells[1]}")
    rule = made.calibration.abstention
    if rule is None or made.coverage_ci is None:
        print("no threshold: abstaining is not possible with this calibration")
        return
    low, high = made.coverage_ci
    print(
        f"answering from probability {rule.threshold:.3f} on: the best document does not support "
        f"a right answer to at most {rule.error_rate:.0%} of what is answered, with confidence "
        f"{rule.confidence:.0%} ({rule.errors} of {rule.answered} did not)"
    )
    print(f"answered: {rule.coverage:.0%} of the questions [{low:.0%}, {high:.0%}]")
