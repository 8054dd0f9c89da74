"""From scores to probabilities, and a threshold with a stated error rate: ``calibrate``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mrrag_llamaindex import defaults
from mrrag_llamaindex.commands import console, options
from mrrag_llamaindex.commands.learn.inputs import (
    check_one_source,
    phantom_candidates,
    settings_of,
    store_for,
    writing,
)
from mrrag_llamaindex.errors import InputError

if TYPE_CHECKING:
    from mrrag_llamaindex.learning.calibration.data import ScoredQuestion
    from mrrag_llamaindex.learning.calibration.fit import CalibrationReport
    from mrrag_llamaindex.mcr.weights_file import AnyWeights


def calibrate(
    ctx: typer.Context,
    records: options.Records = None,
    out: Annotated[
        Path | None, typer.Option(help="File for the calibration: calibration.json in the store.")
    ] = None,
    store: options.StoreOfLearned = None,
    data: options.Synthetic = None,
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
    held_out: options.HeldOut = 0.5,
    seed: options.SplitSeed = 0,
    force: Annotated[
        bool, typer.Option("--force", help="Write a curve not shown to beat the base rate.")
    ] = False,
    picture: options.Picture = None,
    device: options.Device = "auto",
    as_json: options.AsJson = False,
) -> None:
    """Learn what a score means, and below which one it is better not to answer."""
    from mrrag_llamaindex.learning.calibration.data import of_questions
    from mrrag_llamaindex.learning.calibration.fit import CalibrationSettings, fit_calibration
    from mrrag_llamaindex.mcr.score import FusionWeights
    from mrrag_llamaindex.mcr.weights_file import load_weights
    from mrrag_llamaindex.plots import draw_calibration, save
    from mrrag_llamaindex.store.learned_files import (
        CALIBRATION_FILE,
        keep_learned,
        weights_of,
    )

    check_one_source(records, data)
    if records is None:
        options.refuse_given(ctx, {"rule"}, "it reads mined records; the phantom's truth is known")
    else:
        options.refuse_given(ctx, {"questions"}, "it counts synthetic ones: --data phantom")
    settings = settings_of(
        CalibrationSettings,
        method=method,
        error_rate=error_rate,
        confidence=confidence,
        held_out=held_out,
        seed=seed,
    )
    with store_for(store, out=out, weights=weights) as pairs:
        fusion: AnyWeights = FusionWeights() if weights is None else load_weights(weights)
        if pairs is not None:
            fusion = weights_of(pairs)
    if records is None:
        candidates, identity = phantom_candidates(seed, device, queries=questions)
        scored, source = of_questions(candidates, fusion, depth=depth), "phantom"
    else:
        scored, identity = _mined(records, fusion, rule, depth)
        source = f"mined records, rule {rule}"
    if weights is not None:
        load_weights(weights, towers_identity=identity)  # learned on other towers: refused
    about = {"source": source, "depth": depth}
    report = fit_calibration(
        scored,
        towers_identity=identity,
        weights=fusion,
        settings=settings,
        about=about,
        force=force,
    )
    if report.gain_ci[0] <= 0:
        console.say(
            "note",
            "the curve's Brier score is not shown to be better than the base rate's: minus it "
            f"{report.gain:+.4f} [{report.gain_ci[0]:+.4f}, {report.gain_ci[1]:+.4f}]",
        )
    if out is not None:
        with writing(out):
            report.calibration.save(out)
    if store is not None:
        with store_for(store) as pairs:
            assert pairs is not None
            pairs.check_towers(identity)
            keep_learned(pairs, CALIBRATION_FILE, report.calibration.to_json())
    if picture is not None:
        save(draw_calibration(report.as_dict()), picture)
    if report.why_not:
        console.say("note", report.why_not)
    if as_json:
        console.print_json(report.as_dict())
    else:
        _print(report)


def _mined(
    path: Path, weights: AnyWeights, rule: str, depth: int
) -> tuple[list[ScoredQuestion], str]:
    from mrrag_llamaindex.learning.calibration.data import of_records
    from mrrag_llamaindex.learning.mining.records import read_training_set

    mined = read_training_set(path)
    if not mined.records:
        raise InputError(f"{path.name} holds no question")
    if weights.as_dict() != mined.header.settings.get("weights"):
        console.say(
            "note",
            f"the candidates in {path.name} were retrieved with other weights, so a document that "
            "these would rank first may be missing: for a threshold that holds, mine again with "
            "--weights",
        )
    scored = settings_of(of_records, records=mined.records, weights=weights, rule=rule, depth=depth)
    return scored, mined.header.towers_identity


def _print(report: CalibrationReport) -> None:
    print(
        f"{report.calibration.method} curve; on {report.documents} documents of {report.questions} "
        f"questions of {report.patients} other patients (95% interval, by patient):"
    )
    print(f"  {'':<28} {'calibrated':<24} base rate for all")
    for name, title in (
        ("brier", "Brier score"),
        ("log_loss", "log loss"),
        ("ece", "expected calibration error"),
    ):
        cells = []
        for measured in (report.quality, report.base_rate):
            low, high = measured.ci[name]
            cells.append(f"{getattr(measured, name):.3f} [{low:.3f}, {high:.3f}]")
        print(f"  {title:<28} {cells[0]:<24} {cells[1]}")
    print("what was promised, and what happened:")
    for one in report.reliability:
        ends = "" if one.ci is None else f" [{one.ci[0]:.3f}, {one.ci[1]:.3f}]"
        print(
            f"  {one.low:.3f} to {one.high:.3f}: promised {one.promised:.3f}, happened "
            f"{one.happened:.3f}{ends} of {one.documents}"
        )
    rule = report.calibration.abstention
    if rule is None or report.coverage_ci is None:
        print("no threshold: abstaining is not possible with this calibration")
        return
    low, high = report.coverage_ci
    print(
        f"answering at probability {rule.threshold:.3f} or above: the best document does not "
        f"support a right answer to at most {rule.error_rate:.0%} of what is answered, with "
        f"confidence {rule.confidence:.0%} ({rule.errors} of {rule.answered} did not)"
    )
    print(f"answered: {rule.coverage:.0%} of the questions [{low:.0%}, {high:.0%}]")
