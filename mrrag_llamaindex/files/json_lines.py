"""Files of one JSON object per line: how a line is written, and how whole lines are read back.

The first line of such a file is its header, an object that begins with the kind of the file and
its version. Only a line with its end is whole: what follows the last line end is what a killed run
left of a line, and is not read.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, Protocol, TypeVar

from mrrag_llamaindex.errors import InputError

Header = TypeVar("Header")


class SettingsHeader(Protocol):
    """A header with ``settings``: whatever else decides the lines of the file."""

    def to_line(self) -> str:
        """Return the header as one line of JSON."""
        ...


def json_line(data: Mapping[str, Any]) -> str:
    """Return an object as one line of JSON; NaN is refused, because it is not JSON."""
    return json.dumps(data, ensure_ascii=False, allow_nan=False) + "\n"


def header_start(kind: str, version: int | None = None) -> bytes:
    """Return what the header of every file of that kind (and version) begins with.

    Examples
    --------
    >>> header_start("d_train", 1)
    b'{"mrrag": "d_train", "version": 1'
    """
    known = {"mrrag": kind} if version is None else {"mrrag": kind, "version": version}
    return json_line(known)[:-2].encode()


def header_of(
    data: Any, header: type[Header], kind: str, version: int, name: str, what: str
) -> Header:
    """Return the first object of a file as its header.

    Parameters
    ----------
    data
        The object; None where the file has no whole line.
    header
        Dataclass of the header; fields that it does not have are passed over.
    kind, version
        What the file must say that it is.
    name, what
        Of the file, and what it should hold, for errors.

    Raises
    ------
    InputError
        If the file is something else or of another version, or the header lacks a field.
    """
    if not isinstance(data, dict) or data.get("mrrag") != kind:
        raise InputError(f"{name} holds no {what}")
    if data.get("version") != version:
        raise InputError(f"{name} is of version {data.get('version')!r}; this one reads {version}")
    try:
        return header(**known_fields(data, header))
    except (TypeError, ValueError) as error:
        raise InputError(f"{name}: the header is incomplete ({error})") from None


def check_same_header(found: SettingsHeader, own: SettingsHeader, name: str) -> None:
    """Raise `InputError` with the first field, or else setting, in which two headers differ."""
    # As they are read back from JSON, in which a tuple is a list.
    was, now = (json.loads(header.to_line()) for header in (found, own))
    settings = was.pop("settings"), now.pop("settings")
    for one, two in ((was, now), settings):
        for key in {**one, **two}:
            if key not in one or key not in two or one[key] != two[key]:
                raise InputError(
                    f"{name} was begun with {key} {one.get(key)!r}, and this run has "
                    f"{two.get(key)!r}: go on with the same, or write to another file"
                )


def read_json_lines(source: Path) -> tuple[Iterator[Any], int]:
    """Return the objects of the whole lines, parsed as they are asked for, and the bytes of these.

    Raises
    ------
    InputError
        If the file cannot be read; while iterating, if a line is not JSON.
    """
    content = read_bytes(source)
    whole = content.rfind(b"\n") + 1
    # Not splitlines: only \n ends one of our lines.
    return _parsed(content[:whole].split(b"\n")[:-1], source.name), whole


def _parsed(lines: list[bytes], name: str) -> Iterator[Any]:
    for number, line in enumerate(lines, start=1):
        try:
            yield json.loads(line)
        except (ValueError, RecursionError):
            raise InputError(f"{name}, line {number} is not valid JSON") from None


def known_fields(data: Mapping[str, Any], kind: type[Any]) -> dict[str, Any]:
    """Return those values of an object that a dataclass has fields for."""
    return {item.name: data[item.name] for item in fields(kind) if item.name in data}


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
