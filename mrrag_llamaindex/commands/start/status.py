"""What a store holds and lacks: ``status``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from mrrag_llamaindex import defaults
from mrrag_llamaindex.commands import console, options
from mrrag_llamaindex.commands.progress import progress_bar

if TYPE_CHECKING:
    from mrrag_llamaindex.doctor.start.status import Learned, StoreStatus


def status(
    store: Annotated[str, typer.Argument(help="Folder of the store, or its URL.")],
    collection: Annotated[str, typer.Option(help="Which of the store's collections.")] = "pairs",
    model: Annotated[
        str, typer.Option(help="Whose critical layers are looked for; it is not loaded.")
    ] = defaults.PHANTOM,
    patients: Annotated[
        bool,
        typer.Option(help="Count patients, by a look at every pair: minutes for millions."),
    ] = True,
    as_json: options.AsJson = False,
) -> None:
    """Say what a store holds, what was learned for it, and what is missing next."""
    from mrrag_llamaindex.doctor.start.status import status_of
    from mrrag_llamaindex.store.protocol import PairStore

    with PairStore.open(store, collection=collection) as pairs, progress_bar("pairs") as advance:
        found = status_of(
            pairs,
            store,
            collection=collection,
            model=model,
            count_patients=patients,
            progress=advance,
        )
    if as_json:
        console.print_json(found.as_dict())
    else:
        _print(found)


def _print(found: StoreStatus) -> None:
    screen = console.screen()

    def line(name: str, text: str) -> None:
        screen.print(f"{name:<13}{text}", soft_wrap=True)

    size = "" if found.bytes is None else f", {found.bytes / 1e6:,.1f} MB on disk"
    line("store", f"{found.store} ({found.kind}, collection {found.collection}{size})")
    line("pairs", f"{found.pairs:,}")
    if found.patients is not None:
        without = f", {found.without_patient:,} pairs without one" if found.without_patient else ""
        line("patients", f"{found.patients:,}{without}")
    here = "" if found.towers_here else ", not here"
    line("towers", f"{found.towers} ({found.towers_identity}; {found.dimension} dimensions){here}")
    line("weights", _learned(found.weights, "equal"))
    line("calibration", _learned(found.calibration, "none"))
    layers = ", ".join(map(str, found.model.layers))
    known = f"layers {layers}, {found.model.state}" if layers else "no critical layers are known"
    line("model", f"{found.model.model}: {known}")
    if found.next:
        screen.print("\nWhat is missing, or comes next:\n")
        console.print_steps(found.next)


def _learned(found: Learned, absent: str) -> str:
    if found.state == "absent":
        return absent
    if found.state == "unusable":
        return f"unusable: {found.problem}"
    values = ", ".join(f"{name} {value:.3f}" for name, value in (found.values or {}).items())
    return f"learned ({found.kind}{': ' * bool(values)}{values})"
