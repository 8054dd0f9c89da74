"""Whether a pair may enter a store, as far as that shows without towers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Literal, TypeVar

from mrrag_llamaindex import defaults
from mrrag_llamaindex.errors import InputError
from mrrag_llamaindex.store.pair import Pair

if TYPE_CHECKING:
    from mrrag_llamaindex.store.hits import Fingerprint

Missing = Literal["skip", "keep"]
Item = TypeVar("Item")


class Admission:
    """Admits the pairs of one run.

    Parameters
    ----------
    missing
        Whether a pair without an image, or without a report, is skipped or kept.

    Raises
    ------
    ValueError
        If it is neither.
    """

    def __init__(self, missing: Missing) -> None:
        if missing not in ("skip", "keep"):
            raise ValueError(f'missing is {missing!r}; it must be "skip" or "keep"')
        self._keep = missing == "keep"
        self._rows_by_id: dict[str, int] = {}

    def admit(self, row: int, pair: Pair) -> None:
        """Raise `InputError` with the reason if the pair of a row may not enter."""
        earlier = self._rows_by_id.setdefault(pair.pair_id, row)
        if earlier != row:
            raise InputError(f"row {earlier} has the same pair_id")
        if pair.image is None and pair.report is None:
            raise InputError("it has neither an image nor a report")
        if pair.missing is not None and not self._keep:
            raise InputError(
                f"it has no {pair.missing}; to store it without one, say --missing keep "
                '(missing="keep")'
            )
        length = len(pair.report or "")
        if length > defaults.MAX_REPORT_CHARACTERS:
            raise InputError(
                f"the report has {length:,} characters (limit {defaults.MAX_REPORT_CHARACTERS:,}):"
                " are these several reports?"
            )


def require_patient(pair: Pair, known: Fingerprint) -> str:
    """Return why a pair may not replace the stored one of its id, ``""`` if it may."""
    if known.patient_id in (None, pair.patient_id):
        return ""
    return (
        "this pair_id is stored already, for another patient: give it another id, or say --replace "
        "(replace=True)"
    )


def batches(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Yield the items in lists; if one cannot be had, those before it come first.

    Raises
    ------
    InputError
        If `items` does, after the last list.
    """
    remaining = iter(items)
    while True:
        batch: list[Item] = []
        failure = None
        try:
            for item in islice(remaining, size):
                batch.append(item)
        except InputError as error:
            failure = error
        if batch:
            yield batch
        if failure is not None:
            raise failure
        if len(batch) < size:
            return


def notes_of(pairs: object) -> tuple[str, ...]:
    """Return what the reader of a table has noted, nothing for other pairs."""
    return tuple(getattr(pairs, "notes", ()))
