"""Towers from a table of pairs: ``train-towers``."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from mrrag_llamaindex.commands import console, options
from mrrag_llamaindex.commands.progress import progress_bar
from mrrag_llamaindex.errors import InputError

if TYPE_CHECKING:
    from mrrag_llamaindex.learning.towers.processes import Processes
    from mrrag_llamaindex.learning.towers.settings import Progress
    from mrrag_llamaindex.learning.towers.training_pairs import TrainingPairs


def train_towers(
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
        str, typer.Option(help="Folder or hub id of the image encoder.")
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
        int, typer.Option(min=1, help="Trainings, with seeds from --seed on; the first is kept.")
    ] = 1,
    checkpoint_seconds: Annotated[
        float,
        typer.Option(min=0, help="Between checkpoints; 0 saves after every batch."),
    ] = 0.0,
    copy_backbones: Annotated[
        bool, typer.Option("--copy-backbones", help="heads: put the encoders into the folder too.")
    ] = False,
    fail_on_skipped: options.FailOnSkipped = False,
    device: options.Device = "auto",
    as_json: options.AsJson = False,
) -> None:
    """Train towers on image/report pairs; run it again to go on after an interruption."""
    from mrrag_llamaindex.learning.towers.settings import (
        ContrastiveTraining,
        TrainingRun,
        for_heads,
    )
    from mrrag_llamaindex.learning.towers.training_pairs import training_pairs
    from mrrag_llamaindex.store.ingest.pair_table import read_pairs

    rows = read_pairs(
        pairs, options.renames_of(columns), images, encoding=encoding, delimiter=delimiter
    )
    settings = (
        for_heads(batch_size=batch_size)
        if regime == "heads"
        else ContrastiveTraining(batch_size=batch_size, chunk_size=chunk_size, precision=precision)
    )
    named: dict[str, Any] = {"max_epochs": epochs, "learning_rate": learning_rate}
    settings = replace(
        settings,
        same_report=same_report,
        validation=validation,
        test=test,
        seed=seed,
        **{name: value for name, value in named.items() if value is not None},
    )
    with progress_bar("pairs") as advance:
        table = training_pairs(rows, one_patient_each=one_patient_each, progress=advance)
    run = TrainingRun(
        out,
        checkpoint_seconds=checkpoint_seconds,
        repeats=repeats,
        on_features=partial(say_features, len(table)),
        on_epoch=say_epoch,
        on_costly=say_costly(),
    )
    if regime == "heads":
        from mrrag_llamaindex.learning.towers.recipes import train_heads
        from mrrag_llamaindex.towers.backbones.image import TransformersImageBackbone
        from mrrag_llamaindex.towers.backbones.text import TransformersTextBackbone

        if _started_processes() > 1:
            raise InputError("heads are trained by one process; start it without accelerate")
        image = TransformersImageBackbone.load(image_backbone, size=image_size).to(device)
        text = TransformersTextBackbone.load(text_backbone).to(device)
        results = train_heads(
            *(image, text, table, settings, run),
            dimension=dimension or 128,
            copy_backbones=copy_backbones,
        )
    else:
        from mrrag_llamaindex.learning.towers.recipes import train_whole
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
    if as_json:
        skipped = console.skipped_rows(table.skipped)
        console.print_json({**results, "folder": str(out), "skipped": skipped})
    else:
        print_results(results, table, out)
        console.print_rows(table.skipped, rows.notes)
    console.end_with_skipped(len(table.skipped), as_json=as_json, fail=fail_on_skipped)


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


def say_costly() -> Callable[[float], None]:
    """Return a function that says once, however many trainings there are, that saving is slow."""
    calls = count()

    def say(share: float) -> None:
        if next(calls) == 0:
            console.say_progress(
                f"saving the state takes {share:.0%} of the time so far; "
                "--checkpoint-seconds 60 saves less often, and a kill then loses up to a minute"
            )

    return say


def say_features(pairs: int, kind: str, done: int) -> None:
    """Say how many pairs have features, about once in a thousand."""
    if done in (0, pairs) or done % 1024 < 32:
        console.say_progress(f"{kind} features: {done} of {pairs}")


def say_epoch(seed: int, progress: Progress) -> None:
    """Say how an epoch went that is the best so far, and every tenth."""
    if progress.best or progress.epoch % 10 == 0:
        console.say_progress(
            f"seed {seed}, epoch {progress.epoch}: loss {progress.loss:.3f}, validation recall "
            f"{progress.recall:.3f}{' (best so far)' if progress.best else ''}"
        )


def print_results(results: dict[str, Any], pairs: TrainingPairs, out: Path) -> None:
    """Print the towers, their recall on test patients for every seed, and the rows left out."""
    print(
        f"{results['towers_identity']} in {out}, of {results['pairs']} pairs of "
        f"{results['patients']} patients ({results['different_reports']} different reports)"
    )
    for entry in results["seeds"]:
        print(
            f"seed {entry['seed']}: best of {entry['epochs']} epochs is {entry['best_epoch']}, "
            f"validation recall {entry['validation_recall']:.3f}"
        )
        test = entry["test"]
        if test is None:
            continue
        print(f"  test: {test['pairs']} pairs of {test['patients']} patients, 95% by patient")
        for way in ("image_to_report", "report_to_image"):
            for name, cell in test[way].items():
                print(
                    f"  {way.replace('_', ' '):<16}{name:<10}  {cell['value']:.3f} "
                    f"[{cell['low']:.3f}, {cell['high']:.3f}]  chance {cell['chance']:.3f}"
                )
