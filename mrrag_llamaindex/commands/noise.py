"""Does noise hurt, and which policy wins back what it costs: ``noise``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from mrrag_llamaindex import console, defaults
from mrrag_llamaindex.commands.options import NOTICE, AsJson, Device
from mrrag_llamaindex.errors import InputError, MRRAGError

if TYPE_CHECKING:
    from mrrag_llamaindex.evaluation.noise_report import NoiseReport
    from mrrag_llamaindex.phantom.noise_trials import NoiseTrials

_POLICIES = "off,ifa,hard-mask,uniform,pasta,pai"
_LAST_SEED = 999


def noise(
    data: Annotated[
        Literal["phantom"], typer.Option(help="Synthetic studies, whose relevance is known.")
    ] = "phantom",
    documents: Annotated[
        int, typer.Option(min=2, help="Documents in each prompt; an even number.")
    ] = 4,
    seed: Annotated[int, typer.Option(min=0, max=_LAST_SEED, help="Of the studies.")] = 0,
    count: Annotated[int, typer.Option(min=2, help="Questions at each level of noise.")] = 300,
    policies: Annotated[
        str, typer.Option(help="Which to compare; off is always among them.")
    ] = _POLICIES,
    scores: Annotated[
        str, typer.Option(help="Whose relevance steers: the truth, MCR's own scores, or both.")
    ] = "true,mcr",
    model: Annotated[str, typer.Option(help='"phantom", or a folder.')] = defaults.PHANTOM,
    towers: Annotated[str, typer.Option(help='"phantom", or a folder.')] = defaults.PHANTOM,
    out: Annotated[Path, typer.Option(help="Folder for the figures.")] = Path("mrrag-noise"),
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Measure accuracy, and attention to irrelevant documents, against how many there are."""
    names, kinds = _chosen(policies, scores, documents)
    report = _measure(names, kinds, documents, seed, count, model, towers, device)
    figures: list[Path] = []
    try:
        figures = report.draw(out)
    except InputError:
        raise
    except MRRAGError as error:  # without matplotlib the numbers still stand
        console.say("note", f"no figure: {error}")
    if as_json:
        console.print_json(report.as_dict(figures))
    else:
        _print(report)
        for path in figures[:1]:
            print(f"\nfigure       {path} (and {len(figures) - 1} more beside it)")
        typer.echo(f"\nSynthetic studies. {NOTICE}")


def _chosen(policies: str, scores: str, documents: int) -> tuple[list[str], list[Any]]:
    known = _POLICIES.split(",")
    names = [name.strip() for name in policies.split(",") if name.strip()]
    for name in names:
        if name not in known:
            raise InputError(f"--policies: {name!r} is not one of {', '.join(known)}")
    kinds = [name.strip() for name in scores.split(",") if name.strip()]
    for name in kinds:
        if name not in ("true", "mcr"):
            raise InputError(f"--scores: {name!r} is neither 'true' nor 'mcr'")
    if not kinds:
        raise InputError("--scores names neither 'true' nor 'mcr'")
    if documents % 2:
        raise InputError(f"--documents {documents} is odd, so that no half of them is noise")
    return list(dict.fromkeys(["off", *names])), list(dict.fromkeys(kinds))


