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
    path: str | os.PathLike[str], pair_ids: Collection[str]
) -> dict[str, dict[str, bool]]:
    """Read a table with a column ``pair_id`` and one column for each finding.

    1 is present, 0 absent; an empty cell (not mentioned) and -1 (uncertain) say nothing.

    Parameters
    ----------
    path
        A ``.csv`` file in UTF-8.
    pair_ids
        Pairs of the data set; rows of others are left out.

    Raises
    ------
    InputError
        If the file cannot be read, lacks the column, holds another value or a pair twice, or is
        about none of the pairs.
    """
    source = Path(path)
    found: dict[str, dict[str, bool]] = {}
    seen: set[str] = set()
    try:
        with source.open(encoding="utf-8-sig", newline="") as handle:
            rows = csv.DictReader(handle)
            names = [name for name in rows.fieldnames or () if name != "pair_id"]
            if "pair_id" not in (rows.fieldnames or ()) or not names:
                raise InputError(
                    f"{source.name} needs a column pair_id and one column for each finding"
                )
            for number, row in enumerate(rows, start=1):
                pair_id = (row["pair_id"] or "").strip()
                if pair_id in seen:
                    raise InputError(
                        f"{source.name}, row {number}: pair {pair_id!r} is there twice"
                    )
                seen.add(pair_id)
                if pair_id in pair_ids:
                    found[pair_id] = _labels(row, names, f"{source.name}, row {number}")
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{source.name} cannot be read ({type(error).__name__})") from None
    if not found:
        raise InputError(f"{source.name} is about none of the {len(pair_ids)} pairs of the data")
    return found


def _labels(row: dict[str, str | None], names: list[str], where: str) -> dict[str, bool]:
    labels = {}
    for name in names:
        value = (row[name] or "").strip()
        if value in _VALUES:
            labels[name] = _VALUES[value]
        elif value not in _UNKNOWN:
            raise InputError(f"{where}: {name} is {value!r}; expected 1, 0, -1 or nothing")
    return labels
