"""Tables of pairs: every good row as it was written, every other one listed, nothing mixed.

What is right is known because the rows are made here, and written by csv, json and openpyxl. Each
text of a row holds the row's own token, so that one row's report under another one's id shows.
"""

from __future__ import annotations

import csv
import datetime
import io
import json
import re
import sys
import zipfile
from pathlib import Path
from typing import Any

import openpyxl
from hypothesis import strategies as st

from mrrag_llamaindex.errors import InputError
from mrrag_llamaindex.store.ingest.pair_table import read_pairs
from mrrag_llamaindex.store.pair import Pair
from tests.campaign.damage import damage
from tests.campaign.tally import Part, WrongValueError

_COLUMNS = ("pair_id", "image", "report", "patient_id", "view")
# Without U+FFFF, which is no character.
_LETTERS = st.characters(exclude_categories=("Cs", "Cc"), exclude_characters="\uffff")
_TEXT = st.text(_LETTERS | st.sampled_from('",;\t|\n\\{}[]'))
_TOKENS = ("alder7", "birch3", "cedar9", "hazel5", "larch2", "maple8")
_TOKEN = re.compile("|".join(_TOKENS))
_NAMES = (
    *("", " ", "\0", "a\0b", "9" * 5000, "pair_id", "report", "view", "mrrag_score", "Report"),
    *("pair_id ", "\ufeffpair_id", "image\n", '"', "=cmd|' /C calc'!A0", "x" * 70_000),
)
_BAD_FIELDS: tuple[str, ...] = (
    *('"uid": ' + "9" * 5000, '"deep": ' + "[" * 5000 + "]" * 5000, '"n": 1e999'),
    *(
        '"view": {"a": 1}',
        '"view": "x", "view": "y"',
        '"n": 99999999999999999999',
        '"s": "\\ud800"',
    ),
    *('"report": 7', '"patient_id": true', '"image": []', '"image": {"a": 1}', '"x": tru', '"x" 1'),
)


@st.composite
def tables(draw: st.DrawFn) -> dict[str, Any]:
    """Draw a table of up to six rows in one of five formats, sound or hurt in one way."""
    rows = [
        {
            "pair_id": f"p-{token}",
            "image": f"{token}.png",
            "report": f"{token} {draw(_TEXT)} {token}",
            "patient_id": f"{token}{draw(st.sampled_from(('', ' x', '-ü', '.0')))}",
            "view": f"v{draw(_TEXT)}w",
        }
        for token in _TOKENS[: draw(st.integers(1, 6))]
    ]
    kind = draw(st.sampled_from((".csv", ".tsv", ".json", ".jsonl", ".xlsx")))
    hurt = draw(st.sampled_from(("none", "none", "row", "header", "bytes", "bytes")))
    names, bad = list(_COLUMNS), None
    if hurt == "header":
        place = draw(st.integers(0, len(names)))
        name = draw(st.sampled_from(_NAMES) | st.text(st.characters(exclude_categories=("Cs",))))
        names[place : place + draw(st.integers(0, 1))] = [name]
    if hurt == "row":
        bad = draw(st.integers(0, len(rows) - 1))
    data = _written(draw, kind, names, rows, bad)
    if hurt == "bytes":
        data = draw(damage(data))
    return {"kind": kind, "rows": rows, "hurt": hurt, "names": names, "bad": bad, "data": data}


def _written(
    draw: st.DrawFn, kind: str, names: list[str], rows: list[dict[str, str]], bad: int | None
) -> bytes:
    """Write the rows; under another header the cells stay where they are."""
    width = len(names)
    cells = [[*row.values(), "more"][:width] for row in rows]
    if kind == ".xlsx":
        return _workbook(names, cells, bad)
    if kind in (".json", ".jsonl"):
        texts = [_object(zip(names, row, strict=False)) for row in cells]
        if bad is not None:
            texts[bad] = texts[bad][:-1] + ", " + draw(st.sampled_from(_BAD_FIELDS)) + "}"
        text = "\n".join(texts) if kind == ".jsonl" else "[" + ",\n".join(texts) + "]"
        return text.encode()
    stream = io.StringIO()
    table = csv.writer(
        stream,
        delimiter="\t" if kind == ".tsv" else ",",
        quoting=draw(st.sampled_from((csv.QUOTE_ALL, csv.QUOTE_MINIMAL))),
        lineterminator=draw(st.sampled_from(("\n", "\r\n"))),
    )
    table.writerow(names)
    for place, row in enumerate(cells):
        if place == bad:
            others = [[*row, "more"], row[:-1]]
            if sys.version_info >= (3, 11):  # the writer of Python 3.10 refuses the character 0
                others.append([*row[:-1], "a\0b"])
            row = draw(st.sampled_from(others))
        table.writerow(row)
    return stream.getvalue().encode()


