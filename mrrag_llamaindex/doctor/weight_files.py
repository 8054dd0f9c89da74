"""Look over the weight files of a model folder: what is there, what is missing or cut off."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

_KINDS: Final = (("model", "safetensors"), ("pytorch_model", "bin"))
_LONGEST_HEADER: Final = 100_000_000  # bytes, the limit of the safetensors library
_NAMES: Final = {"F32": "float32", "F16": "float16", "BF16": "bfloat16", "F64": "float64"}


@dataclass(frozen=True)
class WeightFiles:
    """The weight files of one folder, described without reading a tensor.

    Attributes
    ----------
    sizes : mapping of str to int
        File name to bytes, of the files that are there.
    keys : frozenset of str
        Names of tensors, from the headers and the index.
    pickled : bool
        Whether the weights are pickles (``.bin``), whose contents are not looked at.
    dtype : str or None
        The type that most of the stored bytes have; None where no header tells.
    absent : tuple of str
        Files that the index, or the numbering, names and that are not there.
    problems : tuple of str
        What else is wrong, a sentence each.
    """

    sizes: Mapping[str, int] = field(default_factory=dict)
    keys: frozenset[str] = frozenset()
    pickled: bool = False
    dtype: str | None = None
    absent: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()

    @property
    def nbytes(self) -> int:
        """Size of all files."""
        return sum(self.sizes.values())

    @property
    def largest(self) -> int:
        """Size of the largest file."""
        return max(self.sizes.values(), default=0)

    @property
    def complete(self) -> bool:
        """Whether there are weights and nothing is wrong with them."""
        return bool(self.sizes) and not self.absent and not self.problems


def survey_weights(folder: Path) -> WeightFiles:
    """Look over a folder; safetensors are preferred to pickles, as when loading.

    The header of a safetensors file says where its last tensor ends, so a file that was cut off
    is found without reading it. Every fault is listed, not only the first.
    """
    for stem, suffix in _KINDS:
        files = _survey(folder, stem, suffix)
        if files.sizes or files.absent or files.problems:
            return files
    return WeightFiles()


def _survey(folder: Path, stem: str, suffix: str) -> WeightFiles:
    index = folder / f"{stem}.{suffix}.index.json"
    keys: set[str] = set()
    problems: list[str] = []
    if index.is_file():
        try:
            places = dict(json.loads(index.read_text(encoding="utf-8"))["weight_map"])
        except (ValueError, KeyError, TypeError):
            return WeightFiles(problems=(f"{index.name} is not an index; download it again",))
        keys, names = set(places), sorted(set(map(str, places.values())))
        outside = [name for name in names if Path(name).name != name]
        if outside:  # an index is data from elsewhere: it may not lead out of its folder
            return WeightFiles(problems=(f"{index.name} names {outside[0]!r}, outside the folder",))
    else:
        names = _numbered(folder, stem, suffix)
    present = [name for name in names if (folder / name).is_file()]
    stored: Counter[str] = Counter()
    for name in present:
        if suffix != "safetensors":
            continue
        try:
            for key, (kind, size) in _read_header(folder / name).items():
                keys.add(key)
                stored[kind] += size
        except ValueError as error:
            problems.append(f"{name} {error}; download it again")
    commonest = stored.most_common(1)
    return WeightFiles(
        sizes={name: (folder / name).stat().st_size for name in present},
        keys=frozenset(keys),
        pickled=suffix == "bin",
        dtype=_NAMES.get(commonest[0][0], commonest[0][0]) if commonest else None,
        absent=tuple(name for name in names if name not in present),
        problems=tuple(problems),
    )


def _numbered(folder: Path, stem: str, suffix: str) -> list[str]:
    """Names of the weight files of a folder without an index."""
    if (folder / f"{stem}.{suffix}").is_file():
        return [f"{stem}.{suffix}"]
    parts = sorted(path.name for path in folder.glob(f"{stem}-*-of-*.{suffix}"))
    number = re.fullmatch(rf"{stem}-(\d+)-of-(\d+)\.{suffix}", parts[0]) if parts else None
    if number is None:
        return parts
    width, count = len(number[1]), int(number[2])
    return [f"{stem}-{i:0{width}}-of-{number[2]}.{suffix}" for i in range(1, count + 1)]


def _read_header(path: Path) -> dict[str, tuple[str, int]]:
    """Tensor name to (type, bytes) of one safetensors file.

    The format: 8 bytes with the length of the header, the header as JSON, the tensors.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or not 2 <= length <= _LONGEST_HEADER:
            raise ValueError("is not a safetensors file")
        try:
            header: dict[str, Any] = json.loads(file.read(length))
            header.pop("__metadata__", None)
            entries = {
                key: (str(value["dtype"]), value["data_offsets"]) for key, value in header.items()
            }
            end = max((int(offsets[1]) for _, offsets in entries.values()), default=0)
        except (ValueError, KeyError, TypeError, AttributeError, IndexError):
            raise ValueError("has no readable header") from None
    if size != 8 + length + end:
        raise ValueError(f"has {size} bytes and its header says {8 + length + end}")
    return {key: (kind, int(o[1]) - int(o[0])) for key, (kind, o) in entries.items()}
