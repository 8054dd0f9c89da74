"""Damage to the bytes of a file, as disks, transfers and enemies do it."""

from __future__ import annotations

from hypothesis import strategies as st

_HOWS = ("flip", "flip", "set", "cut", "end", "zeros", "double", "add")
_HEADER = 120
"""Bytes that half of all damage hits."""


@st.composite
def damage(draw: st.DrawFn, data: bytes) -> bytes:
    """Draw a file that was changed in one to three places: flipped, cut, filled, doubled, longer.

    What is drawn does not depend on the file.
    """
    for _ in range(draw(st.integers(1, 3))):
        reach = min(len(data), _HEADER) if draw(st.booleans()) else len(data)
        start = draw(st.integers(0, 2**20 - 1)) * reach >> 20
        length = draw(st.sampled_from((1, 1, 1, 2, 4, 16, 200)))
        how = draw(st.sampled_from(_HOWS))
        bit, other = draw(st.integers(0, 7)), draw(st.binary(min_size=1, max_size=8))
        piece = data[start : start + length]
        if how == "flip":
            piece = bytes(byte ^ (1 << bit) for byte in piece[:1]) + piece[1:]
        elif how == "set":
            piece = other[: len(piece)]
        elif how in ("cut", "end"):
            piece = b""
        elif how == "zeros":
            piece = bytes(len(piece))
        elif how == "double":
            piece = piece * 2
        elif how == "add":
            piece = piece + other
        data = data[:start] + piece + (b"" if how == "end" else data[start + length :])
    return data
