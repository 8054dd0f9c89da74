"""From a table to the commands that follow: ``init``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mrrag_llamaindex.commands import console, options
from mrrag_llamaindex.commands.progress import progress_bar
from mrrag_llamaindex.errors import InputError

if TYPE_CHECKING:
    from mrrag_llamaindex.doctor.start.look import TableLook
    from mrrag_llamaindex.doctor.start.plan import Plan
    from mrrag_llamaindex.doctor.start.suggestions import Suggestion

_REASONS_SHOWN = 5


def init(
    table: Annotated[
        Path | None,
        typer.Argument(
            help="Table of pairs (.csv, .tsv, .json, .jsonl, .xlsx); default: the one that lies "
            "here."
        ),
    ] = None,
    questions: Annotated[
        Path | None,
        typer.Option(help="Table of questions with known answers; default: one beside the pairs."),
    ] = None,
    store: Annotated[str, typer.Option(help="Folder or URL of the store to be.")] = "store",
    towers: Annotated[
        str | None,
        typer.Option(help="Default: trained ones here, those in the local cache, phantom."),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Default: one in the local cache that fits, phantom.")
    ] = None,
    columns: options.Columns = "",
    encoding: options.Encoding = None,
    delimiter: options.Delimiter = None,
    images: options.Images = None,
    opened: Annotated[
        int, typer.Option(min=1, help="Images that are decoded, spread over the table.")
    ] = 100,
    device: options.Device = "auto",
    as_json: options.AsJson = False,
) -> None:
    """Look at a table of pairs and at this machine, and print the commands that follow.

    Nothing is asked, loaded or written: columns are told by name and content, images are opened,
    and towers and model are those that are here and fit.
    """
    from mrrag_llamaindex.doctor.start.look import look_at
    from mrrag_llamaindex.doctor.start.plan import plan_for
    from mrrag_llamaindex.doctor.start.tables import find_table

    source = find_table(Path()) if table is None else table
    with progress_bar("images") as advance:
        look = look_at(
            source,
            given=options.renames_of(columns),
            images=images,
            encoding=encoding,
            delimiter=delimiter,
            opened=opened,
            progress=advance,
        )
    plan = plan_for(
        look, questions=questions, store=store, towers=towers, model=model, device=device
    )
    if as_json:
        console.print_json(plan.as_dict())
    else:
        _print(plan)
    if look.problems:
        raise InputError(look.problems[0])


def _print(plan: Plan) -> None:
    look, screen = plan.look, console.screen()

    def line(name: str, text: str) -> None:
        screen.print(f"{name:<13}{text}", soft_wrap=True)

    without = f", {look.without_patient:,} pairs without one" if look.without_patient else ""
    line("table", f"{look.table}: {console.count(look.pairs, 'pair')}, {look.skipped:,} skipped")
    line("patients", f"{look.patients:,}{without}")
    for choice in look.columns:
        line("", f"{choice.role:<11} {choice.column} (by {choice.by}: {choice.why})")
    if look.metadata:
        line("", f"{'metadata':<11} {', '.join(look.metadata)}")
    _print_images(look, line)
    for role, suggestion in (("towers", plan.towers), ("model", plan.model)):
        if suggestion is not None:
            line(role, _suggested(suggestion))
    for note in (*look.notes, *plan.notes):
        line("note", note)
    if plan.steps:
        screen.print("\nWhat follows:\n")
        console.print_steps(plan.steps)


def _print_images(look: TableLook, line: Any) -> None:
    survey = look.images
    if survey is None:
        return
    kinds = ", ".join(f"{name} {number:,}" for name, number in survey.formats.items())
    line(
        "images",
        f"{survey.named:,} files, {survey.missing:,} missing; {survey.readable:,} of "
        f"{survey.opened:,} opened can be read ({kinds or 'none'})",
    )
    reasons = [*survey.unreadable.items(), *look.reasons.items()]
    for reason, number in reasons[:_REASONS_SHOWN]:
        line("", f"{number:,} x {reason}")


def _suggested(suggestion: Suggestion) -> str:
    return f"{suggestion.name}: {suggestion.why} ({suggestion.verdict})"
