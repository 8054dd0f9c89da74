"""JSON files of a folder from elsewhere, read once before anybody else reads them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

MOST_BYTES: Final = 200_000_000
"""The largest tokenizers have 35 MB."""

MOST_LEVELS: Final = 100


def read_json(path: Path) -> Any:
    """Return what a JSON file holds.

    Raises
    ------
    ValueError
        In a few words: not JSON, not UTF-8, too large, or nested too deeply for the loaders that
        read it after this.
    OSError
        If it cannot be read.
    """
    if path.stat().st_size > MOST_BYTES:
        raise ValueError(f"it has more than {MOST_BYTES // 1_000_000} MB")
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except UnicodeDecodeError:
        raise ValueError("it is not UTF-8") from None
    except ValueError:
        raise ValueError("it is not valid JSON") from None
    level = [value]
    for _ in range(MOST_LEVELS):
        level = [
            item
            for part in level
            if isinstance(part, (dict, list))
            for item in (part.values() if isinstance(part, dict) else part)
            if isinstance(item, (dict, list))
        ]
        if not level:
            return value
    raise ValueError("it is nested too deeply")


def check_json_files(folder: Path) -> None:
    """Read every JSON file of a folder.

    Raises
    ------
    ValueError
        Naming the first that is not as it should be.
    OSError
        If one cannot be read.
    """
    for path in sorted(folder.glob("*.json")):
        if path.name.endswith(".index.json"):
            continue  # checked with the weights, where all faults are listed
        try:
            read_json(path)
        except ValueError as error:
            raise ValueError(f"{path.name} cannot be used: {error}") from None
