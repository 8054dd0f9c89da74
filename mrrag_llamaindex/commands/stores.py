"""Look after stores: ``verify``, ``store copy``, ``store delete``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from mrrag_llamaindex.commands import console, options
from mrrag_llamaindex.commands.boundary import plain
from mrrag_llamaindex.commands.progress import progress_bar
from mrrag_llamaindex.errors import InputError

if TYPE_CHECKING:
    from mrrag_llamaindex.store.protocol import PairStore

_BATCH = 500


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


def delete(
    store: Annotated[str, typer.Argument(help="Folder or URL of a store.")],
    patient: Annotated[
        list[str] | None, typer.Option(help="Patient whose pairs are deleted; again for another.")
    ] = None,
    pair: Annotated[
        list[str] | None, typer.Option(help="Id of a pair that is deleted; again for another.")
    ] = None,
    collection: Annotated[str, typer.Option(help="Which of the store's collections.")] = "pairs",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say which pairs these are; delete nothing.")
    ] = False,
    as_json: options.AsJson = False,
) -> None:
    """Delete the pairs of a patient, or pairs by their ids.

    Of a Chroma folder, the default, their reports leave the disk; other stores free them by rules
    of their own. A patient or an id that is not in the store is an error: nothing is deleted then.
    """
    from mrrag_llamaindex.store.places import require_kept, without_password
    from mrrag_llamaindex.store.protocol import PairStore

    if not (patient or pair):
        raise InputError("nothing to delete is named: --patient ID, or --pair ID")
    require_kept(store)
    with PairStore.open(store, collection=collection) as pairs:
        chosen = _of(pairs, patient or (), pair or ())
        if not dry_run:
            pairs.delete(chosen)
        name, left = pairs.name, len(pairs)
    if as_json:
        console.print_json(
            {
                "store": without_password(store),
                "pair_ids": chosen,
                "deleted": 0 if dry_run else len(chosen),
                "pairs": left,
            }
        )
        return
    if dry_run:
        for pair_id in chosen:
            print(plain(pair_id))
        print(f"{name}: {console.count(len(chosen), 'pair')} would be deleted, of {left}")
        return
    print(f"{name}: {console.count(len(chosen), 'pair')} deleted, {left} left")
    console.say("note", "an ingest of a table that still has their rows stores them again")


def _of(store: PairStore, patients: Sequence[str], pair_ids: Sequence[str]) -> list[str]:
    """Return the ids of the patients' pairs, and those that are named, in the store's order."""
    everything = store.pair_ids()
    chosen, seen = set(pair_ids), set()
    if missing := sorted(chosen.difference(everything)):
        raise InputError(f"{store.name} holds no pair {missing[0]!r}; nothing was deleted")
    for start in range(0, len(everything) if patients else 0, _BATCH):
        known = store.fingerprints(everything[start : start + _BATCH])
        for pair_id, fingerprint in known.items():
            if fingerprint.patient_id in patients:
                chosen.add(pair_id)
                seen.add(fingerprint.patient_id)
    if missing := sorted(set(patients).difference(seen)):
        raise InputError(
            f"{store.name} holds no pair of patient {missing[0]!r}; nothing was deleted"
        )
    return [pair_id for pair_id in everything if pair_id in chosen]


STORE: dict[str, tuple[Callable[..., None], str]] = {
    "copy": (copy, "store qdrant+http://localhost:6333/chest"),
    "delete": (delete, "store --patient patient-1"),
}
"""The commands of ``mrrag store``."""
