"""``mrrag ingest``: what it says of its rows, how it ends, and ``--check``."""

from __future__ import annotations

import json

import pytest
from PIL import Image

HEADER = "pair_id,image,report,patient_id\n"


@pytest.fixture
def table(tmp_path):
    """Write rows beside two images."""
    for name in ("a.png", "b.png"):
        Image.effect_noise((64, 48), 60).convert("RGB").save(tmp_path / name)

    def write(*rows: str, header: str = HEADER, name: str = "pairs.csv"):
        path = tmp_path / name
        path.write_text(header + "".join(f"{row}\n" for row in rows))
        return path

    return write


def ingest(mrrag, path, store, *options):
    return mrrag("ingest", path, "--store", store, "--towers", "phantom", *options)


@pytest.mark.slow
def test_the_last_line_says_that_rows_were_skipped(mrrag, table, tmp_path):
    path = table("1,a.png,No nodule.,anna", "2,none.png,No nodule.,nan", "3,b.png,nan,bert")
    result = ingest(mrrag, path, tmp_path / "store")
    assert result.code == 0, result.err
    *_, last = result.out.splitlines()
    assert last.startswith("2 rows were skipped")
    assert "note: no patient_id" in result.out
    assert ingest(mrrag, path, tmp_path / "store", "--fail-on-skipped").code == 1
    result = ingest(mrrag, path, tmp_path / "store", "--fail-on-skipped", "--json")
    assert result.code == 1
    facts = json.loads(result.out)
    assert (len(facts["skipped"]), facts["notes"][0][-5:]) == (2, "row 2")
    assert "2 rows were skipped" in result.err
    clean = ingest(mrrag, table("1,a.png,ok,anna"), tmp_path / "store", "--fail-on-skipped")
    assert clean.code == 0
    assert "skipped," not in clean.out.splitlines()[-1]


@pytest.mark.parametrize("options", [(), ("--json",), ("--strict",), ("--fail-on-skipped",)])
def test_no_store_is_left_where_nothing_could_be_stored(mrrag, table, tmp_path, options):
    path = table("1,none.png,No nodule.,anna", "2,a.png,,anna", ",a.png,x,p")
    result = ingest(mrrag, path, tmp_path / "store", *options)
    assert result.code == 2
    assert not (tmp_path / "store").exists()
    if "--json" in options:
        assert [row["row"] for row in json.loads(result.out)["skipped"]] == [1, 2, 3]


@pytest.mark.parametrize("check", [False, True])
def test_a_table_without_rows_is_an_error(mrrag, table, tmp_path, check):
    options = ("--check",) if check else ()
    result = ingest(mrrag, table(), tmp_path / "store", *options)
    assert result.code == 2
    assert "no rows" in result.err
    assert not (tmp_path / "store").exists()


def test_a_table_that_breaks_off_stores_what_came_before(mrrag, table, tmp_path):
    from mrrag_llamaindex import PairStore

    path = table("1,a.png,ok,anna", "2,b.png,ok,bert", '3,a.png,"open,carl')
    result = ingest(mrrag, path, tmp_path / "store")
    assert result.code == 2
    assert "after data row 2" in result.err
    with PairStore.open(tmp_path / "store") as store:
        assert store.pair_ids() == ["1", "2"]


def test_other_tables_are_read_by_option_and_name(mrrag, table, tmp_path):
    path = table("1;a.png;Erguß;p", header=HEADER.replace(",", ";"))
    path.write_bytes(path.read_text().encode("cp1252"))
    options = ("--delimiter", ";", "--encoding", "cp1252", "--columns", "report=report+patient_id")
    assert ingest(mrrag, path, tmp_path / "store", *options).code == 0
    rows = table("2\ta.png\tok\tp", header=HEADER.replace(",", "\t"), name="pairs.tsv")
    assert ingest(mrrag, rows, tmp_path / "store").code == 0
    assert ingest(mrrag, rows, tmp_path / "store", "--delimiter", "::").code == 2


def test_check_stores_nothing_lists_everything_and_writes_a_page(
    mrrag, table, tmp_path, monkeypatch
):
    from mrrag_llamaindex import PairStore

    monkeypatch.chdir(tmp_path)
    store = tmp_path / "store"
    stored = ingest(mrrag, table("old,a.png,ok,anna"), store)
    assert stored.code == 0
    path = table(
        "1,a.png,ok,anna", "2,b.png,ok,bert", "3,none.png,ok,p", "1,a.png,ok,anna", "old,a.png,x,q"
    )
    result = mrrag("ingest", path, "--check", "--store", store, "--json")
    assert result.code == 0, result.err
    facts = json.loads(result.out)
    assert (facts["usable"], facts["thumbnails"]) == (2, 2)
    said = {row["row"]: row["reason"] for row in facts["skipped"]}
    assert "does not exist" in said[3]
    assert said[4] == "row 1 has the same pair_id"
    assert "another patient" in said[5]
    page = Image.open(tmp_path / "pairs-contact-sheet.png")
    assert page.size == (2 * 166 + 6, 180 + 6)
    with PairStore.open(store) as pairs:
        assert pairs.pair_ids() == ["old"]

    other = tmp_path / "page.png"
    result = mrrag("ingest", path, "--check", "--contact-sheet", other, "--fail-on-skipped")
    assert result.code == 1  # without a store nobody knows of the other patient
    assert result.out.splitlines()[-1].startswith("2 rows would be skipped")
    assert other.is_file()


def test_a_window_shows_on_the_contact_sheet(mrrag, table, tmp_path):
    Image.new("L", (64, 64), 100).save(tmp_path / "grey.png")
    page = tmp_path / "page.png"
    options = ("--check", "--contact-sheet", page)
    mrrag("ingest", table("1,grey.png,ok,p"), *options)
    assert Image.open(page).getpixel((80, 80)) == (100, 100, 100)
    mrrag("ingest", table("1,grey.png,ok,p"), *options, "--window", "0,100")
    assert Image.open(page).getpixel((80, 80)) == (255, 255, 255)


def test_what_does_not_go_together_is_named(mrrag, table, tmp_path):
    path = table("1,a.png,ok,anna")
    assert "--check" in mrrag("ingest", path, "--store", tmp_path / "s").err
    result = ingest(mrrag, path, tmp_path / "s", "--contact-sheet", tmp_path / "x.png")
    assert result.code == 2
    assert "--check" in result.err
    result = mrrag("ingest", path, "--check", "--contact-sheet", tmp_path / "no" / "x.png")
    assert result.code == 2
    assert "x.png cannot be written" in result.err
