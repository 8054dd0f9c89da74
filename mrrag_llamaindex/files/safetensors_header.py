"""The header of a safetensors file, believed in nothing: read before any loader sees the file."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from mrrag_llamaindex.files.json_files import doubled_name
from mrrag_llamaindex.files.rows import is_unicode

MOST_BYTES: Final = 100_000_000
"""Of a header, as in the format's own definition."""

BITS: Final = {
    "F64": 64, "I64": 64, "U64": 64, "C64": 64, "F32": 32, "I32": 32, "U32": 32, "F16": 16,
    "BF16": 16, "I16": 16, "U16": 16, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "I8": 8, "U8": 8,
    "BOOL": 8, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
}  # fmt: skip
"""Of one number, by the format's name of its type."""

_MOST_DIMENSIONS = 16


@dataclass(frozen=True)
class TensorEntry:
    """What a header says of one tensor: the format's name of its type, and its shape."""

    key: str
    dtype: str
    shape: tuple[int, ...]


def read_header(path: Path) -> list[TensorEntry]:
    """Return what a file holds, after checking that it does.

    Raises
    ------
    ValueError
        In a few words, if the header is cut off, is no such header, or describes other bytes than
        the file has: overlapping, missing, left over, or of another size than the shape needs.
    OSError
        If the file cannot be read.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        length = int.from_bytes(start, "little")
        if len(start) < 8 or length > size - 8:
            raise ValueError("the file ends within its header")
        if length > MOST_BYTES:
            raise ValueError(f"a header of {length} bytes")
        content = file.read(length)
    try:
        header = json.loads(content, object_pairs_hook=_distinct)
    except (ValueError, RecursionError):
        raise ValueError("the header is not JSON, or names a tensor twice") from None
    if not isinstance(header, dict):
        raise ValueError("the header is not an object")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise ValueError("the header's metadata are not texts by name")
    # JSON may escape half a character, which no text can hold.
    if not is_unicode("".join([*header, *metadata, *metadata.values()])):
        raise ValueError("a name in the header holds half a character")
    spans = []
    entries = []
    for key, value in header.items():
        entry, span = _entry(key, value)
        entries.append(entry)
        spans.append((*span, key))
    place = 0
    for first, last, key in sorted(spans):
        if first != place:
            raise ValueError(f"tensor {key[:80]!r} does not lie where the one before it ends")
        place = last
    if place != size - 8 - length:
        raise ValueError(f"the tensors take {place} bytes, and there are {size - 8 - length}")
    return entries


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if doubled_name(pairs) is not None:
        raise ValueError("a name stands twice")
    return dict(pairs)


def _entry(key: str, value: Any) -> tuple[TensorEntry, tuple[int, int]]:
    name = key[:80]
    if not isinstance(value, dict) or set(value) != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"no tensor is described at {name!r}")
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if dtype not in BITS if isinstance(dtype, str) else True:
        raise ValueError(f"tensor {name!r} is of an unknown type")
    if not _whole(shape) or len(shape) > _MOST_DIMENSIONS:
        raise ValueError(f"tensor {name!r} has no shape")
    if not _whole(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise ValueError(f"tensor {name!r} has no place")
    if math.prod(shape) * BITS[dtype] != 8 * (offsets[1] - offsets[0]):
        raise ValueError(f"tensor {name!r} has another size than its shape needs")
    return TensorEntry(key, dtype, tuple(shape)), (offsets[0], offsets[1])


def _whole(values: Any) -> bool:
    return isinstance(values, list) and all(
        isinstance(value, int) and not isinstance(value, bool) and value >= 0 for value in values
    )
