"""Look after stores: ``verify``, ``store copy``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Annotated

import typer

from mrrag_llamaindex.commands import console, options
from mrrag_llamaindex.commands.progress import progress_bar


def verify(
    store: Annotated[str, typer.Argument(help="Folder of the store, or its URL.")],
    collection: Annotated[str, typer.Option(help="Which of the store's collections.")] = "pairs",
    as_json: options.AsJson = False,
) -> None:
    """Check that a store holds what was written into it: counts, reports, vectors, index."""
    from mrrag_llamaindex.doctor.store_check import verify_store
    from mrrag_llamaindex.store.places import without_password
    from mrrag_llamaindex.store.protocol import PairStore

    with PairStore.open(store, collection=collection) as pairs, progress_bar("pairs") as advance:
        check = verify_store(pairs, advance)
        name = pairs.name
    if as_json:
        console.print_json({"store": without_password(store), **asdict(check)})
        return
    without = f"; {check.unmarked} have no checksum" if check.unmarked else ""
    print(f"{name}: {check.pairs} pairs are as they were written{without}")


def copy(
    source: Annotated[str, typer.Argument(help="Folder or URL of a store.")],
    target: Annotated[str, typer.Argument(help="Of another: made if there is none.")],
    collection: Annotated[str, typer.Option(help="Of the source.")] = "pairs",
    to_collection: Annotated[
        str | None, typer.Option(help="Of the target; default: as the source's.")
    ] = None,
    as_json: options.AsJson = False,
) -> None:
    """Copy all pairs into another store of whatever kind, without embedding; run again to resume.

    Every pair is read back and compared. Learned weights and calibration go along.
    """
    from mrrag_llamaindex.store.copying import copy_store, refuse_one_place, target_schema
    from mrrag_llamaindex.store.protocol import PairStore

    into = to_collection or collection
    if into == collection:
        refuse_one_place(source, target)
    with (
        PairStore.open(source, collection=collection) as pairs,
        PairStore.open_or_create(target, target_schema(pairs), collection=into) as copied,
        progress_bar("pairs") as advance,
    ):
        report = copy_store(
            pairs, copied, lambda doing, done, total: advance(done, total, doing=doing)
        )
        names = pairs.name, copied.name
    if as_json:
        console.print_json({"source": names[0], "target": names[1], **asdict(report)})
        return
    print(
        f"{names[1]} holds all pairs of {names[0]}: {report.copied} copied, {report.unchanged} "
        "were there; every one compared"
    )
    if report.others:
        print(f"{names[1]} holds {report.others} other pairs")
    for name in report.kept:
        print(f"{name} was left: the target has its own, for its other pairs")
    for name in report.learned:
        print(f"{name} went along")
    for name in report.left:
        print(f"{name} was left: the target has no place for it; name it when it is needed")


STORE: dict[str, tuple[Callable[..., None], str]] = {
    "copy": (copy, "store qdrant+http://localhost:6333/chest"),
}
"""The commands of ``mrrag store``."""