def _measure(
    names: list[str],
    kinds: list[Any],
    documents: int,
    seed: int,
    count: int,
    model: str,
    towers: str,
    device: str,
) -> NoiseReport:
    from mrrag_llamaindex.evaluation.noise import run_noise
    from mrrag_llamaindex.evaluation.noise_report import NoiseReport
    from mrrag_llamaindex.evaluation.noise_tuning import tune
    from mrrag_llamaindex.evaluation.prefix_sweep import PrefixSweep
    from mrrag_llamaindex.generation.engine import LlavaEngine
    from mrrag_llamaindex.generation.loading import load_model
    from mrrag_llamaindex.phantom.noise_trials import (
        FUSION,
        VALIDATION,
        draw_noise_trials,
        learn_weights,
    )
    from mrrag_llamaindex.towers.loading import load_towers

    loaded = load_model(model, device=device, backend="eager")
    sweep = PrefixSweep(LlavaEngine(loaded, max_documents=documents, max_new_tokens=2))
    encoders, weights, fusion = None, None, None
    if "mcr" in kinds:
        encoders = load_towers(towers, device=device)
        console.say_progress(f"learning MCR's weights on other patients (seed {FUSION + seed})")
        weights = learn_weights(FUSION + seed, encoders).weights
        fusion = {
            "seed": FUSION + seed,
            "weights": weights.as_dict(),
            "towers": encoders.source,
            "labels": "the phantom's truth, as in mrrag train-fusion --data phantom",
        }

    def draw(first: int, number: int) -> NoiseTrials:
        return draw_noise_trials(
            first, number, documents=documents, towers=encoders, weights=weights
        )

    console.say_progress(f"choosing settings on other patients (seed {VALIDATION + seed})")
    drawn = {
        "validation": draw(VALIDATION + seed, max(1, count // 2)),
        "measured": draw(seed, count),
    }
    for name, trials in drawn.items():
        if trials.left_out:
            console.say(
                "note", f"{trials.left_out} {name} questions have too few documents: left out"
            )
    validation = drawn["validation"].questions
    tuned = tune(sweep, validation, names, kinds)
    console.say_progress("measuring")
    with console.progress_bar("levels of noise") as advance:
        result = run_noise(
            sweep,
            drawn["measured"].questions,
            [item.contestant for item in tuned],
            layers=loaded.critical_layers,
            seed=seed,
            advance=lambda done, total: advance(done),
        )
    return NoiseReport(
        result,
        tuple(tuned),
        {"seed": VALIDATION + seed, "n": len(validation)},
        fusion,
    )


def _print(report: NoiseReport) -> None:
    result = report.result
    print(
        f"{len(result.owners)} synthetic questions (seed {result.seed}), {result.documents} "
        "documents each in shuffled places; accuracy with 95% interval by patient, and the share "
        f"of document attention on irrelevant documents (question rows, layers "
        f"{list(result.layers)}, mean over heads)"
    )
    points = report.points()
    for adversarial in report.kinds():
        print(f"\n{'contradicting' if adversarial else 'irrelevant'} documents")
        print(f"  {'policy':<10} {'scores':<7} {'noise':>5}  {'accuracy':<22} attention")
        for point in points:
            if point["adversarial"] == adversarial:
                share = point["noise_attention"]
                print(
                    f"  {point['policy']:<10} {point['scores']:<7} {point['noise']:>5.2f}  "
                    f"{point['accuracy']:.3f} {_interval(point['ci']):<16} "
                    f"{'-' if share is None else format(share, '.3f')}"
                )
    print()
    for lost in report.losses():
        what = "contradicting" if lost["adversarial"] else "irrelevant"
        print(
            f"plain RAG loses {100 * lost['loss']:.1f} points "
            f"{_interval(lost['ci'], 100, 1)} when half of the documents are {what}; won back:"
        )
        for row in report.recovered():
            if row["adversarial"] == lost["adversarial"]:
                share = row["recovered"]
                won = "undefined" if share is None else f"{100 * share:.0f}%"
                print(
                    f"  {row['policy']:<10} {row['scores']:<7} {won:>6} "
                    f"{_interval(row['ci'], 100, 0)}"
                )
    print(
        f"\nsettings chosen on {report.validation['n']} validation questions (seed "
        f"{report.validation['seed']}) at half noise:"
    )
    for row in report.settings():
        print(
            f"  {row['policy']:<10} {row['scores']:<7} {row['value']:g}, layers {row['layers']}: "
            f"{row['accuracy']:.3f} (off {row['off']:.3f}; {row['tried']} settings tried)"
        )
    if report.fusion is not None:
        weights = report.fusion["weights"].items()
        given = ", ".join(f"{name} {value:.2f}" for name, value in weights)
        print(f"MCR's weights, learned on other patients (seed {report.fusion['seed']}): {given}")


def _interval(ends: tuple[float, float] | None, scale: float = 1, digits: int = 3) -> str:
    if ends is None:
        return "[no interval]"
    return "[" + ", ".join(f"{scale * end:.{digits}f}" for end in ends) + "]"
