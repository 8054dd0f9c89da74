"""``mrrag ingest``: what is good is stored, what is not is listed, nothing is lost."""

from __future__ import annotations

import json

import pytest
from PIL import Image

HEADER = "pair_id,image,report,patient_id\n"


@pytest.fixture
def table(tmp_path):
    """Write rows beside one good image."""
    Image.effect_noise((64, 64), 60).convert("RGB").save(tmp_path / "good.png")

    def write(*rows: str, header: str = HEADER):
        path = tmp_path / "pairs.csv"
        path.write_text(header + "".join(f"{row}\n" for row in rows))
        return path

    return write


def ingest(mrrag, table, store, *options):
    result = mrrag("ingest", table, "--store", store, "--towers", "phantom", "--json", *options)
    return result, json.loads(result.out) if result.out else None


def test_second_ingest_adds_nothing_and_loses_nothing(mrrag, table, tmp_path):
    path = table("a,good.png,No nodule.,anna", "b,good.png,There is edema.,bert")
    first = ingest(mrrag, path, tmp_path / "store")[1]
    second = ingest(mrrag, path, tmp_path / "store")[1]
    assert (first["added"], first["updated"], first["skipped"]) == (2, 0, [])
    assert (second["added"], second["updated"], second["unchanged"]) == (0, 2, 2)


def test_a_changed_table_updates_and_says_what_it_did_not_touch(mrrag, table, tmp_path):
    place = ("--store", tmp_path / "store", "--towers", "phantom")
    rows = ["a,good.png,No nodule.,anna", "b,good.png,There is edema.,bert"]
    first = mrrag("ingest", table(*rows), *place).out
    assert first.startswith("2 added, 0 updated, 0 unchanged, 0 skipped in ")
    assert first.strip().endswith("the store holds 2 pairs")
    changed = table(rows[0].replace("No", "Small"), "c,good.png,No edema.,carl")
    second = mrrag("ingest", changed, *place).out
    assert second.startswith("1 added, 1 updated, 0 unchanged, 0 skipped in ")
    assert second.strip().endswith("the store holds 3 pairs, 1 of them not from this run")


def bad_rows(folder) -> dict[str, str]:
    (folder / "empty.png").write_bytes(b"")
    Image.new("RGB", (1, 1)).save(folder / "tiny.png")
    whole = (folder / "good.png").read_bytes()
    (folder / "truncated.png").write_bytes(whole[: len(whole) // 2])
    # A header that claims 60,000 x 60,000 pixels.
    bomb = bytearray(whole)
    bomb[16:24] = (60_000).to_bytes(4, "big") * 2
    (folder / "bomb.png").write_bytes(bytes(bomb))
    return {
        "missing": "x,missing.png,No nodule.,p",
        "empty": "x,empty.png,No nodule.,p",
        "tiny": "x,tiny.png,No nodule.,p",
        "truncated": "x,truncated.png,No nodule.,p",
        "bomb": "x,bomb.png,No nodule.,p",
        "long report": f"x,good.png,{'word ' * 20_000},p",
        "empty report": "x,good.png, ,p",
        "no image": "x,,No nodule.,p",
        "no id": ",good.png,No nodule.,p",
        "duplicate id": "a,good.png,No edema.,anna",
        "another patient": "stored,good.png,No edema.,someone else",
    }


KINDS = (
    *("missing", "empty", "tiny", "truncated", "bomb", "long report", "empty report"),
    *("no image", "no id", "duplicate id", "another patient"),
)


@pytest.mark.parametrize("kind", KINDS)
def test_bad_row_is_listed_with_its_reason_and_the_good_ones_are_stored(
    mrrag, table, tmp_path, kind
):
    store = tmp_path / "store"
    assert ingest(mrrag, table("stored,good.png,No nodule.,anna"), store)[0].code == 0
    bad = bad_rows(tmp_path)[kind]
    path = table("a,good.png,No nodule.,anna", bad, "b,good.png,There is edema.,bert")
    result, report = ingest(mrrag, path, store)
    assert result.code == 0, result.err
    assert report["added"] == 2
    (skipped,) = report["skipped"]
    assert skipped["row"] == 2
    assert skipped["reason"]
    assert "word word" not in skipped["reason"]
    assert str(tmp_path) not in skipped["reason"]


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "duplicate id"])
def test_only_a_bad_row_is_one_line_and_exit_2(mrrag, table, tmp_path, kind):
    store = tmp_path / "store"
    assert ingest(mrrag, table("stored,good.png,No nodule.,anna"), store)[0].code == 0
    result, report = ingest(mrrag, table(bad_rows(tmp_path)[kind]), store)
    assert result.code == 2
    assert len([line for line in result.err.splitlines() if line.startswith("error: ")]) == 1
    assert report["added"] == 0


