"""Join the parts of one document that a host's splitter made."""

from __future__ import annotations

from collections.abc import Sequence


def joined(first: str, second: str) -> str:
    """Join two parts of one document whose ends may overlap by some words."""
    head, tail = first.split(), second.split()
    if not head or _contains(tail, head):
        return second
    if _contains(head, tail):
        return first
    for size in range(min(len(head), len(tail)), 0, -1):
        if head[-size:] == tail[:size]:
            return " ".join(head + tail[size:])
    for size in range(min(len(head), len(tail)), 0, -1):
        if tail[-size:] == head[:size]:
            return " ".join(tail + head[size:])
    return f"{first} {second}"


def _contains(words: Sequence[str], part: Sequence[str]) -> bool:
    size = len(part)
    return any(words[i : i + size] == part for i in range(len(words) - size + 1))
