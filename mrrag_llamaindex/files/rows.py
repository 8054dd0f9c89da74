"""What the rows of tables hold, and files that cannot be read."""

from __future__ import annotations

import math
import string
import unicodedata
from pathlib import Path
from typing import Any

from mrrag_llamaindex.errors import InputError

_NULLS = frozenset(
    {"nan", "-nan", "none", "null", "nil", "nat", "n/a", "n.a.", "n.a", "na", "<na>", "#na", "#n/a"}
)
"""What programs and people write where there is nothing, in small letters."""

_MARKS = string.punctuation + string.whitespace + "–—…"
_NOBODY = frozenset(
    {"unknown", "anonymous", "anonymized", "anonymised", "missing", "not available"}
)
"""Further words that, as an identifier, would make one patient of many."""

_INVISIBLE = frozenset("\u00ad\u200b\u200e\u200f\u2060\ufeff")


def is_missing(value: Any) -> bool:
    """Return whether a cell is empty, or holds a word for nothing such as ``nan`` or ``NULL``.

    Examples
    --------
    >>> [is_missing(value) for value in ("", "NaN", "n/a", "--", None, "No effusion.", 0)]
    [True, True, True, True, True, False, False]
    """
    if isinstance(value, float):
        return math.isnan(value)
    if not isinstance(value, str):
        return value is None
    text = value.strip()
    return text.casefold() in _NULLS or not text.strip(_MARKS)


def is_unicode(text: str) -> bool:
    r"""Return whether a text can be encoded: lone surrogates, as halves of a character, cannot.

    Examples
    --------
    >>> [is_unicode(text) for text in ("ü", "\ud800")]
    [True, False]
    """
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


class DateText(str):
    """A date that a spreadsheet holds, as text: what it was typed as is not known any more."""

    __slots__ = ()


def misread(text: str) -> str:
    r"""Say why an id is empty, or looks like another one that it is not; ``""`` where all is well.

    Two spellings of one name are two patients, and nobody sees it: letters with and without
    combining marks (Unicode NFC and NFD), blanks at the ends, and characters without a width.

    Examples
    --------
    >>> [misread(text) for text in ("M\u00fcller", "007")]
    ['', '']
    >>> misread("Mu\u0308ller"), misread("7\u200b")
    ('holds a letter with its mark apart: write it in Unicode NFC', 'holds an invisible character')
    """
    if not text.strip():
        return "is empty"
    if text != text.strip():
        return "has blanks at its ends: remove them"
    if unicodedata.normalize("NFC", text) != text:
        return "holds a letter with its mark apart: write it in Unicode NFC"
    return "holds an invisible character" if _INVISIBLE & set(text) else ""


def spellings(text: str) -> frozenset[str]:
    r"""Return an id in all forms that look like it, of which a store may hold one.

    With letters and their marks together and apart (Unicode NFC and NFD), as it is and without
    invisible characters: `misread` keeps others than the first out of new stores only.

    Parameters
    ----------
    text : str
        An id that a person gave.

    Raises
    ------
    ValueError
        If nothing of it can be seen, or it has blanks at its ends: no store holds such an id.

    Examples
    --------
    >>> len(spellings("7")), len(spellings("M\u00fcller")), len(spellings("7\u200b"))
    (1, 2, 2)
    """
    seen = "".join(letter for letter in text if letter not in _INVISIBLE)
    if reason := misread(unicodedata.normalize("NFC", seen)):
        raise ValueError(reason)
    return frozenset(
        unicodedata.normalize(form, one) for one in (text, seen) for form in ("NFC", "NFD")
    )


def identifier(value: Any) -> str | None:
    """Return an id as text; a JSON integer is its digits, a missing one is `None`.

    Raises
    ------
    InputError
        If it is none, or what a spreadsheet has made of one: a date, or a formula.
    """
    if is_missing(value):
        return None
    if isinstance(value, DateText):
        raise InputError("an identifier is a date, as spreadsheets make of 1-2; write it as text")
    if isinstance(value, str) and value.lstrip().startswith("="):
        raise InputError('an identifier is a formula, as ="007"; write what it shows, as text')
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, str):
        text = value.strip()
        return None if text.casefold() in _NOBODY else text
    raise InputError(f"an identifier is a {type(value).__name__}; write it as text")


def read_bytes(source: Path) -> bytes:
    """Return the contents of a file; what the system says against it becomes an `InputError`."""
    try:
        return source.read_bytes()
    except OSError as error:
        raise unusable(source, error, "read") from None


def unusable(source: Path, error: OSError, what: str) -> InputError:
    """Return the error for a file that cannot be read or written, named without its folder."""
    reason = error.strerror or type(error).__name__
    return InputError(f"{source.name} cannot be {what}: {reason}")
