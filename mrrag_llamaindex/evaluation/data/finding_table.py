"""Finding labels of reports from a table, as CheXpert and CheXbert write them."""

from __future__ import annotations

import csv
import os
from collections.abc import Collection
from pathlib import Path

from mrrag_llamaindex.errors import InputError

_VALUES = {"1": True, "1.0": True, "0": False, "0.0": False}
_UNKNOWN = {"", "-1", "-1.0"}


def read_findings(
    path: str | os.PathLike[str], names: Collection[str], column: str = "pair_id"
) -> dict[str, dict[str, bool]]:
    """Read a table with a column ``pair_id`` and one column for each finding.

    1 is present, 0 absent; an empty cell (not mentioned) and -1 (uncertain) say nothing.

    Parameters
    ----------
    path
        A ``.csv`` file in UTF-8.
    names
        Ids of the data set's pairs; rows of others are left out.
    column
        ``question_id`` for labels of the questions' own reports.

    Raises
    ------
    InputError
        If the file cannot be read, lacks the column, holds another value or a pair twice, or is
        about none of the pairs.
    """
    source = Path(path)
    what = column.removesuffix("_id")
    findings_of: dict[str, dict[str, bool]] = {}
    names_seen: set[str] = set()
    try:
        with source.open(encoding="utf-8-sig", newline="") as handle:
            rows = csv.DictReader(handle)
            findings = [name for name in rows.fieldnames or () if name != column]
            if column not in (rows.fieldnames or ()) or not findings:
                raise InputError(
                    f"{source.name} needs a column {column} and one column for each finding"
                )
            for number, row in enumerate(rows, start=1):
                name = (row[column] or "").strip()
                if name in names_seen:
                    raise InputError(f"{source.name}, row {number}: {what} {name!r} is there twice")
                names_seen.add(name)
                if name in names:
                    findings_of[name] = _labels(row, findings, f"{source.name}, row {number}")
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{source.name} cannot be read ({type(error).__name__})") from None
    if not findings_of:
        raise InputError(f"{source.name} is about none of the {len(names)} {what}s of the data")
    return findings_of


def _labels(row: dict[str, str | None], names: list[str], where: str) -> dict[str, bool]:
    labels = {}
    for name in names:
        value = (row[name] or "").strip()
        if value in _VALUES:
            labels[name] = _VALUES[value]
        elif value not in _UNKNOWN:
            raise InputError(f"{where}: {name} is {value!r}; expected 1, 0, -1 or nothing")
    return labels
