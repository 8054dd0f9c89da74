"""Tables as people have them: kinds of files, encodings, separators, broken rows."""

from __future__ import annotations

import json
import sys
import unicodedata
from pathlib import Path

import pytest

from mrrag_llamaindex.errors import InputError
from mrrag_llamaindex.store.ingest.pair_table import NO_PATIENT, read_pairs
from mrrag_llamaindex.store.pair import Pair, Skipped

HEADER = "pair_id,image,report\n"
ROWS = [{"pair_id": str(n), "image": f"{n}.png", "report": f"Report {n}."} for n in (1, 2, 3)]


def read(folder: Path, content: str | bytes, name: str = "pairs.csv", **options) -> list:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return list(read_pairs(path, **options))


def ids(items: list) -> list[str]:
    return [item.pair_id for item in items if isinstance(item, Pair)]


def reasons(items: list) -> dict[int, str]:
    return {item.row: item.reason for item in items if isinstance(item, Skipped)}


def delimited(mark: str) -> str:
    lines = [list(ROWS[0]), *(list(row.values()) for row in ROWS)]
    return "".join(mark.join(line) + "\n" for line in lines)


@pytest.mark.parametrize(
    ("name", "content", "options"),
    [
        ("pairs.tsv", delimited("\t"), {}),
        ("pairs.TSV", delimited("\t"), {}),
        ("pairs.csv", delimited(";"), {"delimiter": ";"}),
        ("pairs.csv", delimited("\t"), {"delimiter": "tab"}),
        ("pairs.csv", delimited(",").replace("\n", "\r\n"), {}),
        ("pairs.csv", delimited(",").replace("\n", "\r"), {}),
        ("pairs.csv", "\ufeff\ufeff" + delimited(","), {}),
        ("pairs.csv", delimited(",") + ",,\n  ,,\n\n", {}),
        ("pairs.json", json.dumps(ROWS), {}),
        ("pairs.json", json.dumps(ROWS, indent=2), {}),
        ("pairs.json", "\n".join(map(json.dumps, ROWS)), {}),
        ("pairs.jsonl", json.dumps(ROWS), {}),
        ("pairs.jsonl", "\ufeff\n" + json.dumps(ROWS, indent=1) + "\n", {}),
        ("pairs.jsonl", "\ufeff\ufeff" + "\n".join(map(json.dumps, ROWS)), {}),
    ],
)
def test_one_table_in_every_form_gives_the_same_pairs(tmp_path, name, content, options) -> None:
    items = read(tmp_path, content, name, **options)
    assert [(item.pair_id, item.report) for item in items] == [
        ("1", "Report 1."),
        ("2", "Report 2."),
        ("3", "Report 3."),
    ]
    assert [item.row for item in items] == [1, 2, 3]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32-le"])
@pytest.mark.parametrize("name", ["pairs.csv", "pairs.jsonl"])
def test_another_unicode_encoding_is_named_and_read_when_it_is_given(
    tmp_path, encoding, name
) -> None:
    text = delimited(",") if name == "pairs.csv" else "\n".join(map(json.dumps, ROWS))
    with pytest.raises(InputError, match=f"UTF-8 text, but seems to be {encoding.upper()}.*--enc"):
        read(tmp_path, text.encode(encoding), name)
    assert ids(read(tmp_path, text.encode(encoding), name, encoding=encoding)) == ["1", "2", "3"]


def test_windows_text_is_read_by_its_name(tmp_path) -> None:
    content = (HEADER + "1,a.png,Erguß\n").encode("cp1252")
    assert read(tmp_path, content, encoding="cp1252")[0].report == "Erguß"
    with pytest.raises(InputError, match=r"not UTF-8 text \(byte 0xdf\).*--encoding cp1252"):
        read(tmp_path, content)
    with pytest.raises(InputError, match="'klingon' is not a known encoding"):
        read(tmp_path, content, encoding="klingon")


