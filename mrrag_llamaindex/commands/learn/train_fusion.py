"""Fusion weights from training records or the phantom's truth: ``train-fusion``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from mrrag_llamaindex.commands import console, options
from mrrag_llamaindex.commands.learn.inputs import (
    check_one_source,
    phantom_candidates,
    settings_of,
    store_for,
    writing,
)
from mrrag_llamaindex.errors import InputError
from mrrag_llamaindex.mcr.weights import HEAD_TERMS

if TYPE_CHECKING:
    from mrrag_llamaindex.learning.fusion.comparison import FusionComparison, PooledComparison
    from mrrag_llamaindex.learning.fusion.questions import FusionQuestion
    from mrrag_llamaindex.mcr.weights_file import AnyWeights
    from mrrag_llamaindex.store.protocol import PairStore

_PHANTOM_QUESTIONS = 500


def train_fusion(
    ctx: typer.Context,
    records: options.Records = None,
    out: Annotated[Path | None, typer.Option(help="File for the weights (JSON).")] = None,
    store: options.StoreOfLearned = None,
    data: options.Synthetic = None,
    terms: Annotated[
        int | None,
        typer.Option(
            help="3: the paper's; 4: with question text to image; 6: with the encoders' own "
            "features. Default: 6 where the towers keep these, else 3.",
        ),
    ] = None,
    gated: Annotated[
        bool | None,
        typer.Option(
            "--gated/--no-gated",
            help="Save weights for each question, or do not even try them. Default: measured, "
            "not saved.",
        ),
    ] = None,
    held_out: options.HeldOut = 0.5,
    temperature: Annotated[float, typer.Option(help="Of the loss; above zero.")] = 0.07,
    learn_temperature: Annotated[
        bool, typer.Option(help="Learn it, and give the weights the length of (1, 1, 1).")
    ] = False,
    seed: options.SplitSeed = 0,
    seeds: Annotated[
        int | None,
        typer.Option(min=1, help="With --data phantom: number of draws, in one table."),
    ] = None,
    regime: Annotated[
        Literal["combination", "image", "text"] | None,
        typer.Option(
            help="With --data phantom: what tells which pairs help. Default: the combination; "
            "with --seeds, each in turn."
        ),
    ] = None,
    force: Annotated[
        bool,
        typer.Option("--force", help="Save weights that other patients do not prefer to equal."),
    ] = False,
    picture: options.Picture = None,
    device: options.Device = "auto",
    as_json: options.AsJson = False,
) -> None:
    """Learn how much each similarity counts, and say what that is worth on other patients."""
    from mrrag_llamaindex.commands.learn import fusion_report
    from mrrag_llamaindex.learning.fusion.comparison import learn_and_compare
    from mrrag_llamaindex.learning.fusion.gated_training import GateSettings
    from mrrag_llamaindex.learning.fusion.training import FusionSettings
    from mrrag_llamaindex.mcr.weights import ALL_TERMS, TERMS
    from mrrag_llamaindex.phantom.corpus import REGIMES
    from mrrag_llamaindex.plots import draw_fusion, save

    check_one_source(records, data)
    if data is None and (seeds is not None or regime is not None):
        raise InputError("--seeds and --regime are about --data phantom")
    if seeds is not None and (out or store):
        raise InputError("--seeds measures on several draws and saves no weights: leave out --out")
    if out is None and store is None:
        saving = {"force", *(["gated"] if gated else [])}
        options.refuse_given(ctx, saving, "nothing is saved without --out or --store")
    settings = settings_of(
        FusionSettings, temperature=temperature, learn_temperature=learn_temperature
    )
    comparing: dict[str, Any] = {
        "held_out": held_out,
        "settings": settings,
        "gate": None if gated is False else GateSettings(seed=seed),
    }
    if terms is not None:
        if terms not in (3, 4, 6):
            raise InputError(f"--terms is {terms}; it must be 3, 4 or 6")
        comparing["terms"] = TERMS if terms == 4 else ALL_TERMS[:terms]
        comparing["gate_terms"] = ALL_TERMS[:terms]
    if seeds is not None:
        regimes = REGIMES if regime is None else (regime,)
        pooled = _over_seeds(range(seed, seed + seeds), regimes, device, comparing)
        if picture is not None:
            save(draw_fusion(fusion_report.pooled_dict(pooled, seed, seeds)), picture)
        if as_json:
            console.print_json(fusion_report.pooled_dict(pooled, seed, seeds))
        else:
            fusion_report.print_pooled(pooled, seeds)
        return
    if records is None:
        questions, identity = phantom_candidates(
            seed, device, queries=_PHANTOM_QUESTIONS, regime=regime or "combination"
        )
    else:
        questions, identity = _mined(records)
    if gated is None and any(item.query is None for item in questions):
        console.say("note", "no weights for each question are tried: the records hold no vectors")
        comparing["gate"] = None
    comparison = learn_and_compare(questions, seed=seed, **comparing)
    refused = ""
    if out is not None or store is not None:
        with store_for(store, out=out) as pairs:
            target = pairs if out is None else out
            refused = _save(comparison, target, terms, bool(gated), identity, force)
    if picture is not None:
        save(draw_fusion(comparison.as_dict()), picture)
    if as_json:
        console.print_json(comparison.as_dict())
    else:
        fusion_report.print_comparison(comparison)
    if refused:
        raise InputError(refused)


def _save(
    comparison: FusionComparison,
    target: Path | PairStore | None,
    terms: int | None,
    gated: bool,
    identity: str,
    force: bool,
) -> str:
    """Save the weights; return why not, ``""`` where they are saved."""
    name, weights = _wanted(comparison, terms, gated)
    recall = comparison.table.recall
    if recall[name] <= recall["equal"] and not force:
        return (
            f"not saved: on {comparison.table.n} questions of other patients these weights find a "
            f"right pair first {recall[name]:.3f} of the time, equal ones {recall['equal']:.3f}. "
            "Use equal weights (leave the file out), mine more questions, or save them all the "
            "same with --force"
        )
    if isinstance(target, Path):
        with writing(target):
            weights.save(target, towers_identity=identity)
        return ""
    from mrrag_llamaindex.store.learned_files import FUSION_FILE, keep_learned

    assert target is not None
    target.check_towers(identity)
    keep_learned(target, FUSION_FILE, weights.to_json(towers_identity=identity))
    return ""


def _wanted(comparison: FusionComparison, terms: int | None, gated: bool) -> tuple[str, AnyWeights]:
    """Return the weights to save, and their row in the table."""
    if gated and comparison.gated is not None:
        return "gated", comparison.gated.weights
    if terms != len(HEAD_TERMS):
        return "learned", comparison.learned.weights
    if comparison.four_terms is None:
        raise InputError("these questions have raw similarities as well: save all six (--terms 6)")
    return "four_terms", comparison.four_terms.weights


def _mined(path: Path) -> tuple[list[FusionQuestion], str]:
    from mrrag_llamaindex.learning.fusion.questions import FusionQuestion
    from mrrag_llamaindex.learning.mining.records import read_training_set

    mined = read_training_set(path)
    if not mined.usable:
        raise InputError(f"{path.name} holds no question that there is something to learn from")
    questions = [FusionQuestion.of_record(record) for record in mined.usable]
    return questions, mined.header.towers_identity


def _over_seeds(
    seeds: range, regimes: tuple[Any, ...], device: str, comparing: dict[str, Any]
) -> dict[str, PooledComparison]:
    """Learn and measure on each draw of each regime; a draw is a corpus with its own patients."""
    from mrrag_llamaindex.learning.fusion.comparison import PooledComparison, learn_and_compare

    pooled = {}
    for regime in regimes:
        comparisons = []
        for seed in seeds:
            questions, _ = phantom_candidates(
                seed, device, queries=_PHANTOM_QUESTIONS, regime=regime
            )
            comparisons.append(learn_and_compare(questions, seed=seed, **comparing))
            console.say_progress(f"{regime}: seed {seed}, {len(comparisons)} of {len(seeds)}")
        pooled[regime] = PooledComparison.of(comparisons, seed=seeds[0])
    return pooled