def _object(items: Any) -> str:
    """An object that may have a key twice, which a dict cannot."""
    return "{" + ", ".join(f"{json.dumps(key)}: {json.dumps(value)}" for key, value in items) + "}"


def _workbook(names: list[str], cells: list[list[str]], bad: int | None) -> bytes:
    book = openpyxl.Workbook()
    sheet = book.active
    assert sheet is not None
    for number, row in enumerate([names, *cells]):
        extra = ["more", "more"] if bad is not None and number == bad + 1 else []
        for column, text in enumerate([*row, *extra], start=1):
            cell = sheet.cell(number + 1, column)
            try:
                cell.value = text[:32_000]
            except Exception:
                cell.value = "?"  # what a workbook cannot hold
            if text.startswith("="):
                cell.data_type = "s"
    return _without_dates(book)


def _without_dates(book: openpyxl.Workbook) -> bytes:
    """The file of a workbook, the same whenever it is written."""
    book.properties.created = book.properties.modified = datetime.datetime(2026, 1, 1)
    dated, plain = io.BytesIO(), io.BytesIO()
    book.save(dated)
    with zipfile.ZipFile(dated) as source, zipfile.ZipFile(plain, "w") as target:
        for name in source.namelist():
            content = source.read(name)
            if name == "docProps/core.xml":
                content = re.sub(rb"(?<=W3CDTF\">)[^<]*", b"2026-01-01T00:00:00Z", content)
            target.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)
    return plain.getvalue()


def check(table: dict[str, Any], folder: Path) -> None:
    file = folder / f"table{table['kind']}"
    file.write_bytes(table["data"])
    hurt, rows = table["hurt"], table["rows"]
    try:
        reading = read_pairs(file)
        items = list(reading)
    except InputError as error:
        if hurt == "none" or (hurt == "row" and len(rows) > 1):
            raise WrongValueError(f"a good {table['kind']} is refused: {error}") from None
        if hurt == "row" and _TOKEN.search(str(error)):
            raise WrongValueError(f"the error quotes the table: {error}") from None
        raise
    pairs = {item.pair_id: item for item in items if isinstance(item, Pair)}
    for pair in pairs.values():
        _unmixed(pair)
    if hurt in ("none", "row"):
        for place, row in enumerate(rows):
            if place != table["bad"]:
                _same(pairs.pop(row["pair_id"], None), row, folder)
        if pairs:
            raise WrongValueError(f"a bad row of a {table['kind']} is taken")
        if len(items) != len(rows):
            raise WrongValueError(f"{len(rows)} rows give {len(items)} items")
    if hurt == "header":
        _under_another_header(pairs, table)


def _unmixed(pair: Pair) -> None:
    own = _TOKEN.search(pair.pair_id)
    texts = (pair.report, pair.image, pair.patient_id)
    seen = {token for text in texts for token in _TOKEN.findall(str(text))}
    if own is not None and seen - {own[0]}:
        raise WrongValueError("a pair holds what stands in another row")


def _same(pair: Pair | None, row: dict[str, str], folder: Path) -> None:
    if pair is None:
        raise WrongValueError("a good row is missing")
    known = (row["report"], row["patient_id"], str(folder / row["image"]), {"view": row["view"]})
    if (pair.report, pair.patient_id, str(pair.image), dict(pair.metadata)) != known:
        raise WrongValueError("a good row has become another")


def _under_another_header(pairs: dict[str, Pair], table: dict[str, Any]) -> None:
    """Columns keep their names; what is named twice, or has no name that can be, is refused."""
    names = table["names"]
    if table["kind"] not in (".json", ".jsonl"):  # whose names are what they are
        names = [name.strip() for name in names]
    if not pairs:
        return
    # A workbook cannot hold it.
    if table["kind"] != ".xlsx" and any("\0" in name for name in names):
        raise WrongValueError("a column with a character 0 in its name is read")
    for role in ("pair_id", "image", "report"):
        if names.count(role) > 1:
            raise WrongValueError(f"two columns are named {role}")


PART = Part("tables", tables(), check)