def test_one_row_that_is_not_utf_8_is_listed_and_the_others_are_read(tmp_path) -> None:
    lines = [HEADER.encode(), b"1,a.png,one\n", b"2,a.png,Ergu\xdf\n", b"3,a.png,three\n"]
    items = read(tmp_path, b"".join(lines))
    assert ids(items) == ["1", "3"]
    assert "not UTF-8" in reasons(items)[2]


@pytest.mark.parametrize(
    "bad",
    [
        '2,a.png,"5" tube"',
        '2,a.png,"He said "no" again."',
        '2,a.png,"never closed',
        "2,a.png,one, two",
        "2,a.png",
        "2,a.png,nul\0nul",
    ],
)
def test_a_broken_csv_row_costs_itself_alone(tmp_path, bad) -> None:
    rows = [f'{n},a.png,"fine, {n}"' for n in range(3, 40)]
    items = read(tmp_path, HEADER + "1,a.png,ok\n" + bad + "\n" + "\n".join(rows) + "\n")
    assert ids(items) == ["1", *(str(n) for n in range(3, 40))]
    assert list(reasons(items)) == [2]
    assert [item.report for item in items[2:4]] == ["fine, 3", "fine, 4"]


def test_rows_between_two_stray_quotes_are_not_one_patients_report(tmp_path) -> None:
    text = HEADER + '1,a.png,"5 cm mass\n2,b.png,edema\n3,c.png,clear\n4,d.png,tube of 5"\n'
    items = read(tmp_path, text)
    assert ids(items) == ["2", "3", "4"]
    assert "quote before them was not closed" in reasons(items)[1]
    # Commas within the lines of a report are no rows.
    [pair] = read(tmp_path, HEADER + '1,a.png,"No mass, edema, effusion.\nHeart, lungs, clear."\n')
    assert pair.report == "No mass, edema, effusion.\nHeart, lungs, clear."


@pytest.mark.parametrize("name", ["pairs.jsonl", "array.jsonl", "pairs.json"])
@pytest.mark.parametrize(
    ("field", "said"),
    [
        ('"uid": ' + "9" * 5000, "integer of 5,000 digits"),
        ('"uid": ' + "9" * 25, "64 bits"),
        ('"x": ' + "[" * 100_000 + "]" * 100_000, "not valid JSON"),
        ('"x": 1e999', "infinite"),
        ('"report": "another"', "two fields named 'report'"),
        ('"x": nonsense', "not valid JSON"),
        ('"a\\u0000b": "x"', "character 0"),
        ('"x": "a\\u0000b"', "character 0"),
    ],
)
def test_a_bad_json_row_costs_itself_alone(tmp_path, name, field, said) -> None:
    lines = [json.dumps(row) for row in ROWS]
    lines[1] = lines[1][:-1] + f", {field}}}"
    text = "\n".join(lines) if name == "pairs.jsonl" else "[" + ",\n".join(lines) + "]"
    items = read(tmp_path, text, name)
    assert ids(items) == ["1", "3"]
    assert said in reasons(items)[2]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("pairs.csv", HEADER, "no rows"),
        ("pairs.tsv", HEADER.replace(",", "\t") + "\n\n", "no rows"),
        ("pairs.json", "[]", "no rows"),
        ("pairs.jsonl", " \n", "is empty"),
        ("pairs.json", '{"pair_id": {"0": 1}}\n{', "no field 'image'"),
        ("pairs.json", '{\n "pair_id": [1]}', "array of objects"),
        ("pairs.json", json.dumps(ROWS)[:-1], "cut off"),
        ("pairs.csv", b"PK\x03\x04rest", "Excel workbook"),
        ("pairs.csv", "pair_id,image,report,x\0\n1,a.png,r,y\n", "header that holds a character 0"),
        ("pairs.tsv", HEADER + "1,a,b\n", "separated by commas"),
        ("pairs.parquet", "x", r"\.xlsx files, not '\.parquet'"),
    ],
)
def test_a_file_that_is_no_table_is_named(tmp_path, name, content, said) -> None:
    if said.startswith("no field"):
        assert said in reasons(read(tmp_path, content, name))[1]
        return
    with pytest.raises(InputError, match=said):
        read(tmp_path, content, name)


