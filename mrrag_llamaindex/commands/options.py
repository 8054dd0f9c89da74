"""Options that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

from mrrag_llamaindex.errors import InputError

NOTICE = "Research software, not a medical device."

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
VisionTower = Annotated[
    str,
    typer.Option(
        metavar="checkpoint|clip|PATH",
        help="For the original layout: the checkpoint's own tower, the CLIP that it names, or "
        "the folder of a CLIP model.",
    ),
]
AllowPickle = Annotated[
    bool,
    typer.Option("--allow-pickle", help="Read .bin files, which are pickles."),
]
Device = Annotated[
    str, typer.Option(help='A torch device, or "auto": CUDA where present, else CPU.')
]
Quantization = Annotated[
    str | None,
    typer.Option(
        metavar="int8|int4", help="Weights of the text model in 8 or 4 bits (bitsandbytes)."
    ),
]


def renames_of(columns: str) -> dict[str, str]:
    """Parse ``--columns image=filename,report=notes``; raise `InputError` if it is not so."""
    renames = {}
    for item in filter(None, columns.split(",")):
        name, equals, column = item.partition("=")
        if not equals or not name.strip() or not column.strip():
            raise InputError(f"--columns: {item!r} is not of the form name=column")
        renames[name.strip()] = column.strip()
    return renames
