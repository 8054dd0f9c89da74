"""Every method on the same questions, in one table: ``eval``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import typer

from mrrag_llamaindex import defaults
from mrrag_llamaindex.commands.evaluate.eval_data import (
    phantom_documents,
    phantom_sets,
    read_copy,
    unread,
)
from mrrag_llamaindex.commands.evaluate.eval_report import report, rescore
from mrrag_llamaindex.commands.evaluate.eval_run import load_engine, run_methods
from mrrag_llamaindex.commands.options import (
    AllowPickle,
    AsJson,
    Data,
    Device,
    ImageFolder,
    ModelOfData,
    Quantization,
    QuestionFile,
    ReportFile,
    Root,
    TowersOfData,
    VisionTower,
)
from mrrag_llamaindex.errors import InputError


def evaluate(
    data: Annotated[Data, typer.Option(help="The questions; all but phantom are your own copies.")],
    root: Root = None,
    question_file: QuestionFile = None,
    report_file: ReportFile = None,
    images: ImageFolder = None,
    model: ModelOfData = None,
    towers: TowersOfData = None,
    weights: Annotated[
        Path | None, typer.Option(help="Fusion weights (JSON); without it they are learned.")
    ] = None,
    methods: Annotated[
        str | None, typer.Option(help="Some of them only: naive-rag,mcr,mcr+ifa")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Phantom: seeds of data, pooled.")] = 5,
    questions: Annotated[
        int | None, typer.Option(min=1, help="So many (per seed), drawn by the seed.")
    ] = None,
    documents: Annotated[int | None, typer.Option(min=1, help="K, reports in the prompt.")] = None,
    validation: Annotated[
        float,
        typer.Option(
            min=0.0,
            max=0.9,
            help="Share of the patients to learn and tune on; not "
            "scored. 0: published settings, all questions scored.",
        ),
    ] = 0.3,
    facts: Annotated[
        Path | None,
        typer.Option(help="Finding labels for factmm-rag: csv, pair_id and a column per finding."),
    ] = None,
    predictions: Annotated[
        list[Path] | None,
        typer.Option(help="Answers of another model, one file per row; see --name."),
    ] = None,
    name: Annotated[
        list[str] | None, typer.Option(help="Its name in the table, one for each file.")
    ] = None,
    scoring: Annotated[
        Literal["leading", "cares"], typer.Option(help="How answers are read.")
    ] = "leading",
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for answers, tables and plot; a stopped run goes on from it."),
    ] = None,
    rescored: Annotated[
        Path | None,
        typer.Option(
            "--rescore",
            help="Folder of a finished run: its answers are read by --scoring; no model runs.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of splits and intervals.")] = 0,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer.")] = 32,
    batch_size: Annotated[int, typer.Option(min=1, help="Prompts per forward pass.")] = (
        defaults.BATCH_SIZE
    ),
    quantization: Quantization = None,
    vision_tower: VisionTower = "checkpoint",
    allow_pickle: AllowPickle = False,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Run the ablation and its baselines on one set of questions, tuned on other patients."""
    from mrrag_llamaindex.evaluation.data.parts import pooled_questions
    from mrrag_llamaindex.evaluation.methods.method import chosen_methods
    from mrrag_llamaindex.evaluation.run.predictions_file import read_predictions_file
    from mrrag_llamaindex.evaluation.run.records import HarnessSettings
    from mrrag_llamaindex.mcr.weights_file import load_weights
    from mrrag_llamaindex.towers.loading import load_towers

    if rescored is not None:
        if any((root, question_file, report_file, images, model, towers, weights, predictions)):
            raise InputError("--rescore reads the answers of a run; leave data and models out")
        rescore(data, rescored, methods, scoring=scoring, seed=seed, out=out, as_json=as_json)
        return
    wanted = chosen_methods(methods)
    others = _named(predictions or [], name or [], wanted)
    synthetic = data == "phantom"
    if synthetic and any((root, question_file, report_file, images, facts)):
        raise InputError("--data phantom draws its own studies; leave --root and its files out")
    if not synthetic and (root is None or towers is None):
        raise InputError(f"--data {data} needs --root, the folder of your copy, and --towers")
    count = documents or (phantom_documents() if synthetic else defaults.MAX_DOCUMENTS)
    settings = HarnessSettings(
        methods=wanted,
        documents=count,
        max_new_tokens=min(max_new_tokens, 4) if synthetic else max_new_tokens,
        scoring=scoring,
        seed=seed,
    )
    # Read first: what is wrong with the data is said before a model is loaded.
    places = question_file, report_file, images
    sets = (
        phantom_sets(seeds, questions)
        if synthetic
        else [read_copy(data, root or Path(), places, scoring, facts, questions, seed)]
    )
    encoder = load_towers(towers or defaults.PHANTOM, device=device)
    given = None if weights is None else load_weights(weights, towers_identity=encoder.identity)
    engine, layers = load_engine(
        model or (defaults.PHANTOM if synthetic else defaults.DEFAULT_MODEL),
        documents=max(count, defaults.MAX_DOCUMENTS),
        max_new_tokens=settings.max_new_tokens,
        batch_size=max(batch_size, 32) if synthetic else batch_size,
        device=device,
        quantization=quantization,
        vision_tower=vision_tower,
        allow_pickle=allow_pickle,
    )
    found, parts, unreadable = run_methods(
        sets, encoder, engine, settings, given, out, validation, synthetic
    )
    notes = [*found.notes, layers, *unread(sets)]
    asked = pooled_questions(sets[-1], parts.tests)
    runs = dict(found.predictions)
    problems = [problem for item in sets for problem in item.problems] + unreadable
    for label, path in others:
        runs[label], strangers = read_predictions_file(path, asked, label)
        problems += strangers
    found = replace(found, notes=tuple(notes))
    report(asked.name, runs, found, problems, scoring=scoring, seed=seed, out=out, as_json=as_json)


def _named(files: list[Path], names: list[str], wanted: tuple[str, ...]) -> list[tuple[str, Path]]:
    if len(files) != len(names):
        raise InputError(
            f"{len(files)} --predictions and {len(names)} --name: give one name for each file"
        )
    taken = [name for name in names if name in wanted or names.count(name) > 1]
    if taken:
        raise InputError(f"--name {taken[0]!r} is the name of another row")
    return list(zip(names, files, strict=True))