@pytest.mark.parametrize(("delimiter", "name"), [("::", "p.csv"), ('"', "p.csv"), (",", "p.json")])
def test_an_impossible_delimiter_is_refused(tmp_path, delimiter, name) -> None:
    with pytest.raises(InputError, match="delimiter"):
        read(tmp_path, HEADER + "1,a,b\n", name, delimiter=delimiter)


@pytest.mark.parametrize("word", ["nan", "NaN", "None", "NULL", "null", "n/a", "N/A", "NA", "-"])
def test_words_for_nothing_are_missing_and_never_one_patient(tmp_path, word) -> None:
    table = tmp_path / "pairs.csv"
    table.write_text(
        "pair_id,image,report,patient_id,study_id\n"
        f"1,a.png,{word},anna,s\n2,b.png,ok,{word},{word}\n3,{word},ok,{word},s\n{word},a,ok,p,s\n"
    )
    rows = read_pairs(table)
    items = list(rows)
    assert [(item.missing, item.patient_id, item.study_id) for item in items[:3]] == [
        ("report", "anna", "s"),
        (None, None, None),
        ("image", None, "s"),
    ]
    assert items[3] == Skipped(4, None, "pair_id is empty")
    assert rows.notes == [f"{NO_PATIENT}: rows 2, 3"]


def test_unknown_is_no_patient_but_may_be_a_report(tmp_path) -> None:
    text = "pair_id,image,report,patient_id\n1,a,Unknown,unknown\n2,b,None.,Anonymous\n"
    first, second = read(tmp_path, text)
    assert (first.report, first.patient_id, second.patient_id) == ("Unknown", None, None)


def test_windows_paths_and_decomposed_names_are_found(tmp_path) -> None:
    composed, decomposed = (unicodedata.normalize(form, "Fuß é") for form in ("NFC", "NFD"))
    (tmp_path / "images" / decomposed).mkdir(parents=True)
    for name in (f"images/{decomposed}/ä.png", "images/a.png"):
        (tmp_path / name).touch()
    text = HEADER + f"1,images\\a.png,r\n2,images\\{composed}\\ä.png,r\n3,images/no.png,r\n"
    items = read(tmp_path, text)
    assert items[0].image == str(tmp_path / "images/a.png")
    assert Path(items[1].image).is_file()
    assert items[2].image == str(tmp_path / "images/no.png")


@pytest.mark.skipif(sys.platform == "win32", reason="a drive is a place there")
def test_a_drive_is_named_and_web_addresses_stay(tmp_path) -> None:
    text = HEADER + "1,C:\\img\\a.png,r\n2,https://host/a.png,r\n3,s3://bucket/a.png,r\n"
    items = read(tmp_path, text)
    assert "drive of Windows" in reasons(items)[1]
    assert [item.image for item in items[1:]] == ["https://host/a.png", "s3://bucket/a.png"]


def test_a_report_is_joined_from_columns(tmp_path) -> None:
    text = "pair_id,image,findings,impression\n1,a,Clear lungs.,Normal.\n2,a,nan,Edema.\n3,a,,\n"
    items = read(tmp_path, text, columns={"report": "findings+impression"})
    assert [item.report for item in items] == ["Clear lungs.\nNormal.", "Edema.", None]
    assert items[0].metadata == {}
    with pytest.raises(InputError, match="no column 'conclusion'"):
        read(tmp_path, text, columns={"report": "findings + conclusion"})
    row = {"pair_id": "1", "image": "a", "findings": "Clear."}
    [pair] = read(tmp_path, json.dumps(row), "p.jsonl", columns={"report": "findings+impression"})
    assert pair.report == "Clear."


