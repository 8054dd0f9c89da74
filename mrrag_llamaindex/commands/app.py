"""The commands of ``mrrag``, one row each.

Standard output holds the result (with ``--json``: one JSON object and nothing else), standard
error the progress and the notes. Exit 0 on success, 2 on bad input, with one line that names it,
and 1 where rows were skipped and ``--fail-on-skipped`` was given.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import typer

from mrrag_llamaindex import __version__
from mrrag_llamaindex.commands import console, evidence, generators, ingest, serve, stores
from mrrag_llamaindex.commands.cluster.options import WithAddress
from mrrag_llamaindex.commands.evaluate import eval, noise
from mrrag_llamaindex.commands.learn import calibrate, find_layers, mine, train_fusion, train_towers
from mrrag_llamaindex.commands.options import NOTICE
from mrrag_llamaindex.commands.reports import draft
from mrrag_llamaindex.commands.start.init import init
from mrrag_llamaindex.commands.start.status import status

COMMANDS: dict[str, tuple[Callable[..., None], str]] = {
    "demo": (evidence.demo, "--out demo --seed 2; with a real image: mrrag demo --real"),
    "init": (init, "pairs.csv"),
    "ingest": (
        ingest.ingest,
        "pairs.csv --store store --towers phantom --columns image=filename,report=notes",
    ),
    "status": (status, "store"),
    "verify": (stores.verify, "store"),
    "ask": (
        evidence.ask,
        '--store store --image cxr.png --model phantom "Is there a pleural effusion?"',
    ),
    "draft": (draft.draft, "--store store --image cxr.png --model phantom-describing"),
    "serve": (serve.serve, "--store store --model phantom"),
    "page": (serve.page, "--demo"),
    "doctor": (generators.doctor, "path/to/llava-med --quantization int4 --documents 6"),
    "convert": (generators.convert, "llava-med-v1.5-mistral-7b llava-med-hf"),
    "mine": (mine.mine, "questions.csv --store store --model phantom --out d_train.jsonl"),
    "train-towers": (
        train_towers.train_towers,
        "pairs.csv --out towers --columns patient_id=subject",
    ),
    "train-fusion": (train_fusion.train_fusion, "d_train.jsonl --out fusion.json"),
    "calibrate": (
        calibrate.calibrate,
        "d_train.jsonl --weights fusion_weights.json --out store/calibration.json",
    ),
    "find-layers": (find_layers.find_layers, "--model phantom --data phantom --out layers"),
    "eval": (eval.evaluate, "--data phantom --out run"),
    "noise": (noise.noise, "--data phantom --policies off,ifa,hard-mask"),
}
"""By name: the function, whose docstring is the help, and an example."""

app = typer.Typer(
    cls=console.OneLineErrors,
    no_args_is_help=True,
    rich_markup_mode="rich",
    help=f"MR-RAG: answers about a medical image from scored image/report pairs. {NOTICE}",
)


@app.callback(invoke_without_command=True)
def _main(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        typer.echo(__version__)
        raise typer.Exit


for _name, (_run, _example) in COMMANDS.items():
    app.command(name=_name, cls=WithAddress, epilog=f"Example: mrrag {_name} {_example}")(_run)

_store = typer.Typer(
    no_args_is_help=True, rich_markup_mode="rich", help="Copy a store, or delete from it."
)
for _name, (_run, _example) in stores.STORE.items():
    _epilog = f"Example: mrrag store {_name} {_example}"
    _store.command(name=_name, epilog=_epilog)(_run)
app.add_typer(_store, name="store")
