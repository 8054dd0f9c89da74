"""Generators before they are used: ``doctor``, ``convert``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import typer

from mrrag_llamaindex import defaults
from mrrag_llamaindex.commands import console, options
from mrrag_llamaindex.commands.progress import progress_bar
from mrrag_llamaindex.errors import InputError, ModelError, TowerError


def doctor(
    ctx: typer.Context,
    model: Annotated[
        str | None,
        typer.Argument(
            help='"phantom", a folder, or a hub id.', show_default=defaults.DEFAULT_MODEL
        ),
    ] = None,
    towers: Annotated[
        str | None,
        typer.Option(help='Towers instead of a model: "phantom", a folder, or a hub id.'),
    ] = None,
    device: options.Device = "auto",
    dtype: Annotated[
        str,
        typer.Option(
            help='"auto" (as stored on a GPU, float32 on a CPU), float32, bfloat16 or float16.'
        ),
    ] = "auto",
    device_map: Annotated[
        str | None, typer.Option(help='Spread over devices: "auto", as in transformers.')
    ] = None,
    quantization: options.Quantization = None,
    documents: Annotated[int, typer.Option(min=0, help="Documents in a prompt.")] = (
        defaults.MAX_DOCUMENTS
    ),
    batch_size: Annotated[
        int, typer.Option(min=1, help="Questions at once.")
    ] = defaults.BATCH_SIZE,
    vision_tower: options.VisionTower = "checkpoint",
    allow_pickle: options.AllowPickle = False,
    engine: options.Engine = "transformers",
    as_json: options.AsJson = False,
) -> None:
    """Say whether a model or towers can be loaded here, and the memory needed; load nothing."""
    if towers is not None:
        if model is not None:
            raise InputError("the doctor looks at one thing at a time: a model, or --towers")
        options.refuse_unread(ctx, ("towers",), "it is about a model, not about --towers")
        _towers(towers, device, as_json=as_json)
        return
    from mrrag_llamaindex.doctor.examine import examine

    diagnosis = examine(
        model or defaults.DEFAULT_MODEL,
        device=device,
        dtype=dtype,
        device_map=device_map,
        quantization=quantization,
        vision_tower=vision_tower,
        allow_pickle=allow_pickle,
        max_documents=documents,
        batch_size=batch_size,
        engine=engine,
    )
    if as_json:
        console.print_json(diagnosis.as_dict())
    else:
        console.print_diagnosis(diagnosis)
    if not diagnosis.loadable:
        raise ModelError(diagnosis.verdict)
    if not as_json:
        typer.echo(diagnosis.verdict)


def _towers(source: str, device: str, *, as_json: bool) -> None:
    from mrrag_llamaindex.doctor.towers import examine_towers

    diagnosis = examine_towers(source, device)
    if as_json:
        console.print_json(diagnosis.as_dict())
    else:
        console.print_towers(diagnosis)
    if not diagnosis.loadable:
        raise TowerError(diagnosis.verdict)
    if not as_json:
        typer.echo(diagnosis.verdict)


def convert(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SRC",
            help="Folder in LLaVA's original layout; for vLLM any model: a folder, a hub id, "
            '"phantom".',
        ),
    ],
    target: Annotated[
        Path, typer.Argument(metavar="DST", help="Folder to write; must not hold anything.")
    ],
    engine: Annotated[
        Literal["transformers", "vllm"],
        typer.Option("--for", help="What is to load it; vllm: vLLM, and transformers as well."),
    ] = "transformers",
    vision_tower: options.VisionTower = "checkpoint",
    allow_pickle: options.AllowPickle = False,
    dtype: Annotated[
        str | None,
        typer.Option(help="float32, bfloat16 or float16; default: as stored."),
    ] = None,
    as_json: options.AsJson = False,
) -> None:
    """Convert a checkpoint of LLaVA's original layout, or any supported one for vLLM."""
    from mrrag_llamaindex.generation.checkpoints.conversion.original import convert_checkpoint
    from mrrag_llamaindex.generation.checkpoints.conversion.vllm import convert_for_vllm

    convert = convert_for_vllm if engine == "vllm" else convert_checkpoint
    with progress_bar("weights", in_bytes=True) as advance:
        checkpoint = convert(
            source,
            target,
            vision_tower=vision_tower,
            allow_pickle=allow_pickle,
            dtype=dtype,
            progress=advance,
        )
    if as_json:
        console.print_json(asdict(checkpoint) | {"folder": str(checkpoint.folder)})
    else:
        console.print_converted(checkpoint)
