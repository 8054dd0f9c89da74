"""How a table is separated and encoded is found out, and told to the commands that follow."""

from __future__ import annotations

import pytest

from mrrag_llamaindex.doctor.start.sample import TableSample
from mrrag_llamaindex.errors import InputError

TEXT = "id{0}report\n1{0}größer\n2{0}kleiner\n"


@pytest.mark.parametrize(
    ("name", "separator", "codec", "told"),
    [
        ("t.csv", ",", "utf-8", (None, None)),
        ("t.csv", ";", "cp1252", ("cp1252", ";")),
        ("t.csv", "\t", "utf-16", ("utf-16", "tab")),
        ("t.tsv", "\t", "utf-8-sig", (None, None)),
        ("t.tsv", "|", "utf-8", (None, "|")),
    ],
)
def test_separator_and_encoding_are_found(tmp_path, name, separator, codec, told):
    path = tmp_path / name
    path.write_text(TEXT.format(separator), encoding=codec)
    sample = TableSample.read(path)
    assert (sample.encoding, sample.delimiter) == told
    assert sample.columns == ("id", "report")
    assert sample.values("report") == ["größer", "kleiner"]


def test_what_is_no_table_is_named(tmp_path):
    path = tmp_path / "t.csv"
    path.write_bytes(b"PK\x03\x04" + bytes(60))
    with pytest.raises(InputError, match=r"t\.csv is not a text file"):
        TableSample.read(path)
    with pytest.raises(InputError, match=r"notes\.pdf"):
        TableSample.read(tmp_path / "notes.pdf")
