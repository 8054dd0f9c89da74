"""Tables as they come: byte order marks, broken quotes, separators, rows that are no pairs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mrrag_llamaindex.errors import InputError
from mrrag_llamaindex.store.ingest.pair_table import read_pairs
from mrrag_llamaindex.store.pair import Pair, Skipped


def write(folder: Path, content: str | bytes, name: str = "pairs.csv") -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def read(folder: Path, content: str | bytes, name: str = "pairs.csv", **options) -> list:
    return list(read_pairs(write(folder, content, name), **options))


def test_csv_row_becomes_a_pair_with_the_other_columns_as_metadata(tmp_path) -> None:
    [pair] = read(tmp_path, "pair_id,image,report,patient_id,view,age\np1,a.png,Clear.,007,PA,\n")
    assert pair == Pair(str(tmp_path / "a.png"), "Clear.", "p1", "007", {"view": "PA"})


def test_identifiers_that_look_like_numbers_stay_text(tmp_path) -> None:
    [pair] = read(tmp_path, "pair_id,image,report,patient_id,study_id\n0012,a,r,007,1e5\n")
    assert (pair.pair_id, pair.patient_id, pair.study_id) == ("0012", "007", "1e5")


def test_blanks_around_identifiers_are_dropped(tmp_path) -> None:
    [pair] = read(tmp_path, "pair_id,image,report,patient_id\n p1 ,a,r, anna \n")
    assert (pair.pair_id, pair.patient_id) == ("p1", "anna")


def test_columns_can_be_renamed_and_shared(tmp_path) -> None:
    columns = {"pair_id": "filename", "image": "filename", "report": "notes", "study_id": "exam"}
    text = "filename,notes,exam\na.png,Clear.,9\n"
    [pair] = read(tmp_path, text, columns=columns, images=tmp_path / "images")
    assert pair == Pair(
        str(tmp_path / "images" / "a.png"), "Clear.", "a.png", metadata={"study_id": "9"}
    )


def test_absolute_image_paths_stay(tmp_path) -> None:
    [pair] = read(tmp_path, "pair_id,image,report\np,/data/a.png,r\n", images="elsewhere")
    assert pair.image == "/data/a.png"


def test_quoted_newlines_commas_and_quotes_belong_to_the_field(tmp_path) -> None:
    text = 'pair_id,image,report\np1,a.png,"First, ""second"".\nThird."\np2,b.png,x\n'
    rows = read(tmp_path, text)
    assert rows[0].report == 'First, "second".\nThird.'
    assert rows[1].pair_id == "p2"


def test_byte_order_mark_and_replacement_characters_are_harmless(tmp_path) -> None:
    [pair] = read(tmp_path, b"\xef\xbb\xbf" + "pair_id,image,report\np,a,caf\ufffd\n".encode())
    assert pair.report == "caf\ufffd"


def test_report_longer_than_the_csv_modules_limit_is_read(tmp_path) -> None:
    [pair] = read(tmp_path, f"pair_id,image,report\np,a,{'x' * 200_000}\n")
    assert len(pair.report) == 200_000


@pytest.mark.parametrize(("mark", "word"), [(";", "';'"), ("\t", "tabs"), ("|", r"'\|'")])
def test_other_separator_is_named(tmp_path, mark, word) -> None:
    with pytest.raises(InputError, match=f"separated by {word}"):
        read(tmp_path, mark.join(["pair_id", "image", "report"]) + "\n")


def test_missing_column_is_named_with_those_present(tmp_path) -> None:
    path = write(tmp_path, "id,image,text\n")
    with pytest.raises(InputError, match=r"no column 'pair_id'.*id, image, text"):
        read_pairs(path)  # raised by the call, not by the first row
    with pytest.raises(InputError, match="no column 'who'"):
        read_pairs(write(tmp_path, "pair_id,image,report\n"), columns={"patient_id": "who"})


def test_unknown_role_is_refused(tmp_path) -> None:
    with pytest.raises(InputError, match="not for 'picture'"):
        read_pairs(tmp_path / "pairs.csv", columns={"picture": "x"})


@pytest.mark.parametrize(
    ("content", "name", "said"),
    [
        (b"", "pairs.csv", "is empty"),
        (b"", "pairs.jsonl", "is empty"),
        (b"pair_id,image,image,report\n", "pairs.csv", "two columns named 'image'"),
        ("pair_id,image,report\np,a,café\n".encode("latin-1"), "pairs.csv", "not UTF-8"),
        ("pair_id,image,report\n".encode("utf-16"), "pairs.csv", "not UTF-8"),
        (b'pair_id,image,report\np1,a,x\np2,b,"open\n', "pairs.csv", "after data row 1 "),
        (b"x", "pairs.xlsx", r"\.csv or \.jsonl"),
    ],
)
def test_file_that_is_no_table_gives_one_clear_line(tmp_path, content, name, said) -> None:
    with pytest.raises(InputError, match=said) as caught:
        read(tmp_path, content, name)
    assert "\n" not in str(caught.value)


def test_missing_file_is_named(tmp_path) -> None:
    with pytest.raises(InputError, match=r"none\.csv cannot be read: No such file"):
        read_pairs(tmp_path / "none.csv")


def test_row_with_too_many_or_too_few_cells_is_skipped_not_shifted(tmp_path) -> None:
    rows = read(tmp_path, "pair_id,image,report\np1,a,one, two\np2,b\np3,c,x\n")
    assert [type(row) for row in rows] == [Skipped, Skipped, Pair]
    assert rows[0].row == 1
    assert "4 cells" in rows[0].reason
    assert "one" not in rows[0].reason


def test_row_without_an_id_is_skipped_with_its_number(tmp_path) -> None:
    rows = read(tmp_path, "pair_id,image,report\np1,a,x\n\n,b,y\n")
    assert rows[1] == Skipped(2, None, "pair_id is empty")


def test_jsonl_keeps_types_and_turns_integer_ids_into_text(tmp_path) -> None:
    line = {"pair_id": 7, "image": "a.png", "report": "r", "patient_id": 3, "age": 54, "x": None}
    [pair] = read(tmp_path, json.dumps(line) + "\n", "pairs.jsonl")
    assert (pair.pair_id, pair.patient_id, pair.metadata) == ("7", "3", {"age": 54})


def test_bad_jsonl_lines_are_skipped_with_reasons_and_the_rest_is_read(tmp_path) -> None:
    good = '{"pair_id": "p", "image": "a", "report": "secret words"}'
    lines = [
        "{not json secret",
        "[1]",
        '{"pair_id": "q", "image": "a"}',
        '{"pair_id": "r", "image": 5, "report": "x"}',
        '{"pair_id": true, "image": "a", "report": "x"}',
        '{"pair_id": "s", "image": "a", "report": ["x"]}',
        '{"pair_id": "t", "image": "a", "report": "x", "tags": ["y"]}',
        '{"pair_id": "u", "image": "a", "report": "\\ud800"}',
        good,
    ]
    rows = read(tmp_path, "\n\n".join(lines), "pairs.jsonl")
    assert [row.row for row in rows[:-1]] == list(range(1, 9))
    assert rows[-1].pair_id == "p"
    reasons = [row.reason for row in rows[:-1]]
    for reason, said in zip(
        reasons,
        ["not valid JSON", "a JSON list", "'report'", "image is a int", "is a bool", "is a list",
         "'tags' is a list", "not valid Unicode"],
        strict=True,
    ):  # fmt: skip
        assert said in reason
        assert "secret" not in reason


def test_empty_halves_are_left_to_the_ingest(tmp_path) -> None:
    rows = read(tmp_path, "pair_id,image,report\np1,,x\np2,a,\n")
    assert [row.missing for row in rows] == ["image", "report"]
