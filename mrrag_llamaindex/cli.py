"""``mrrag``: thin commands over the rooms of the package.

Standard output holds the result (with ``--json``: one JSON object and nothing else), standard
error the progress and the notes. Exit 0 on success, 2 on bad input, with one line that names it.
"""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import typer

from mrrag_llamaindex import __version__, console, defaults
from mrrag_llamaindex.errors import InputError, ModelError

NOTICE = "Research software, not a medical device."
app = typer.Typer(
    cls=console.OneLineErrors,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    help=f"MR-RAG: answers about a medical image from scored image/report pairs. {NOTICE}",
)

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


@app.callback(invoke_without_command=True)
def _main(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        typer.echo(__version__)
        raise typer.Exit


@app.command(epilog="Example: mrrag demo --out demo --seed 2")
def demo(
    out: Annotated[
        Path, typer.Option(help="Folder for the images, the store and the picture.")
    ] = Path("mrrag-demo"),
    seed: Annotated[
        int,
        typer.Option(min=0, help="Seed of the studies; 3 is one in which steering shows."),
    ] = 3,
    as_json: AsJson = False,
) -> None:
    """Show the whole path on synthetic studies with the small shipped model, offline."""
    from mrrag_llamaindex.phantom.demo import run_demo

    result = run_demo(out, seed=seed, say=console.say_progress)
    if as_json:
        console.print_json(result.as_dict())
    else:
        console.print_demo(result)
        typer.echo(f"\n{NOTICE}")


@app.command(
    epilog="Example: mrrag ingest pairs.csv --store store --towers phantom "
    "--columns image=filename,report=notes"
)
def ingest(
    pairs: Annotated[
        Path,
        typer.Argument(
            help="Table (.csv or .jsonl) with columns pair_id, image, report and optional "
            "patient_id; all others become metadata."
        ),
    ],
    store: Annotated[str, typer.Option(help="Folder of the store, or http://host:port.")],
    towers: Annotated[str, typer.Option(help='"phantom", a folder of towers, or a hub id.')],
    columns: Annotated[
        str, typer.Option(help="Where names differ: image=filename,patient_id=subject")
    ] = "",
    images: Annotated[
        Path | None, typer.Option(help="Folder of the images, if not the table's own.")
    ] = None,
    missing: Annotated[
        Literal["skip", "keep"],
        typer.Option(help="A pair without image or report: skip and list it, or keep it."),
    ] = "skip",
    strict: Annotated[bool, typer.Option(help="Stop at the first row that fails.")] = False,
    replace: Annotated[
        bool, typer.Option(help="Let a row replace a stored pair of another patient.")
    ] = False,
    batch_size: Annotated[int, typer.Option(min=1, max=2000)] = defaults.INGEST_BATCH,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Embed image/report pairs into a store; run it again to resume or to update."""
    from mrrag_llamaindex.integration.ingest import ingest_pairs
    from mrrag_llamaindex.retrieval.pair_table import read_pairs
    from mrrag_llamaindex.retrieval.store import PairStore
    from mrrag_llamaindex.towers.loading import load_towers

    rows = read_pairs(pairs, _renames(columns), images)
    encoder = load_towers(towers, device=device)
    target = PairStore.open_or_create(
        store,
        towers_identity=encoder.identity,
        towers_source=encoder.source,
        dimension=encoder.dimension,
    )
    with console.progress_bar("pairs") as advance:
        report = ingest_pairs(
            rows,
            target,
            encoder,
            batch_size=batch_size,
            missing=missing,
            strict=strict,
            replace=replace,
            progress=advance,
        )
    if as_json:
        console.print_json(console.report_dict(report))
    else:
        console.print_report(report, len(target))
    if report.skipped and not report.added + report.updated:
        first = report.skipped[0]
        raise InputError(
            f"none of the {len(report.skipped)} rows could be used; the first: {first}"
        )


@app.command(
    epilog="Example: mrrag ask --store store --image cxr.png --model phantom "
    '"Is there a pleural effusion?"'
)
def ask(
    question: Annotated[str, typer.Argument(help="What to ask about the image.")],
    store: Annotated[str, typer.Option(help="Folder of the store, or http://host:port.")],
    image: Annotated[Path, typer.Option(help="The query image.")],
    model: Annotated[
        str, typer.Option(help='"phantom", a folder, or a hub id.')
    ] = defaults.DEFAULT_MODEL,
    weights: Annotated[Path | None, typer.Option(help="Fusion weights (JSON).")] = None,
    documents: Annotated[int, typer.Option(min=1, help="Documents to retrieve.")] = (
        defaults.MAX_DOCUMENTS
    ),
    exclude_patient: Annotated[
        list[str] | None, typer.Option(help="Patient whose pairs may not be evidence.")
    ] = None,
    ifa: Annotated[bool, typer.Option(help="Steer attention by the scores.")] = True,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Answer a question about an image from a store of pairs; the store knows its towers."""
    from mrrag_llamaindex.images import load_image
    from mrrag_llamaindex.integration.ask import ask as ask_index
    from mrrag_llamaindex.integration.index import MRRAGIndex
    from mrrag_llamaindex.integration.llm import MRRAGLLaVA
    from mrrag_llamaindex.retrieval.score import FusionWeights
    from mrrag_llamaindex.retrieval.store import Exclusion
    from mrrag_llamaindex.steering.ifa import IFA

    started = time.perf_counter()
    load_image(image, what=f"--image {image}")  # fail before anything slow is loaded
    index = MRRAGIndex.from_store(store, device=device)
    if weights is not None:
        index.weights = FusionWeights.load(weights, towers_identity=index.towers.identity)
    llm = MRRAGLLaVA(model=model, device=device, ifa=IFA() if ifa else None)
    loaded = time.perf_counter()
    asked = ask_index(
        index,
        llm,
        image,
        question,
        similarity_top_k=documents,
        exclude=Exclusion(patient_ids=frozenset(exclude_patient or ())),
    )
    asked.seconds["load"] = loaded - started
    if as_json:
        console.print_json(asked.as_dict())
    else:
        console.print_asked(asked)
        typer.echo(f"\n{NOTICE}")


@app.command(epilog="Example: mrrag doctor path/to/llava-med --quantization int4 --documents 6")
def doctor(
    model: Annotated[
        str, typer.Argument(help='"phantom", a folder, or a hub id.')
    ] = defaults.DEFAULT_MODEL,
    device: Device = "auto",
    dtype: Annotated[
        str,
        typer.Option(
            help='"auto" (as stored on a GPU, float32 on a CPU), float32, bfloat16 or float16.'
        ),
    ] = "auto",
    device_map: Annotated[
        str | None, typer.Option(help='Spread over devices: "auto", as in transformers.')
    ] = None,
    quantization: Annotated[
        str | None, typer.Option(help="int8 or int4, of the text model.")
    ] = None,
    documents: Annotated[int, typer.Option(min=0, help="Documents in a prompt.")] = (
        defaults.MAX_DOCUMENTS
    ),
    batch_size: Annotated[
        int, typer.Option(min=1, help="Questions at once.")
    ] = defaults.BATCH_SIZE,
    vision_tower: VisionTower = "checkpoint",
    allow_pickle: AllowPickle = False,
    as_json: AsJson = False,
) -> None:
    """Say whether a model can be loaded here, and the memory it needs; load nothing."""
    from mrrag_llamaindex.generation.doctor import examine

    found = examine(
        model,
        device=device,
        dtype=dtype,
        device_map=device_map,
        quantization=quantization,
        vision_tower=vision_tower,
        allow_pickle=allow_pickle,
        max_documents=documents,
        batch_size=batch_size,
    )
    if as_json:
        console.print_json(found.as_dict())
    else:
        console.print_diagnosis(found)
    if not found.loadable:
        raise ModelError(found.verdict)
    if not as_json:
        typer.echo(found.verdict)


@app.command(epilog="Example: mrrag convert llava-med-v1.5-mistral-7b llava-med-hf")
def convert(
    source: Annotated[
        Path, typer.Argument(metavar="SRC", help="Folder in LLaVA's original layout.")
    ],
    target: Annotated[
        Path, typer.Argument(metavar="DST", help="Folder to write; must not hold anything.")
    ],
    vision_tower: VisionTower = "checkpoint",
    allow_pickle: AllowPickle = False,
    dtype: Annotated[
        str | None,
        typer.Option(help="float32, bfloat16 or float16; default: as stored."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Convert a checkpoint of LLaVA's original layout into one that transformers loads."""
    from mrrag_llamaindex.generation.convert import convert_checkpoint

    with console.byte_bar("weights") as advance:
        made = convert_checkpoint(
            source,
            target,
            vision_tower=vision_tower,
            allow_pickle=allow_pickle,
            dtype=dtype,
            progress=advance,
        )
    if as_json:
        console.print_json(asdict(made) | {"folder": str(made.folder)})
    else:
        console.print_converted(made)


def _renames(columns: str) -> dict[str, str]:
    """Parse ``image=filename,report=notes``."""
    renames = {}
    for item in filter(None, columns.split(",")):
        name, equals, column = item.partition("=")
        if not equals or not name.strip() or not column.strip():
            raise InputError(f"--columns: {item!r} is not of the form name=column")
        renames[name.strip()] = column.strip()
    return renames


def main() -> None:
    """Run the command line."""
    app()


if __name__ == "__main__":
    main()
