"""Fusion weights from training records or the phantom's truth: ``train-fusion``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from mrrag_llamaindex import defaults
from mrrag_llamaindex.commands import console
from mrrag_llamaindex.commands.learn import fusion_report
from mrrag_llamaindex.commands.options import AsJson, Device
from mrrag_llamaindex.errors import InputError

if TYPE_CHECKING:
    from mrrag_llamaindex.learning.fusion.comparison import FusionComparison, PooledComparison
    from mrrag_llamaindex.learning.fusion.questions import FusionQuestion
    from mrrag_llamaindex.mcr.weights_file import AnyWeights

_PHANTOM_QUESTIONS = 500
_QUESTIONS_OF_ONE_SEED = 500
_REGIMES = ("combination", "image", "text")


def train_fusion(
    records: Annotated[
        Path | None, typer.Argument(help="File that mrrag mine wrote (.jsonl).")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="File for the weights (JSON).")] = None,
    data: Annotated[
        Literal["phantom"] | None,
        typer.Option(help="In place of a file: synthetic studies, labelled by their truth."),
    ] = None,
    terms: Annotated[
        int,
        typer.Option(min=3, max=4, help="4: save the weight of question text to image, too."),
    ] = 3,
    gated: Annotated[
        bool | None,
        typer.Option(
            "--gated/--no-gated",
            help="Save weights for each question, or do not even try them. Default: measured, "
            "not saved.",
        ),
    ] = None,
    held_out: Annotated[
        float, typer.Option(min=0.05, max=0.9, help="Share of the patients to measure on.")
    ] = 0.5,
    temperature: Annotated[float, typer.Option(help="Of the loss; above zero.")] = 0.07,
    learn_temperature: Annotated[
        bool, typer.Option(help="Learn it, and give the weights the length of (1, 1, 1).")
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="Of the split by patient.")] = 0,
    seeds: Annotated[
        int | None,
        typer.Option(min=1, help="With --data phantom: so many draws of it, in one table."),
    ] = None,
    regime: Annotated[
        Literal["combination", "image", "text"] | None,
        typer.Option(
            help="With --data phantom: what tells which pairs help. Default: the combination; "
            "with --seeds, each in turn."
        ),
    ] = None,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Learn how much each similarity counts, and say what that is worth on other patients."""
    from mrrag_llamaindex.learning.fusion.gated_training import GateSettings
    from mrrag_llamaindex.learning.fusion.training import FusionSettings
    from mrrag_llamaindex.mcr.weights import ALL_TERMS

    if (records is None) == (data is None):
        raise InputError("name either a file of training records or --data phantom")
    if data is None and (seeds is not None or regime is not None):
        raise InputError("--seeds and --regime are about --data phantom")
    if seeds is not None and out is not None:
        raise InputError("--seeds measures on several draws and saves no weights: leave out --out")
    try:
        settings = FusionSettings(temperature=temperature, learn_temperature=learn_temperature)
    except ValueError as error:
        raise InputError(str(error)) from None
    options: dict[str, Any] = {
        "held_out": held_out,
        "settings": settings,
        "gate": None if gated is False else GateSettings(seed=seed),
        "gate_terms": ALL_TERMS[:terms],
    }
    if seeds is not None:
        regimes = _REGIMES if regime is None else (regime,)
        pooled = _over_seeds(range(seed, seed + seeds), regimes, device, options)
        if as_json:
            console.print_json(fusion_report.pooled_dict(pooled, seed, seeds))
        else:
            fusion_report.print_pooled(pooled, seeds)
        return
    if records is None:
        questions, identity = _phantom(seed, regime or "combination", device)
    else:
        questions, identity = _mined(records)
    if gated is None and any(item.query is None for item in questions):
        console.say("note", "no weights for each question are tried: the records hold no vectors")
        options["gate"] = None
    from mrrag_llamaindex.learning.fusion.comparison import learn_and_compare

    made = learn_and_compare(questions, seed=seed, **options)
    if out is not None:
        _save(_wanted(made, terms, bool(gated)), out, identity)
    if as_json:
        console.print_json(made.as_dict())
    else:
        fusion_report.print_comparison(made)


def _wanted(made: FusionComparison, terms: int, gated: bool) -> AnyWeights:
    if gated and made.gated is not None:
        return made.gated.weights
    if terms == 3:
        return made.learned.weights
    if made.four_terms is None:
        raise InputError("these questions lack the fourth similarity, text to image")
    return made.four_terms.weights


def _save(weights: AnyWeights, out: Path, identity: str) -> None:
    try:
        weights.save(out, towers_identity=identity)
    except OSError as error:
        raise InputError(f"{out.name} cannot be written: {error.strerror}") from None


def _mined(path: Path) -> tuple[list[FusionQuestion], str]:
    from mrrag_llamaindex.learning.fusion.questions import FusionQuestion
    from mrrag_llamaindex.learning.mining.records import read_training_set

    found = read_training_set(path)
    if not found.usable:
        raise InputError(f"{path.name} holds no question that there is something to learn from")
    return [
        FusionQuestion.of_record(record) for record in found.usable
    ], found.header.towers_identity


def _phantom(seed: int, regime: Any, device: str) -> tuple[list[FusionQuestion], str]:
    from mrrag_llamaindex.phantom.sets.support_labels import label_phantom
    from mrrag_llamaindex.towers.loading import load_towers

    towers = load_towers(defaults.PHANTOM, device=device)
    questions = label_phantom(seed, towers, queries=_PHANTOM_QUESTIONS, regime=regime)
    return questions, towers.identity


def _over_seeds(
    seeds: range, regimes: tuple[Any, ...], device: str, options: dict[str, Any]
) -> dict[str, PooledComparison]:
    """Learn and measure on each draw of each regime; a draw is a corpus with its own patients."""
    from mrrag_llamaindex.learning.fusion.comparison import PooledComparison, learn_and_compare
    from mrrag_llamaindex.phantom.sets.support_labels import label_phantom
    from mrrag_llamaindex.towers.loading import load_towers

    towers = load_towers(defaults.PHANTOM, device=device)
    pooled = {}
    for regime in regimes:
        made = []
        for seed in seeds:
            questions = label_phantom(seed, towers, queries=_QUESTIONS_OF_ONE_SEED, regime=regime)
            made.append(learn_and_compare(questions, seed=seed, **options))
            console.say_progress(f"{regime}: seed {seed}, {len(made)} of {len(seeds)}")
        pooled[regime] = PooledComparison.of(made, seed=seeds[0])
    return pooled
