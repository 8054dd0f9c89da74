"""Towers from a table of pairs: ``train-towers``."""

from __future__ import annotations

import os
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from mrrag_llamaindex.commands import console, options
from mrrag_llamaindex.commands.learn import towers_report
from mrrag_llamaindex.commands.progress import progress_bar
from mrrag_llamaindex.errors import InputError

if TYPE_CHECKING:
    from mrrag_llamaindex.learning.towers.processes import Processes


_OF_REGIME = {
    "heads": {"question_column", "hidden", "raw", "final_fit", "dropout", "copy_backbones"},
    "full": {"chunk_size", "precision"},
}


def train_towers(
    ctx: typer.Context,
    pairs: Annotated[
        Path,
        typer.Argument(
            help="Table, as mrrag ingest reads it, with columns pair_id, image, report, patient_id."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder of the towers, for ingest --towers.")],
    regime: Annotated[
        Literal["heads", "full"],
        typer.Option(help="Two heads on frozen encoders, or every weight of a ResNet and a BERT."),
    ] = "heads",
    image_backbone: Annotated[
        str,
        typer.Option(
            help="Folder or hub id of the image encoder; heads: also xrv:NAME, extra xray."
        ),
    ] = "microsoft/resnet-50",
    text_backbone: Annotated[
        str, typer.Option(help="Folder or hub id of the text encoder.")
    ] = "emilyalsentzer/Bio_ClinicalBERT",
    columns: options.Columns = "",
    encoding: options.Encoding = None,
    delimiter: options.Delimiter = None,
    images: options.Images = None,
    one_patient_each: Annotated[
        bool,
        typer.Option(
            "--one-patient-each", help="The table knows no patients: count each pair as one."
        ),
    ] = False,
    image_size: Annotated[
        int | None,
        typer.Option(min=16, help="Pixels on each side; default: the encoder's own, full: 224."),
    ] = None,
    dimension: Annotated[
        int | None, typer.Option(min=1, help="Of the common space; default 128, full: 512.")
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(min=1, help="At most; default 200, full: 30.")
    ] = None,
    batch_size: Annotated[
        int, typer.Option(min=2, help="Pairs that are each other's negatives.")
    ] = 256,
    chunk_size: Annotated[
        int, typer.Option(min=1, help="full: pairs in the device's memory at once.")
    ] = 32,
    learning_rate: Annotated[
        float | None, typer.Option(help="Of AdamW; default 1e-3, full: 5e-5.")
    ] = None,
    precision: Annotated[
        Literal["auto", "float32", "bfloat16"],
        typer.Option(help="full: auto is bfloat16 on CUDA devices that have it, else float32."),
    ] = "auto",
    same_report: Annotated[
        float,
        typer.Option(help="Share of common word pairs from which reports are no negatives."),
    ] = 0.9,
    validation: Annotated[
        float, typer.Option(help="Share of the patients held out for stopping.")
    ] = 0.15,
    test: Annotated[float, typer.Option(help="Share held out for the result; 0: none.")] = 0.15,
    seed: Annotated[int, typer.Option(min=0, help="Of split, fresh weights and batches.")] = 0,
    repeats: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Trainings, with seeds from --seed on. heads: all are kept, as an ensemble; "
            "default 3. full: the best is kept; default 1.",
        ),
    ] = None,
    question_column: Annotated[
        str | None,
        typer.Option(help="heads: column of what may be asked about a pair, e.g. a history."),
    ] = None,
    hidden: Annotated[
        str,
        typer.Option(
            metavar="auto|none|N", help="heads: hidden layer of the image head; auto: validated."
        ),
    ] = "auto",
    raw: Annotated[
        int | None,
        typer.Option(
            min=0, help="heads: numbers of each encoder's own features beside them; 0: none."
        ),
    ] = None,
    final_fit: Annotated[
        bool,
        typer.Option(
            "--final-fit/--no-final-fit",
            help="heads: train on all patients once validation has chosen the epochs.",
        ),
    ] = True,
    dropout: Annotated[float, typer.Option(min=0, max=0.99, help="heads: of features.")] = 0.5,
    temperature: Annotated[
        float | None, typer.Option(help="Of the loss; default .2, full: learned.")
    ] = None,
    patience: Annotated[
        int | None, typer.Option(min=1, help="Epochs without better validation; 20, full: 5.")
    ] = None,
    checkpoint_seconds: Annotated[
        float,
        typer.Option(min=0, help="Between checkpoints; 0 saves after every batch."),
    ] = 0.0,
    copy_backbones: Annotated[
        bool, typer.Option("--copy-backbones", help="heads: put the encoders into the folder too.")
    ] = False,
    fail_on_skipped: options.FailOnSkipped = False,
    picture: options.Picture = None,
    device: options.Device = "auto",
    as_json: options.AsJson = False,
) -> None:
    """Train towers on image/report pairs; run it again to go on after an interruption."""
    from mrrag_llamaindex.defaults import ENSEMBLE
    from mrrag_llamaindex.learning.towers.settings import (
        ContrastiveTraining,
        TrainingRun,
        for_heads,
    )
    from mrrag_llamaindex.learning.towers.training_pairs import training_pairs
    from mrrag_llamaindex.plots import draw_towers, save
    from mrrag_llamaindex.store.ingest.pair_table import read_pairs

    for other, names in _OF_REGIME.items():
        if other != regime:
            options.refuse_given(ctx, names, f"it belongs to --regime {other}")
    if regime == "heads" and _started_processes() > 1:
        raise InputError("heads are trained by one process; start it without accelerate")
    units = _hidden(hidden)
    rows = read_pairs(
        pairs, options.renames_of(columns), images, encoding=encoding, delimiter=delimiter
    )
    settings = (
        for_heads(batch_size=batch_size)
        if regime == "heads"
        else ContrastiveTraining(batch_size=batch_size, chunk_size=chunk_size, precision=precision)
    )
    named: dict[str, Any] = {
        "max_epochs": epochs,
        "learning_rate": learning_rate,
        "temperature": temperature,
        "patience": patience,
    }
    settings = replace(
        settings,
        same_report=same_report,
        validation=validation,
        test=test,
        seed=seed,
        **{name: value for name, value in named.items() if value is not None},
    )
    with progress_bar("pairs") as advance:
        table = training_pairs(
            rows,
            one_patient_each=one_patient_each,
            question_column=question_column,
            progress=advance,
        )
    run = TrainingRun(
        out,
        checkpoint_seconds=checkpoint_seconds,
        repeats=repeats or (ENSEMBLE if regime == "heads" else 1),
        on_features=partial(towers_report.say_features, len(table)),
        on_epoch=towers_report.say_epoch,
        on_costly=towers_report.say_costly(),
    )
    if regime == "heads":
        from mrrag_llamaindex.learning.towers.heads.recipe import HeadShape, train_heads
        from mrrag_llamaindex.towers.backbones.loading import load_image_backbone
        from mrrag_llamaindex.towers.backbones.text import TransformersTextBackbone

        image = load_image_backbone(image_backbone, image_size)
        image.to(device)
        text = TransformersTextBackbone.load(text_backbone).to(device)
        shape = HeadShape(dimension or 128, units, dropout, raw, final_fit)
        results = train_heads(
            *(image, text, table, settings, run), shape, copy_backbones=copy_backbones
        )
    else:
        from mrrag_llamaindex.learning.towers.whole import train_whole
        from mrrag_llamaindex.towers.kinds.resnet_bert import ResNetBertTower

        processes, device = _processes(device)

        def towers_of(seed: int) -> ResNetBertTower:
            return ResNetBertTower.from_pretrained(
                *(image_backbone, text_backbone, dimension or 512),
                image_size=image_size or 224,
                seed=seed,
                device=device,
            )

        results = train_whole(towers_of, table, settings, run, processes=processes)
        if not processes.main:
            return
    if picture is not None:
        save(draw_towers(results), picture)
    if as_json:
        skipped = console.skipped_rows(table.skipped)
        console.print_json({**results, "folder": str(out), "skipped": skipped})
    else:
        towers_report.print_results(results, table, out)
        console.print_rows(table.skipped, rows.notes)
    console.end_with_skipped(len(table.skipped), as_json=as_json, fail=fail_on_skipped)


def _hidden(text: str) -> Any:
    if text in ("auto", "none"):
        return None if text == "none" else text
    if not text.isdecimal() or int(text) < 1:
        raise InputError(f"--hidden is {text!r}; it must be auto, none or a number of units")
    return int(text)


def _processes(device: str) -> tuple[Processes, str]:
    """Return the processes that train together, and the device of this one."""
    from mrrag_llamaindex.learning.towers.processes import Processes

    if _started_processes() == 1:
        return Processes(None), device
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=device == "cpu")
    return Processes(accelerator), str(accelerator.device)


def _started_processes() -> int:
    """Count the processes that ``accelerate launch`` or ``torchrun`` started."""
    return int(os.environ.get("WORLD_SIZE", "1"))