def test_strict_stops_at_the_first_bad_row(mrrag, table, tmp_path):
    path = table("x,missing.png,No nodule.,p", "a,good.png,No nodule.,anna")
    result, _ = ingest(mrrag, path, tmp_path / "store", "--strict")
    assert result.code == 2
    assert "row 1" in result.err


def test_columns_are_renamed_and_the_rest_is_metadata(mrrag, table, tmp_path):
    from mrrag_llamaindex import PairStore

    path = table("good.png,No nodule.,7,PA", header="file,notes,subject,view\n")
    renames = "pair_id=file,image=file,report=notes,patient_id=subject"
    result, report = ingest(mrrag, path, tmp_path / "store", "--columns", renames)
    assert result.code == 0, result.err
    assert report["added"] == 1
    pair = PairStore.open(tmp_path / "store").get(["good.png"])["good.png"]
    assert (pair.patient_id, pair.metadata["view"]) == ("7", "PA")


@pytest.mark.parametrize(
    ("columns", "word"), [("image", "name=column"), ("picture=file", "picture")]
)
def test_bad_columns_option_is_named(mrrag, table, tmp_path, columns, word):
    result, _ = ingest(mrrag, table("a,good.png,x,p"), tmp_path / "s", "--columns", columns)
    assert result.code == 2
    assert word in result.err


def test_table_without_a_column_names_it(mrrag, table, tmp_path):
    result, _ = ingest(mrrag, table("a,good.png", header="pair_id,image\n"), tmp_path / "store")
    assert result.code == 2
    assert "report" in result.err
    assert not (tmp_path / "store").exists()


def test_missing_table_and_missing_towers(mrrag, tmp_path, table):
    result, _ = ingest(mrrag, tmp_path / "none.csv", tmp_path / "store")
    assert result.code == 2
    assert "none.csv" in result.err
    result = mrrag(
        "ingest", table("a,good.png,x,p"), "--store", tmp_path / "store", "--towers", "./no/towers"
    )
    assert result.code == 2
    assert "./no/towers" in result.err


def test_missing_keep_stores_half_pairs(mrrag, table, tmp_path):
    path = table("a,,No nodule.,anna", "b,good.png,,bert")
    result, report = ingest(mrrag, path, tmp_path / "store", "--missing", "keep")
    assert result.code == 0, result.err
    assert report["added"] == 2


@pytest.mark.slow
def test_window_and_frame_are_read_and_another_one_embeds_again(mrrag, table, tmp_path):
    frames = [Image.effect_noise((64, 64), 10 * number) for number in (1, 5)]
    frames[0].save(tmp_path / "two.tif", save_all=True, append_images=frames[1:])
    path, store = table("a,two.tif,No nodule.,anna"), tmp_path / "store"
    result, _ = ingest(mrrag, path, store)
    assert result.code == 2
    assert "2 frames" in result.err
    for options, added, unchanged in (
        (("--frame", 1), 1, 0),
        (("--frame", 1), 0, 1),
        (("--frame", 2), 0, 0),
        (("--frame", 2, "--window", "-10,300"), 0, 0),
        (("--frame", 2, "--window", "-10,300"), 0, 1),
    ):
        report = ingest(mrrag, path, store, *options)[1]
        assert (report["added"], report["unchanged"], report["skipped"]) == (added, unchanged, [])


@pytest.mark.parametrize("options", [("--window", "400,-100"), ("--window", "x"), ("--frame", 0)])
def test_an_impossible_window_or_frame_is_refused_before_anything_is_made(
    mrrag, table, tmp_path, options
):
    result, _ = ingest(mrrag, table("a,good.png,text,p"), tmp_path / "store", *options)
    assert result.code == 2
    assert options[0] in result.err
    assert not (tmp_path / "store").exists()
