"""One image/report pair, and one table row that could not become a pair.

Everything that enters the store passes through `Pair`, so what is checked here (identifiers,
flat metadata, encodable text) need not be checked again further down.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mrrag_llamaindex.errors import InputError
from mrrag_llamaindex.files.digests import json_digest
from mrrag_llamaindex.files.rows import is_unicode, misread
from mrrag_llamaindex.images.load import image_digest

if TYPE_CHECKING:
    from mrrag_llamaindex.images.load import ImageSource
    from mrrag_llamaindex.images.options import ReadingOptions

MetadataValue = str | int | float | bool
"""What a metadata value may be: Chroma stores nothing deeper."""

STUDY_KEY = "study_id"
"""The metadata key that names the study (one examination, possibly several images)."""

RESERVED_KEYS = frozenset({"pair_id", "patient_id", "image_path", "missing", "mrrag"})
"""Metadata keys that the store and the scored nodes write themselves."""

RESERVED_PREFIXES = ("mrrag_", "_node_", "chroma:")
"""Prefixes of keys that the store, LlamaIndex and Chroma write themselves."""

_INT64 = 2**63


@dataclass(frozen=True)
class Pair:
    """An image and the report written about it, of one patient.

    Parameters
    ----------
    image
        A path, encoded bytes, or a PIL image; `None` or an empty string when there is none. It is
        not opened here.
    report
        The report's text; `None`, or a blank string, when there is none.
    pair_id
        Identifies the pair in the store. Non-empty, without surrounding blanks.
    patient_id
        Identifies the patient, for exclusion and so that two patients are never mixed; `None`
        when unknown. Non-empty, without surrounding blanks.
    metadata
        Flat: string keys, values str, int, float or bool. `None` and NaN values are dropped
        (they mean "not known"). ``metadata["study_id"]`` is the study's identifier.
    row
        1-based number of the table row that it stands in, for messages; several pairs may stand in
        one. Not part of what is stored or compared.

    Raises
    ------
    InputError
        If an identifier is empty or not a string, if metadata is nested or uses a reserved key,
        or if a text cannot be encoded as UTF-8. The message never contains the report or the
        image's path.

    Examples
    --------
    >>> pair = Pair("cxr.png", "Clear lungs.", "p1", "anna", {"view": "PA", "age": None})
    >>> dict(pair.metadata)
    {'view': 'PA'}
    """

    image: ImageSource | None
    report: str | None
    pair_id: str
    patient_id: str | None = None
    metadata: Mapping[str, MetadataValue] = field(default_factory=dict)
    row: int | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        check_identifier(self.pair_id, "pair_id")
        if self.patient_id is not None:
            check_identifier(self.patient_id, f"patient_id of pair {self.pair_id!r}")
        if self.report is not None:
            if not isinstance(self.report, str):
                raise InputError(
                    f"pair {self.pair_id!r}: the report is a {type(self.report).__name__}, "
                    "not a string"
                )
            check_encodable(self.report, f"pair {self.pair_id!r}: the report")
            if not self.report.strip():
                object.__setattr__(self, "report", None)
        if isinstance(self.image, str) and not self.image.strip():
            object.__setattr__(self, "image", None)
        cleaned = clean_metadata(self.metadata, f"pair {self.pair_id!r}")
        object.__setattr__(self, "metadata", cleaned)

    @property
    def study_id(self) -> str | None:
        """``metadata["study_id"]`` as a string, or `None`."""
        value = self.metadata.get(STUDY_KEY)
        return None if value is None else str(value)

    @property
    def missing(self) -> str | None:
        """``"image"`` or ``"report"`` when that half is absent, else `None`.

        Raises
        ------
        InputError
            If both are absent: such a pair can never be found.
        """
        if self.image is None and self.report is None:
            raise InputError(f"pair {self.pair_id!r} has neither an image nor a report")
        if self.image is None:
            return "image"
        return "report" if self.report is None else None


@dataclass(frozen=True)
class Skipped:
    """A row that did not enter the store.

    Parameters
    ----------
    row
        1-based number of the data row (a table's header is not counted).
    pair_id
        The row's identifier, or `None` when the row has none.
    reason
        Why, for a person; contains neither report text nor a path.
    """

    row: int
    pair_id: str | None
    reason: str

    def __str__(self) -> str:
        """Return ``row 3 (pair_id 'p3'): reason``."""
        name = "" if self.pair_id is None else f" (pair_id {self.pair_id!r})"
        return f"row {self.row}{name}: {self.reason}"


def is_reserved(key: str) -> bool:
    """Return whether a metadata key is one that the store, LlamaIndex or Chroma write."""
    return key in RESERVED_KEYS or key.startswith(RESERVED_PREFIXES)


def check_encodable(text: str, what: str) -> None:
    """Raise `InputError` if `text` holds what not every store can keep.

    Lone surrogates cannot be encoded as UTF-8; at a character 0 many a program ends the text.
    """
    if "\0" in text:
        raise InputError(f"{what} holds a character 0: is it text?")
    if not is_unicode(text):
        raise InputError(f"{what} contains characters that are not valid Unicode text")


def check_identifier(value: object, what: str) -> None:
    """Raise `InputError` unless `value` is a usable identifier.

    Blanks at the ends are refused because ``"12"`` and ``"12 "`` would be two patients, and so is
    what else cannot be seen, see `misread`.
    """
    if not isinstance(value, str):
        raise InputError(f"{what} is {value!r}, a {type(value).__name__}; it must be a string")
    if not value.strip():
        raise InputError(f"{what} is empty")
    if reason := misread(value):
        raise InputError(f"{what} is {value!r}, which {reason}")
    check_encodable(value, what)


def clean_metadata(metadata: Mapping[str, Any], what: str) -> dict[str, MetadataValue]:
    """Return `metadata` as a flat dict of plain values, without its `None` and NaN entries.

    Parameters
    ----------
    metadata
        Any mapping; numpy scalars become plain Python values.
    what
        How to name the owner in an error.

    Raises
    ------
    InputError
        If a key is reserved or not a string, or a value is nested, infinite, or an integer that
        needs more than 64 bits. Names the key, never the value.
    """
    if not isinstance(metadata, Mapping):
        raise InputError(f"{what}: metadata is a {type(metadata).__name__}, not a mapping")
    cleaned: dict[str, MetadataValue] = {}
    for key, raw in metadata.items():
        if not isinstance(key, str) or not key:
            raise InputError(f"{what}: metadata key {key!r} is not a non-empty string")
        check_encodable(key, f"{what}: a metadata key")
        if is_reserved(key):
            raise InputError(f"{what}: metadata key {key!r} is reserved; rename it")
        value = _plain(raw)
        if value is None or (isinstance(value, float) and math.isnan(value)):
            continue
        if not isinstance(value, (str, int, float, bool)):
            raise InputError(
                f"{what}: metadata {key!r} is a {type(value).__name__}; only text, numbers and "
                "true/false can be stored: flatten it or leave it out"
            )
        if isinstance(value, float) and math.isinf(value):
            raise InputError(f"{what}: metadata {key!r} is infinite")
        if isinstance(value, int) and not -_INT64 <= value < _INT64:
            raise InputError(f"{what}: metadata {key!r} does not fit 64 bits; store it as text")
        if isinstance(value, str):
            check_encodable(value, f"{what}: metadata {key!r}")
        cleaned[key] = value
    return cleaned


def _plain(value: Any) -> Any:
    """Return a numpy scalar or a kind of text as the plain value it holds, others as they are."""
    if isinstance(value, str):
        return str(value)
    if type(value).__module__ == "numpy" and getattr(value, "ndim", None) == 0:
        return value.item()
    return value


_VERSION = "1"


def fingerprint(pair: Pair, reading: ReadingOptions | None = None) -> str:
    """Return a digest of everything about a pair that reaches the store.

    Parameters
    ----------
    pair
        Its image, if any, is read but not decoded. A moved file is another fingerprint, since
        its path is stored.
    reading
        Window and frame by which the image is decoded: others are other pixels.

    Returns
    -------
    str
        Version and 64 hexadecimal digits of SHA-256.

    Raises
    ------
    ImageError
        If the image cannot be read.
    """
    path = None
    if isinstance(pair.image, (str, os.PathLike)):
        path = str(Path(pair.image).absolute())
    contents: dict[str, object] = {
        "image": None if pair.image is None else image_digest(pair.image),
        "path": path,
        "report": pair.report,
        "patient": pair.patient_id,
        "metadata": dict(pair.metadata),
    }
    if reading is not None and reading.settings:
        contents["reading"] = reading.settings
    return f"{_VERSION}:{json_digest(contents)}"
