"""Look after a store: ``verify``."""

from __future__ import annotations

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
