"""Train the shipped weights: ``python -m tools.phantom_training.train --out weights``.

About half an hour on two idle cores. The result depends on the seed, and in its last digits on
the torch release and the processor.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from tools.phantom_training.critical_layers import best_layers
from tools.phantom_training.model import save_llava
from tools.phantom_training.train_llava import train_llava
from tools.phantom_training.train_towers import train_towers


def _log(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main(
    out: Annotated[Path, typer.Option(help="Folder to write llava/ and towers/ into.")],
    seed: Annotated[int, typer.Option(min=0)] = 0,
    llava: Annotated[bool, typer.Option(help="Train the generator.")] = True,
    towers: Annotated[bool, typer.Option(help="Train the towers.")] = True,
) -> None:
    """Train the synthetic towers and generator from scratch."""
    if llava:
        folder = out / "llava"
        model = train_llava(seed, log=_log)
        save_llava(model, folder, critical_layers=[0], note="not yet found")
        layers, note = best_layers(str(folder), seed=seed)
        _log(note)
        save_llava(model, folder, critical_layers=layers, note=note)
    if towers:
        train_towers(seed, log=_log).save(out / "towers")


if __name__ == "__main__":
    typer.run(main)
