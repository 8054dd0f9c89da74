"""Does noise hurt, and which policy wins back what it costs: ``noise``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mrrag_llamaindex import defaults
from mrrag_llamaindex.commands import console, options
from mrrag_llamaindex.commands.cluster import options as cluster
from mrrag_llamaindex.commands.models import ModelOptions
from mrrag_llamaindex.commands.reports.pictures import draw_or_say
from mrrag_llamaindex.errors import InputError
from mrrag_llamaindex.steering.policies.registry import OFF, POLICIES

if TYPE_CHECKING:
    from mrrag_llamaindex.commands.evaluate.noise_data import DataOptions

_POLICIES = (OFF, *POLICIES)
_LAST_SEED = 999
_VALIDATION = 0.3
_PHANTOM_BATCH = 64  # what prompts of 65 tokens fill a core with


def noise(
    data: Annotated[
        options.Data,
        typer.Option(help="Synthetic studies, whose relevance is known, or your own copy."),
    ] = "phantom",
    root: options.Root = None,
    question_file: options.QuestionFile = None,
    report_file: options.ReportFile = None,
    images: options.ImageFolder = None,
    facts: Annotated[
        Path | None,
        typer.Option(
            help="Finding labels, which say what is relevant: csv, pair_id and a column per "
            "finding. Must be named for data."
        ),
    ] = None,
    question_facts: Annotated[
        Path | None,
        typer.Option(
            help="Labels of the questions' own reports, where these are not among the pairs: csv, "
            "question_id and the same findings."
        ),
    ] = None,
    model: options.ModelOfData = None,
    towers: options.TowersOfData = None,
    weights: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|equal",
            help="Data: fusion weights of MCR's scores (JSON), or equal ones. Without it only the "
            "labels' relevance steers.",
        ),
    ] = None,
    documents: Annotated[
        int, typer.Option(min=2, help="Documents in each prompt; an even number.")
    ] = 4,
    count: Annotated[
        int,
        typer.Option(
            *("--count", "--questions"),
            min=2,
            help="Questions at each level of noise (data: approximately).",
        ),
    ] = 300,
    policies: Annotated[
        str, typer.Option(help="Which to compare; off is always among them.")
    ] = ",".join(_POLICIES),
    scores: Annotated[
        str | None,
        typer.Option(
            help="Whose relevance steers: the truth (data: the labels), MCR's own scores, or both. "
            "By default both; for data without --weights the labels alone."
        ),
    ] = None,
    validation: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            max=0.9,
            help="Data: share of the patients to choose settings on, 0.3 by default; not "
            "measured. 0: published settings, all measured.",
        ),
    ] = None,
    seed: Annotated[
        int, typer.Option(min=0, max=_LAST_SEED, help="Of studies, draws and intervals.")
    ] = 0,
    out: Annotated[Path, typer.Option(help="Folder for noise.png.")] = Path("mrrag-noise"),
    picture: options.Picture = None,
    batch_size: Annotated[
        int | None,
        typer.Option(
            min=1, help="Prompts per forward pass; by default 8, of the phantom's studies 64."
        ),
    ] = None,
    quantization: options.Quantization = None,
    vision_tower: options.VisionTower = "checkpoint",
    allow_pickle: options.AllowPickle = False,
    adapter: options.Adapter = None,
    merge_adapter: options.MergeAdapter = False,
    device: options.Device = "auto",
    ray: cluster.Ray = None,
    workers: cluster.Workers = None,
    gpus_per_worker: cluster.GPUsPerWorker = None,
    as_json: options.AsJson = False,
) -> None:
    """Measure accuracy, and attention to irrelevant documents, against how many there are."""
    from mrrag_llamaindex.commands.evaluate.noise_data import data_noise
    from mrrag_llamaindex.commands.evaluate.noise_print import print_noise
    from mrrag_llamaindex.commands.evaluate.noise_study import NoiseOptions, phantom_noise
    from mrrag_llamaindex.plots import draw_noise

    synthetic = data == defaults.PHANTOM
    given = {
        "root": root,
        "question_file": question_file,
        "report_file": report_file,
        "images": images,
        "facts": facts,
        "question_facts": question_facts,
        "weights": weights,
        "validation": validation,
    }
    if synthetic:
        _none_of(given)
    where = None if synthetic else _where(data, given, towers)
    names = _policies(policies)
    if documents % 2:
        raise InputError(f"--documents {documents} is odd, so that no half of them is noise")
    kinds = _scores(scores, synthetic, weights)
    study = NoiseOptions(
        policies=names,
        scores=kinds,
        documents=documents,
        seed=seed,
        count=count,
        towers=towers or defaults.PHANTOM,
        model=ModelOptions(
            model or (defaults.PHANTOM if synthetic else defaults.DEFAULT_MODEL),
            device,
            quantization,
            vision_tower,
            allow_pickle,
            adapter,
            merge_adapter,
        ),
        batch_size=batch_size or (_PHANTOM_BATCH if synthetic else defaults.BATCH_SIZE),
        ray=cluster.RayOptions(ray, workers, gpus_per_worker),
        out=out,
    )
    report = phantom_noise(study) if where is None else data_noise(study, where)
    value = report.as_dict()
    drawn = draw_or_say(lambda: draw_noise(value), picture, out / "noise.png")
    if as_json:
        console.print_json({**value, **drawn})
    else:
        print_noise(report)
        for path in drawn["figures"]:
            print(f"\n{'figure':<13}{path}")
        typer.echo(f"\n{'Synthetic studies. ' if synthetic else ''}{options.NOTICE}")


def _none_of(given: dict[str, Any]) -> None:
    named = [f"--{name}".replace("_", "-") for name, value in given.items() if value is not None]
    if named:
        raise InputError(
            f"--data phantom draws its own studies and learns on others; leave {', '.join(named)} "
            "out, or name your data with --data"
        )


def _policies(policies: str) -> tuple[str, ...]:
    names = [name.strip() for name in policies.split(",") if name.strip()]
    for name in names:
        if name not in _POLICIES:
            raise InputError(f"--policies: {name!r} is not one of {', '.join(_POLICIES)}")
    return tuple(dict.fromkeys([OFF, *names]))


def _scores(scores: str | None, synthetic: bool, weights: str | None) -> tuple[Any, ...]:
    has_weights = synthetic or weights is not None
    if scores is None:
        if not has_weights:
            console.say(
                "note",
                "only the labels' relevance steers; for MCR's scores, too, name weights that "
                "mrrag train-fusion learned (--weights FILE), or --weights equal",
            )
        return ("true", "mcr") if has_weights else ("true",)
    kinds = [name.strip() for name in scores.split(",") if name.strip()]
    for name in kinds:
        if name not in ("true", "mcr"):
            raise InputError(f"--scores: {name!r} is neither 'true' nor 'mcr'")
    if not kinds:
        raise InputError("--scores names neither 'true' nor 'mcr'")
    if "mcr" in kinds and not has_weights:
        raise InputError(
            "--scores mcr needs the weights of MCR's scores: --weights FILE, learned by mrrag "
            "train-fusion on other questions, or --weights equal"
        )
    if weights is not None and "mcr" not in kinds:
        raise InputError(f"--scores {scores} does not use --weights; add mcr, or leave them out")
    return tuple(dict.fromkeys(kinds))


def _where(data: str, given: dict[str, Any], towers: str | None) -> DataOptions:
    from mrrag_llamaindex.commands.evaluate.data import check_copy
    from mrrag_llamaindex.commands.evaluate.noise_data import DataOptions

    check_copy(data, given["root"], towers)
    if given["facts"] is None:
        raise InputError(
            f"--data {data} needs --facts, a csv with a column pair_id and one for each finding "
            "(1, 0, -1 or nothing, as CheXpert and CheXbert label reports): a document counts as "
            "relevant if its labels agree with those of the question's own report, and nothing "
            "else in the data says what is relevant"
        )
    share = _VALIDATION if given["validation"] is None else given["validation"]
    return DataOptions(**{**given, "data": data, "validation": share})
