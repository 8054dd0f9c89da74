"""Options that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

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
