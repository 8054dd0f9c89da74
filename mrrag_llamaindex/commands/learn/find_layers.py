"""Critical layers by attention knockout: ``find-layers``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from mrrag_llamaindex import defaults
from mrrag_llamaindex.commands import console, options
from mrrag_llamaindex.commands.learn.inputs import writing
from mrrag_llamaindex.commands.models import ModelOptions
from mrrag_llamaindex.commands.progress import progress_bar
from mrrag_llamaindex.commands.reports.pictures import draw_or_say
from mrrag_llamaindex.errors import InputError

if TYPE_CHECKING:
    from mrrag_llamaindex.learning.layers.search import LayerSearch


def find_layers(
    ctx: typer.Context,
    model: options.Model = defaults.PHANTOM,
    data: Annotated[
        Literal["phantom"] | None,
        typer.Option(help="Synthetic studies, half of the documents irrelevant."),
    ] = None,
    questions: Annotated[
        Path | None,
        typer.Option(
            help="Table, as mrrag mine reads it, of yes/no questions with columns "
            "question_id, image, question, answer, and patient_id, study_id or pair_id."
        ),
    ] = None,
    store: Annotated[
        str | None, typer.Option(help="Folder of the store, or a URL, for the documents.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the profile, and layers.png.")] = Path(
        "mrrag-layers"
    ),
    examples: Annotated[int, typer.Option(min=8, help="Questions asked, at most.")] = 100,
    documents: Annotated[
        int, typer.Option(min=1, help="Documents per question, from a store.")
    ] = defaults.MAX_DOCUMENTS,
    window: Annotated[
        int | None, typer.Option(min=1, help="Layers blocked at once; by default 9 of 32.")
    ] = None,
    rows: Annotated[
        int, typer.Option(min=2, help="Rows per forward pass; fewer take less memory.")
    ] = 16,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    columns: options.ColumnsOfQuestions = "",
    encoding: options.Encoding = None,
    delimiter: options.Delimiter = None,
    images: options.Images = None,
    quantization: options.Quantization = None,
    vision_tower: options.VisionTower = "checkpoint",
    allow_pickle: options.AllowPickle = False,
    adapter: options.Adapter = None,
    merge_adapter: options.MergeAdapter = False,
    picture: options.Picture = None,
    device: options.Device = "auto",
    as_json: options.AsJson = False,
) -> None:
    """Find the layers in which a model's question reads the documents; steering then uses them."""
    synthetic = (questions, store) == (None, None) and (data or model) == defaults.PHANTOM
    if synthetic:
        of_tables = {"documents", "columns", "encoding", "delimiter", "images"}
        options.refuse_given(ctx, of_tables, "synthetic studies have no table and no store")
    from mrrag_llamaindex.commands.learn.layer_examples import (
        PHANTOM_DOCUMENTS,
        phantom_examples,
        table_examples,
    )
    from mrrag_llamaindex.generation.checkpoints.profile_store import found_profile, keep_profile
    from mrrag_llamaindex.generation.engine import LlavaEngine
    from mrrag_llamaindex.learning.layers.search import search_layers
    from mrrag_llamaindex.plots import draw_knockout

    left_out: list[dict[str, Any]] = []
    if synthetic:
        blocked = phantom_examples(examples, seed)
    elif data is not None or questions is None or store is None:
        raise InputError("name --questions and --store, or --data phantom alone")
    else:
        blocked, left_out = table_examples(
            questions,
            store,
            columns,
            images,
            examples,
            documents,
            seed,
            device,
            encoding=encoding,
            delimiter=delimiter,
        )
    loaded = ModelOptions(
        *(model, device, quantization, vision_tower, allow_pickle, adapter, merge_adapter)
    ).load()
    engine = LlavaEngine(loaded, max_documents=max(documents, PHANTOM_DOCUMENTS), max_new_tokens=2)
    with progress_bar("questions") as advance:
        search = search_layers(
            engine, blocked, window=window, rows=rows, seed=seed, advance=advance
        )
    layers, note = search.choice.layers, search.note()
    kept = keep_profile(loaded, layers, note)
    profile = out / "profile.json"
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
        found_profile(loaded, layers, note).write(profile)
    drawn = draw_or_say(lambda: draw_knockout(search.as_dict()), picture, out / "layers.png")
    files = {"profile": str(profile), "kept": str(kept), **drawn}
    if as_json:
        console.print_json({**search.as_dict(), "left_out": left_out, **files})
    else:
        _print(search, left_out, files)


def _single(edge: str) -> bool:
    return edge.startswith("document-")


def _print(search: LayerSearch, left_out: list[dict[str, Any]], files: dict[str, Any]) -> None:
    screen = console.screen()
    edges = list(dict.fromkeys(p.edge for p in search.curve if not _single(p.edge)))
    table = console.plain_table()
    table.add_column("layer", justify="right")
    for edge in edges:
        table.add_column(edge.replace("->", " -> "), justify="right")
    at = {(point.edge, point.layer): point for point in search.curve}
    for layer in range(search.depth):
        points = [at[edge, layer] for edge in edges]
        cells = [f"{p.change:+.1f}% [{p.ci[0]:+.1f}, {p.ci[1]:+.1f}]" for p in points]
        table.add_row(f"{layer}{'*' if layer in search.choice.layers else ''}", *cells)
    screen.print(table)
    lines = [
        f"critical layers (*): {', '.join(map(str, search.choice.layers))}",
        f"{search.choice.in_words()}",
        f"{search.kept} of {search.asked} questions were answered correctly and blocked, in "
        f"windows of {search.window}; {len(left_out)} could not be used",
        f"controls: an empty block changes {search.empty_change:.1f}%, all documents and the image "
        f"blocked {search.full_change:+.1f}%",
        f"{search.seconds['ours']:.1f} s; one full pass per edge, window and question would take "
        f"about {search.seconds['naive']:.1f} s ({search.naive_timed} of {search.naive_passes} "
        "passes timed)",
        f"profile: {files['profile']}, also kept for this model in {files['kept']}",
        *(f"picture: {path}" for path in files["figures"]),
    ]
    for line in lines:
        screen.print(line, soft_wrap=True)
    for item in left_out:
        name = "" if item["question_id"] is None else f" {item['question_id']!r}"
        screen.print(f"  left out{name}: {item['reason']}", soft_wrap=True)
