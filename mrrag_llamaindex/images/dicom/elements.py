"""Elements of a DICOM header that may be missing, empty or out of range."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from mrrag_llamaindex.errors import ImageError

if TYPE_CHECKING:
    from pydicom.dataset import Dataset


def named(keyword: str) -> str:
    """Name and tag of an element, for messages: ``Bits Stored (0028,0101)``."""
    from pydicom.datadict import dictionary_description, tag_for_keyword

    tag = tag_for_keyword(keyword) or 0
    return f"{dictionary_description(tag)} ({tag >> 16:04X},{tag & 0xFFFF:04X})"


def first_value(dataset: Dataset, keyword: str) -> Any:
    """Return the first value of an element; None if it is missing or empty."""
    value = dataset.get(keyword)
    if isinstance(value, (str, bytes)):
        return value or None
    try:
        return value[0] if len(value) else None
    except TypeError:
        return value


def items(dataset: Dataset, keyword: str, what: str) -> list[Dataset]:
    """Return the items of a sequence; none if it is missing or empty.

    Raises
    ------
    ImageError
        If the element is no sequence. Names it.
    """
    from pydicom.sequence import Sequence

    value = dataset.get(keyword)
    if value is not None and not isinstance(value, Sequence):
        raise ImageError(f"{what}: {named(keyword)} of this DICOM file is not a sequence")
    return list(value or [])


def number(dataset: Dataset, keyword: str, what: str, default: float | None = None) -> float:
    """Return an element as a finite number, or ``default`` if it is missing or empty.

    Raises
    ------
    ImageError
        If it is no finite number, or if there is neither a value nor a default. Names the element,
        never its value.
    """
    value = first_value(dataset, keyword)
    if value is None:
        if default is None:
            raise ImageError(f"{what}: {named(keyword)} of this DICOM file is missing or empty")
        return default
    try:
        result = float(value)
    except (TypeError, ValueError):
        result = math.nan
    if not math.isfinite(result):
        raise ImageError(f"{what}: {named(keyword)} of this DICOM file is not a number")
    return result


def whole(
    dataset: Dataset, keyword: str, what: str, low: int, high: int, default: int | None = None
) -> int:
    """Return an element as an integer in ``low``..``high``, or ``default``; as `number`.

    Raises
    ------
    ImageError
        As `number`, or if it is out of range.
    """
    value = number(dataset, keyword, what, default)
    if value != int(value) or not low <= value <= high:
        raise ImageError(
            f"{what}: {named(keyword)} of this DICOM file is {value:g}; it must be a whole number "
            f"from {low} to {high}"
        )
    return int(value)
