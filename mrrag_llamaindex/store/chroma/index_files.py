"""Chroma's own index files, read before Chroma reads them.

Its reader takes every number in them for true: a damaged link ends the process, and a damaged
vector ranks other pairs. The layout is that of hnswlib.
"""

from __future__ import annotations

import math
import os
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

_HEADER: Final = np.dtype(
    [
        ("version", "<i4"),
        ("offset", "<u8"),
        ("capacity", "<u8"),
        ("count", "<u8"),
        ("size", "<u8"),
        ("label_at", "<u8"),
        ("vector_at", "<u8"),
        ("top_level", "<i4"),
        ("entry", "<u4"),
        ("upper_links", "<u8"),
        ("base_links", "<u8"),
        ("neighbors", "<u8"),
        ("level_factor", "<f8"),
        ("ef_construction", "<u8"),
    ]
)
_FILES: Final = ("header.bin", "data_level0.bin", "length.bin", "link_lists.bin")
_IDS: Final = "index_metadata.pickle"
_MOST_LEVELS: Final = 64
_MOST_NEIGHBORS: Final = 1 << 15


class Damage(Exception):  # noqa: N818 (caught in this folder, where it becomes a StoreError)
    """Something in a store's files cannot be as it was written."""


@dataclass(frozen=True)
class IndexFiles:
    """What an index on disk holds.

    Parameters
    ----------
    rows
        Row of each pair id in `vectors`.
    vectors
        Shape (count, 2n), float32, mapped from the file.
    """

    rows: dict[str, int]
    vectors: NDArray[np.float32]

    @classmethod
    def check(cls, folder: Path, length: int) -> IndexFiles:
        """Return what the files hold, after a look at every number that leads somewhere.

        Parameters
        ----------
        folder
            Of one index.
        length
            2n, of each vector.

        Raises
        ------
        Damage
            Naming the file.
        OSError
            If one cannot be read.
        """
        for name in _FILES:
            if not (folder / name).is_file():
                raise Damage(f"the index has no {name}")
        header = _header(folder / _FILES[0], length)
        count = int(header["count"])
        _check_size(folder / "length.bin", 4 * count)
        ids = _ids(folder / _IDS)
        if count == 0:
            if ids:
                raise Damage(f"{_IDS} names pairs, and the index is empty")
            return cls({}, np.zeros((0, length), dtype=np.float32))
        size, label_at = int(header["size"]), int(header["label_at"])
        vector_at = int(header["vector_at"])
        _check_size(folder / "data_level0.bin", count * size)
        data = np.memmap(folder / "data_level0.bin", np.uint8, "r", shape=(count, size))
        _check_links(data, int(header["base_links"]))
        labels = np.ascontiguousarray(data[:, label_at : label_at + 8]).view("<u8").ravel()
        _check_upper(folder / "link_lists.bin", count, header)
        place = {int(label): row for row, label in enumerate(labels.tolist())}
        if len(place) != count:
            raise Damage("data_level0.bin holds a label twice")
        if len(set(ids.values())) != len(ids) or not place.keys() >= set(ids.values()):
            raise Damage(f"{_IDS} does not fit data_level0.bin")
        vectors = data[:, vector_at:label_at].view("<f4")
        return cls({name: place[label] for name, label in ids.items()}, vectors)


class _PlainUnpickler(pickle.Unpickler):
    """Reads dictionaries, texts and numbers; anything else would run code of the file."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"{module}.{name}")


def _header(file: Path, length: int) -> Any:
    content = file.read_bytes()
    if len(content) != _HEADER.itemsize:
        raise Damage(f"{file.name} has {len(content)} bytes")
    header = np.frombuffer(content, _HEADER)[0]
    neighbors, base = int(header["neighbors"]), int(header["base_links"])
    count, capacity = int(header["count"]), int(header["capacity"])
    empty = count == 0
    sound = (
        int(header["version"]) == 1
        and int(header["offset"]) == 0
        and 2 <= neighbors <= _MOST_NEIGHBORS
        and int(header["upper_links"]) == neighbors
        and base == 2 * neighbors
        and int(header["vector_at"]) == 4 + 4 * base
        and int(header["label_at"]) == 4 + 4 * base + 4 * length
        and int(header["size"]) == 4 + 4 * base + 4 * length + 8
        and count <= capacity
        and 2 <= int(header["ef_construction"]) < 1 << 20
        and math.isclose(float(header["level_factor"]), 1 / math.log(neighbors), rel_tol=1e-9)
        and (empty or int(header["entry"]) < count)
        and (-1 if empty else 0) <= int(header["top_level"]) < (0 if empty else _MOST_LEVELS)
    )
    if not sound:
        raise Damage(f"{file.name} does not describe an index of vectors of length {length}")
    return header


def _check_size(file: Path, wanted: int) -> None:
    size = file.stat().st_size
    if size < wanted:
        raise Damage(f"{file.name} has {size} bytes; {wanted} are needed")


def _check_links(data: NDArray[np.uint8], most: int) -> None:
    """Check that every pair's neighbours on the lowest level are pairs."""
    count = len(data)
    for start in range(0, count, 1 << 14):
        part = np.ascontiguousarray(data[start : start + (1 << 14), : 4 + 4 * most]).view("<u4")
        used = part[:, 0] & 0xFFFF  # the third byte marks a deleted pair
        if (used > most).any() or (part[:, 0] >> 16 > 1).any():
            raise Damage("data_level0.bin holds a list of neighbours that cannot be")
        real = np.arange(most)[None] < used[:, None]
        if (part[:, 1:][real] >= count).any():
            raise Damage("data_level0.bin names a neighbour that is not there")


def _check_upper(file: Path, count: int, header: Any) -> None:
    """Check the same on the upper levels: for each pair a size in bytes, then that many."""
    most = int(header["upper_links"])
    step = 4 + 4 * most
    words = np.fromfile(file, "<u4")
    place, top = 0, 0
    for row in range(count):
        size = int(words[place]) if place < len(words) else -1
        levels, rest = divmod(size, step)
        if size < 0 or rest or levels > _MOST_LEVELS or place + 1 + size // 4 > len(words):
            raise Damage(f"{file.name} is cut off, or holds a size that cannot be")
        for level in range(levels):
            at = place + 1 + level * (step // 4)
            used = int(words[at]) & 0xFFFF
            if used > most or (words[at + 1 : at + 1 + used] >= count).any():
                raise Damage(f"{file.name} names a neighbour that is not there")
        top = max(top, levels)
        if row == int(header["entry"]) and levels != int(header["top_level"]):
            raise Damage(f"{file.name} does not begin where the header says")
        place += 1 + size // 4
    if place != len(words) or top != int(header["top_level"]):
        raise Damage(f"{file.name} does not fit the header")


def _ids(file: Path) -> dict[str, int]:
    """Return the label of each pair id; none if the index has never been written."""
    if not os.path.lexists(file):
        return {}
    try:
        with file.open("rb") as handle:
            content = _PlainUnpickler(handle).load()
        ids = dict(content["id_to_label"])
    except OSError:
        raise
    # A damaged pickle raises whatever its bytes happen to mean.
    except Exception as error:
        raise Damage(f"{file.name} cannot be read ({type(error).__name__})") from None
    if not all(isinstance(name, str) and isinstance(label, int) for name, label in ids.items()):
        raise Damage(f"{file.name} holds something else than ids")
    return ids