def test_reports_in_text_files_are_read_and_noted(tmp_path) -> None:
    (tmp_path / "reports").mkdir()
    (tmp_path / "reports" / "1.txt").write_text("\ufeffClear lungs.\n", encoding="utf-8")
    (tmp_path / "reports" / "2.txt").write_bytes(b"Ergu\xdf")
    (tmp_path / "reports" / "4.txt").write_text("x" * 300_000)
    table = tmp_path / "pairs.csv"
    table.write_text(
        HEADER + "1,a.png,reports/1.txt\n2,a.png,reports\\2.txt\n3,a.png,reports/none.txt\n"
        "4,a.png,reports/4.txt\n"
    )
    rows = read_pairs(table)
    items = list(rows)
    assert items[0].report.strip() == "Clear lungs."
    for row, said in ((2, "not UTF-8"), (3, "does not exist"), (4, "longer than 50,000")):
        assert said in reasons(items)[row]
        assert "reports" not in reasons(items)[row]
    assert rows.notes == ["the report is the text of the file named there: row 1"]


def test_a_column_named_like_ours_is_kept_under_another_name(tmp_path) -> None:
    table = tmp_path / "pairs.csv"
    table.write_text("pair_id,image,report,missing,mrrag_x,column_missing,view\n1,a,r,no,2,m,PA\n")
    rows = read_pairs(table)
    [pair] = rows
    assert pair.metadata == {
        "column_missing_": "no",
        "column_mrrag_x": "2",
        "column_missing": "m",
        "view": "PA",
    }
    assert len(rows.notes) == 2
    assert "'missing'" in rows.notes[0]
    renamed = {"pair_id": "file", "image": "file"}
    [pair] = read(tmp_path, "file,pair_id,report\na.png,7,r\n", columns=renamed)
    assert (pair.pair_id, pair.metadata) == ("a.png", {"column_pair_id": "7"})


def test_excel_keeps_leading_zeros_and_names_what_it_cannot_read(tmp_path) -> None:
    openpyxl = pytest.importorskip("openpyxl")
    import datetime

    book = openpyxl.Workbook()
    sheet = book.active
    sheet.append(["pair_id", "image", "report", "patient_id", "date", "age"])
    sheet.append(["p1", "a.png", "Clear.", 7, datetime.date(2024, 3, 1), 54])
    sheet.append([])
    sheet.append([2, "b.png", "Edema.", None, None, 61.5])
    sheet.append(["p3", "c.png", "#REF!", "x", None, None])
    sheet["D2"].number_format = "000"
    sheet["C5"].data_type = "e"
    book.save(tmp_path / "pairs.xlsx")
    items = list(read_pairs(tmp_path / "pairs.xlsx"))
    assert items[0] == Pair(
        str(tmp_path / "a.png"), "Clear.", "p1", "007", {"date": "2024-03-01T00:00:00", "age": 54}
    )
    assert (items[1].pair_id, items[1].patient_id, items[1].metadata) == ("2", None, {"age": 61.5})
    assert type(items[0].metadata["date"]) is str
    assert "error of Excel's in the column 'report'" in reasons(items)[3]

    sheet["A2"] = datetime.date(2024, 2, 1)  # what Excel makes of the id 1-2
    book.save(tmp_path / "dates.xlsx")
    assert "an identifier is a date" in reasons(read_pairs(tmp_path / "dates.xlsx"))[1]
    sheet["A2"] = "p1"

    sheet["H4"] = "a note beside the table"
    book.save(tmp_path / "note.xlsx")
    noted = list(read_pairs(tmp_path / "note.xlsx"))
    assert noted[0] == Pair(str(tmp_path / "a.png"), *("Clear.", "p1", "007"), noted[0].metadata)
    assert "8 cells, but the header has 6" in reasons(noted)[2]

    sheet.merge_cells("D3:D4")
    book.save(tmp_path / "merged.xlsx")
    with pytest.raises(InputError, match="merged cells"):
        read_pairs(tmp_path / "merged.xlsx")
    book = openpyxl.Workbook()
    for title in ("one", "two"):
        book.create_sheet(title).append(["pair_id"])
    book.save(tmp_path / "sheets.xlsx")
    with pytest.raises(InputError, match=r"2 sheets \('one', 'two'\)"):
        read_pairs(tmp_path / "sheets.xlsx")
    with pytest.raises(InputError, match="no encoding"):
        read_pairs(tmp_path / "sheets.xlsx", encoding="utf-8")
