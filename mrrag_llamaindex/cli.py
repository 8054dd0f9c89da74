"""``mrrag``: thin commands over the rooms of the package.

Standard output holds the result (with ``--json``: one JSON object and nothing else), standard
error the progress and the notes. Exit 0 on success, 2 on bad input, with one line that names it.
"""

from __future__ import annotations

from typing import Annotated

import typer

from mrrag_llamaindex import __version__
from mrrag_llamaindex.commands import console, evidence, generators
from mrrag_llamaindex.commands.evaluate import eval, noise
from mrrag_llamaindex.commands.learn import calibrate, find_layers, mine, train_fusion, train_towers
from mrrag_llamaindex.commands.options import NOTICE

app = typer.Typer(
    cls=console.OneLineErrors,
    no_args_is_help=True,
    add_completion=False,
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


app.command(epilog="Example: mrrag demo --out demo --seed 2")(evidence.demo)
app.command(
    epilog="Example: mrrag ingest pairs.csv --store store --towers phantom "
    "--columns image=filename,report=notes"
)(evidence.ingest)
app.command(
    epilog="Example: mrrag ask --store store --image cxr.png --model phantom "
    '"Is there a pleural effusion?"'
)(evidence.ask)
app.command(epilog="Example: mrrag doctor path/to/llava-med --quantization int4 --documents 6")(
    generators.doctor
)
app.command(epilog="Example: mrrag convert llava-med-v1.5-mistral-7b llava-med-hf")(
    generators.convert
)
app.command(
    epilog="Example: mrrag mine questions.csv --store store --model phantom --out d_train.jsonl"
)(mine.mine)
app.command(
    epilog="Example: mrrag train-towers pairs.csv --out towers --columns patient_id=subject"
)(train_towers.train_towers)
app.command(epilog="Example: mrrag train-fusion d_train.jsonl --out fusion.json")(
    train_fusion.train_fusion
)
app.command(
    epilog="Example: mrrag calibrate d_train.jsonl --weights fusion_weights.json "
    "--out store/calibration.json"
)(calibrate.calibrate)
app.command(epilog="Example: mrrag find-layers --model phantom --data phantom --out layers")(
    find_layers.find_layers
)
app.command(name="eval", epilog="Example: mrrag eval --data phantom --out run")(eval.evaluate)
app.command(epilog="Example: mrrag noise --data phantom --policies off,ifa,hard-mask")(noise.noise)


def main() -> None:
    """Run the command line."""
    app()


if __name__ == "__main__":
    main()
