"""Damage to the bytes of a file and to the values of JSON: by disks, transfers and enemies."""

from __future__ import annotations

import functools
import json

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


ODD_VALUES = (
    *("NaN", "Infinity", "-Infinity", "1e999", "-1e999", "1e308", "1e-320", "-0.0", "0", "2", "-1"),
    *("9" * 400, "9" * 5000, "true", "null", '""', '"0.5"', '"NaN"', '"\\ud800"', "[]", "{}"),
    *("[[1, 2]]", '{"a": 1}', "[" * 900 + "]" * 900, "[" * 100_000 + "]" * 100_000),
    *('{"a":' * 20_000 + "1" + "}" * 20_000, "[" * 3000, "0.5", "0.25", "1.5", "1", "3", "-0.125"),
)
"""Values that belong nowhere, and plain ones that may belong elsewhere."""


@st.composite
def odd_json(draw: st.DrawFn, text: str) -> str:
    """Draw the text of an object with odd values, a changed key, a key twice, or one more."""
    names, places = list(json.loads(text)), _places(text)
    for place in sorted(draw(st.lists(st.integers(0, len(places) - 1), max_size=2)), reverse=True):
        start, stop = places[place]
        text = text[:start] + draw(st.sampled_from(ODD_VALUES)) + text[stop:]
    how = draw(st.sampled_from(("no more", "no more", "no more", "key", "twice", "more")))
    name, odd = draw(st.sampled_from(names)), draw(st.sampled_from(ODD_VALUES))
    other = draw(st.sampled_from(('"x"', '""', '"\\ud800"')))
    if how == "key":
        return text.replace(f'"{name}"', other, 1)
    if how == "no more":
        return text
    return f'{text.rstrip()[:-1]}, "{name if how == "twice" else "more"}": {odd}}}'


@functools.cache
def _places(text: str) -> list[tuple[int, int]]:
    """Where a value stands, whole or as a part of another; those inside come last."""
    scan, places = json.JSONDecoder().scan_once, []
    for start, character in enumerate(text):
        if start and text[start - 1] in ":[, " and character not in " ,]}\n":
            try:
                stop = scan(text, start)[1]
            except (StopIteration, ValueError):  # within a text
                continue
            if text[stop : stop + 1] != ":":
                places.append((start, stop))
    return places
