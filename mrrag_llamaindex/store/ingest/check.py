"""What an ingest would do, without doing it: everything is read, nothing is stored."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mrrag_llamaindex import defaults
from mrrag_llamaindex.errors import InputError
from mrrag_llamaindex.images.options import ReadingOptions
from mrrag_llamaindex.store.ingest.admission import (
    Admission,
    Missing,
    batches,
    notes_of,
    require_patient,
)
from mrrag_llamaindex.store.pair import Pair, Skipped

if TYPE_CHECKING:
    from PIL import Image

    from mrrag_llamaindex.store.protocol import PairStore


@dataclass(frozen=True)
class CheckReport:
    """What a check found.

    Parameters
    ----------
    usable
        Pairs that would be stored.
    skipped
        Rows that would not, in order, with the reasons.
    notes
        As in `IngestReport`.
    seconds
        Wall time.
    """

    usable: int
    skipped: tuple[Skipped, ...]
    notes: tuple[str, ...]
    seconds: float


def check_pairs(
    pairs: Iterable[Pair | Skipped],
    *,
    missing: Missing = "skip",
    replace: bool = False,
    reading: ReadingOptions | None = None,
    store: PairStore | None = None,
    on_image: Callable[[Pair, Image.Image], None] | None = None,
    progress: Callable[[int], None] | None = None,
) -> CheckReport:
    """Read all pairs and their images as `ingest_pairs` would; embed and store nothing.

    What only towers can find out (a vector that is not finite) is not checked.

    Parameters
    ----------
    pairs, missing, replace, reading, progress
        As in `ingest_pairs`.
    store
        Whose patients the pairs are compared with.
    on_image
        Called with each pair that has an image, and the image as it is read.

    Raises
    ------
    InputError
        If `pairs` does.
    """
    admission = Admission(missing)
    reading = reading or ReadingOptions()
    start = time.perf_counter()
    skipped: list[Skipped] = []
    done = usable = 0
    for batch in batches(pairs, defaults.INGEST_BATCH):
        known = _stored(batch, store) if store is not None and not replace else {}
        for place, item in enumerate(batch, start=done + 1):
            number = item.row or place
            if isinstance(item, Skipped):
                skipped.append(Skipped(number, item.pair_id, item.reason))
                continue
            try:
                image = _usable_image(admission, number, item, reading)
                if item.pair_id in known:
                    raise InputError(known[item.pair_id])
            except InputError as error:
                skipped.append(Skipped(number, item.pair_id, str(error)))
                continue
            usable += 1
            if image is not None and on_image is not None:
                on_image(item, image)
        done += len(batch)
        if progress is not None:
            progress(done)
    rows = tuple(sorted(skipped, key=lambda item: item.row))
    return CheckReport(usable, rows, notes_of(pairs), time.perf_counter() - start)


def skip_reason(
    admission: Admission, row: int, item: Pair | Skipped, reading: ReadingOptions
) -> str | None:
    """Return why the pair of a row would be skipped, None if it would be stored."""
    if isinstance(item, Skipped):
        return item.reason
    try:
        _usable_image(admission, row, item, reading)
    except InputError as error:
        return str(error)
    return None


def _usable_image(
    admission: Admission, row: int, pair: Pair, reading: ReadingOptions
) -> Image.Image | None:
    """Return the decoded image of a pair that may enter, None if it has none."""
    admission.admit(row, pair)
    return None if pair.image is None else reading.load(pair.image)


def _stored(batch: Sequence[Pair | Skipped], store: PairStore) -> dict[str, str]:
    """Return why pairs may not replace those that are stored, by id."""
    pairs = {item.pair_id: item for item in batch if isinstance(item, Pair)}
    reasons = {
        name: require_patient(pairs[name], known)
        for name, known in store.fingerprints(pairs).items()
    }
    return {name: reason for name, reason in reasons.items() if reason}
