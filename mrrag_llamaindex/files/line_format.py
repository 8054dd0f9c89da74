"""Files of JSON lines: a header and records, dataclasses that pydantic checks when they are read.

The first line is the header, an object that begins with the kind of the file and its version; every
further line is a record. Only a line with its end is whole: what follows the last line end is what
a killed run left of a line, and is not read.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

from pydantic import TypeAdapter, ValidationError

from mrrag_llamaindex.errors import InputError
from mrrag_llamaindex.files.rows import unusable

Header = TypeVar("Header")
Record = TypeVar("Record")
PathLike = str | os.PathLike[str]


@dataclass(frozen=True)
class LineFormat(Generic[Header, Record]):
    """What the lines of one kind of file hold.

    Attributes
    ----------
    kind : str
    version : int
    header, record : type
        Dataclasses; what is read is checked by pydantic, strictly, and by their own checks. Fields
        that they do not have are passed over. A header may have ``settings``: a dict of whatever
        else decides the records.
    contents, item : str
        What the file holds, and what a line is, for errors.
    shared : tuple of str
        Fields of a record that are the header's, and not written again with every record.
    key : str
        Field in which no two records may agree; empty: none.
    """

    kind: str
    version: int
    header: type[Header]
    record: type[Record]
    contents: str
    item: str
    shared: tuple[str, ...] = ()
    key: str = ""

    def start(self, *, version: bool = True) -> bytes:
        """Return what every such file begins with.

        Examples
        --------
        >>> LineFormat("toy", 1, dict, dict, "toys", "a toy").start()
        b'{"mrrag": "toy", "version": 1'
        """
        known: dict[str, Any] = {"mrrag": self.kind}
        return _json_line(known | {"version": self.version} if version else known)[:-2].encode()

    def header_line(self, header: Header) -> str:
        """Return a header as the first line."""
        return _json_line(
            {"mrrag": self.kind, "version": self.version, **asdict(cast(Any, header))}
        )

    def line(self, record: Record) -> str:
        """Return a record as a line; NaN is refused, because it is not JSON."""
        data = asdict(cast(Any, record))
        return _json_line({name: data[name] for name in data if name not in self.shared})

    def read(self, path: PathLike) -> tuple[Header, list[Record]]:
        """Read a file; a torn last line is left out.

        Raises
        ------
        InputError
            If the file cannot be read or is something else, or a line is not such a record or has
            the key of an earlier one. The message names the line, and not what stands in it.
        """
        header, records, _ = self.read_whole_lines(path)
        return header, records

    def read_whole_lines(self, path: PathLike) -> tuple[Header, list[Record], int]:
        """Return header, records, and the length in bytes of the whole lines; see `read`."""
        lines = self.scan(path)
        header, _, whole = next(lines)
        records: list[Record] = []
        for _, record, end in lines:
            assert record is not None
            records.append(record)
            whole = end
        return header, records, whole

    def stream(self, path: PathLike) -> Iterator[Record]:
        """Yield the records of a file, one at a time in memory; see `read`."""
        return (record for _, record, _ in self.scan(path) if record is not None)

    def scan(self, path: PathLike) -> Iterator[tuple[Header, Record | None, int]]:
        """Yield for each whole line the header, the record, and where in the file the line ends.

        The record is None for the header's own line; for errors see `read`.
        """
        source = Path(path)
        try:
            with source.open("rb") as handle:
                # Iterated in binary, only \n ends a line, as it does ours.
                lines = (line for line in handle if line.endswith(b"\n"))
                first = next(lines, None)
                header = self._header([] if first is None else [first[:-1]], source.name)
                end = len(first or b"")
                yield header, None, end
                keys = set()
                for number, line in enumerate(lines, start=2):
                    where = f"{source.name}, line {number}"
                    record = self._record(line[:-1], header, where)
                    key = getattr(record, self.key, number)
                    if key in keys:
                        raise InputError(f"{where} has the {self.key} of an earlier line")
                    keys.add(key)
                    end += len(line)
                    yield header, record, end
        except OSError as error:
            raise unusable(source, error, "read") from None

    def _header(self, lines: list[bytes], name: str) -> Header:
        data = _parsed(lines[0], f"{name}, line 1") if lines else None
        if not isinstance(data, dict) or data.get("mrrag") != self.kind:
            raise InputError(f"{name} holds no {self.contents}")
        if data.get("version") != self.version:
            known = f"this one reads {self.version}"
            raise InputError(f"{name} is of version {data.get('version')!r}; {known}")
        try:
            return self._headers.validate_json(lines[0], strict=True)
        except ValidationError as error:
            raise InputError(f"{name}: the header is incomplete ({_reason(error)})") from None

    def _record(self, line: bytes, header: Header, where: str) -> Record:
        data = _parsed(line, where)
        if isinstance(data, dict) and self.shared:
            data |= {name: getattr(header, name) for name in self.shared}
            line = _json_line(data).encode()
        try:
            return self._records.validate_json(line, strict=True)
        except (ValidationError, InputError) as error:
            reason = _reason(error) if isinstance(error, ValidationError) else str(error)
            raise InputError(f"{where} is not {self.item} ({reason})") from None

    @cached_property
    def _headers(self) -> TypeAdapter[Header]:
        return TypeAdapter(self.header)

    @cached_property
    def _records(self) -> TypeAdapter[Record]:
        return TypeAdapter(self.record)


def check_same_header(earlier: Any, own: Any, name: str) -> None:
    """Raise `InputError` with the first field, or else setting, in which two headers differ."""
    # As they are read back from JSON, in which a tuple is a list.
    was, now = (json.loads(_json_line(asdict(header))) for header in (earlier, own))
    settings = was.pop("settings", {}), now.pop("settings", {})
    for one, two in ((was, now), settings):
        for key in {**one, **two}:
            if key not in one or key not in two or one[key] != two[key]:
                raise InputError(
                    f"{name} was begun with {key} {one.get(key)!r}, and this run has "
                    f"{two.get(key)!r}: go on with the same, or write to another file"
                )


def _json_line(data: dict[str, Any]) -> str:
    return json.dumps(data, ensure_ascii=False, allow_nan=False) + "\n"


def _parsed(line: bytes, where: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        raise InputError(f"{where} is not valid JSON") from None


def _reason(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    return ": ".join([".".join(map(str, first["loc"])), first["msg"]]).removeprefix(": ")
