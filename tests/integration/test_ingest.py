"""Ingest: what enters, what is listed instead, and that an interruption costs one batch at most."""

from __future__ import annotations

import json
import os
import runpy
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mrrag_llamaindex.errors import InputError, StoreError
from mrrag_llamaindex.mcr.score import FusionWeights
from mrrag_llamaindex.store.ingest.ingest import IngestReport, ingest_pairs
from mrrag_llamaindex.store.ingest.pair_table import read_pairs
from mrrag_llamaindex.store.pair import Pair, Skipped
from mrrag_llamaindex.store.protocol import PairStore
from mrrag_llamaindex.store.schema import StoreSchema

WORKER = Path(__file__).with_name("ingest_worker.py")
ToyTowers = runpy.run_path(str(WORKER))["ToyTowers"]


def new_store(where: object = "memory") -> PairStore:
    return PairStore.open_or_create(where, StoreSchema("toy@1", "", ToyTowers.dimension))


def picture(number: int) -> Image.Image:
    colours = np.random.default_rng(number).integers(0, 255, (2, 2, 3), dtype=np.uint8)
    return Image.fromarray(colours).resize((32, 32))


def pair(number: int, folder: Path, **changes: object) -> Pair:
    path = folder / f"{number}.png"
    if not path.exists():
        picture(number).save(path)
    values: dict = {"image": path, "report": f"study {number} shows finding {number % 3}",
                    "pair_id": f"p{number}", "patient_id": f"patient{number}"}  # fmt: skip
    return Pair(**{**values, **changes})


def contents(store: PairStore) -> dict[str, tuple]:
    return {
        key: (item.report, item.patient_id, item.metadata, item.image_path, item.missing,
              item.vector.tolist())
        for key, item in store.get(sorted(store.pair_ids())).items()
    }  # fmt: skip


@pytest.fixture
def store() -> Iterator[PairStore]:
    with new_store() as made:
        yield made


@pytest.fixture
def towers():
    return ToyTowers()


def test_pairs_are_embedded_stored_and_found(store, towers, tmp_path) -> None:
    report = ingest_pairs([pair(i, tmp_path) for i in range(10)], store, towers, batch_size=4)
    assert (report.added, report.updated, report.unchanged, report.skipped) == (10, 0, 0, ())
    assert report.seconds > 0
    question = towers.embed_images([picture(3)])[0]
    [hit] = store.query(question, None, FusionWeights(0, 1, 0), k=1)
    assert hit.pair_id == "p3"
    assert hit.image_image == pytest.approx(1, abs=1e-3)
    assert hit.image_path == str(tmp_path / "3.png")


def test_second_run_embeds_nothing_and_changes_nothing(store, towers, tmp_path) -> None:
    pairs = [pair(i, tmp_path) for i in range(10)]
    ingest_pairs(pairs, store, towers)
    before = contents(store)
    again = ToyTowers()
    report = ingest_pairs(pairs, store, again)
    assert (report.added, report.updated, report.unchanged) == (0, 10, 10)
    assert (again.images, again.texts) == (0, 0)
    assert contents(store) == before


@pytest.mark.parametrize("what", ["report", "pixels", "metadata", "path"])
def test_any_change_of_a_pair_is_noticed_and_replaces_it(store, towers, tmp_path, what) -> None:
    ingest_pairs([pair(i, tmp_path) for i in range(3)], store, towers)
    changed = {
        "report": lambda: pair(1, tmp_path, report="another text"),
        "pixels": lambda: (picture(99).save(tmp_path / "1.png"), pair(1, tmp_path))[1],
        "metadata": lambda: pair(1, tmp_path, metadata={"view": "PA"}),
        "path": lambda: (picture(1).save(tmp_path / "new.png"),
                         pair(1, tmp_path, image=tmp_path / "new.png"))[1],
    }[what]()  # fmt: skip
    again = ToyTowers()
    report = ingest_pairs([pair(0, tmp_path), changed, pair(2, tmp_path)], store, again)
    assert (report.added, report.updated, report.unchanged, again.images) == (0, 3, 2, 1)
    assert len(store) == 3
    stored = store.get(["p1"])["p1"]
    assert stored.report == changed.report
    assert stored.metadata == dict(changed.metadata)
    assert stored.image_path == str(changed.image)
    np.testing.assert_array_equal(
        stored.vector[: towers.dimension], towers.embed_images([Image.open(changed.image)])[0]
    )


def bad_files(folder: Path) -> dict[str, tuple[Path, str]]:
    folder.mkdir()
    good = folder / "good.png"
    picture(1).resize((300, 300)).save(good)
    (folder / "empty.png").touch()
    (folder / "text.png").write_text("no image")
    (folder / "truncated.png").write_bytes(good.read_bytes()[:-400])
    Image.new("RGB", (1, 1)).save(folder / "dot.png")
    Image.new("1", (20_000, 20_000)).save(folder / "bomb.png")
    said = {"empty": "empty", "text": "not an image", "truncated": "damaged", "dot": "1 x 1",
            "bomb": "more pixels", "absent": "does not exist"}  # fmt: skip
    return {name: (folder / f"{name}.png", words) for name, words in said.items()}


@pytest.mark.slow
def test_bad_files_are_listed_with_reasons_and_the_rest_enters(store, towers, tmp_path) -> None:
    files = bad_files(tmp_path / "jane_doe")
    pairs = [pair(0, tmp_path)]
    pairs += [Pair(path, "private words", name) for name, (path, _) in files.items()]
    pairs.append(pair(1, tmp_path))
    report = ingest_pairs(pairs, store, towers, batch_size=3)
    assert (report.added, sorted(store.pair_ids())) == (2, ["p0", "p1"])
    assert [(item.row, item.pair_id) for item in report.skipped] == list(enumerate(files, start=2))
    for item, (_, words) in zip(report.skipped, files.values(), strict=True):
        assert words in item.reason
        assert "jane_doe" not in item.reason
        assert "private" not in item.reason


KEEP = '; to store it without one, say --missing keep (missing="keep")'


def test_every_other_reason_for_skipping(store, towers, tmp_path) -> None:
    rows = [
        pair(0, tmp_path),
        pair(1, tmp_path, pair_id="p0"),
        Skipped(3, "from-table", "the table said so"),
        pair(2, tmp_path, report="x" * 100_000),
        pair(3, tmp_path, report="  "),
        pair(4, tmp_path, image=None),
        Pair(None, None, "nothing"),
    ]
    report = ingest_pairs(rows, store, towers)
    assert report.added == 1
    assert [str(item) for item in report.skipped] == [
        "row 2 (pair_id 'p0'): row 1 has the same pair_id",
        "row 3 (pair_id 'from-table'): the table said so",
        "row 4 (pair_id 'p2'): the report has 100,000 characters (limit 50,000): are these several "
        "reports?",
        "row 5 (pair_id 'p3'): it has no report" + KEEP,
        "row 6 (pair_id 'p4'): it has no image" + KEEP,
        "row 7 (pair_id 'nothing'): it has neither an image nor a report",
    ]


def test_missing_halves_are_kept_on_request_with_terms_of_zero(store, towers, tmp_path) -> None:
    rows = [
        pair(0, tmp_path),
        pair(1, tmp_path, image=None),
        pair(2, tmp_path, report=None),
        Pair(None, None, "nothing"),
        pair(3, tmp_path, image=tmp_path / "absent.png"),
    ]
    report = ingest_pairs(rows, store, towers, missing="keep")
    # A file that cannot be read is not a missing half: it is listed, never turned into one.
    assert [item.pair_id for item in report.skipped] == ["nothing", "p3"]
    question = towers.embed_images([picture(0)])[0], towers.embed_texts(["finding 1"])[0]
    hits = {hit.pair_id: hit for hit in store.query(*question, FusionWeights(), k=3)}
    assert (hits["p1"].missing, hits["p1"].image_image) == ("image", 0.0)
    assert (hits["p2"].missing, hits["p2"].image_text, hits["p2"].text_text) == ("report", 0.0, 0.0)
    assert hits["p0"].missing is None


def test_strict_stops_at_the_first_bad_row_and_keeps_the_batches_before(
    store, towers, tmp_path
) -> None:
    rows = [pair(i, tmp_path) for i in range(6)]
    rows[4] = pair(4, tmp_path, image=tmp_path / "absent.png")
    with pytest.raises(InputError, match=r"row 5 \(pair_id 'p4'\): .*does not exist") as caught:
        ingest_pairs(rows, store, towers, batch_size=2, strict=True)
    assert str(tmp_path) not in str(caught.value)
    assert len(store) == 4


def test_pair_id_of_another_patient_is_never_overwritten_unless_asked(
    store, towers, tmp_path
) -> None:
    ingest_pairs([pair(1, tmp_path), pair(2, tmp_path, patient_id=None)], store, towers)
    other = pair(1, tmp_path, patient_id="bert", report="bert's report")
    report = ingest_pairs([other], store, towers)
    assert (report.added, report.updated) == (0, 0)
    assert "another patient" in report.skipped[0].reason
    assert store.get(["p1"])["p1"].patient_id == "patient1"
    # Nor may a known patient become unknown; an unknown one may become known.
    report = ingest_pairs([pair(1, tmp_path, patient_id=None), pair(2, tmp_path)], store, towers)
    assert ([item.pair_id for item in report.skipped], report.updated) == (["p1"], 1)
    report = ingest_pairs([other], store, towers, replace=True)
    assert (report.updated, report.unchanged, report.skipped) == (1, 0, ())
    stored = store.get(["p1"])["p1"]
    assert (stored.patient_id, stored.report, len(store)) == ("bert", "bert's report", 2)


def test_vector_of_nan_is_skipped_never_written(store, tmp_path) -> None:
    class Faulty(ToyTowers):
        def embed_images(self, images, batch_size=32):
            rows = super().embed_images(images)
            rows[[image.getpixel((0, 0)) == (0, 0, 0) for image in images]] = np.nan
            return rows

    rows = [pair(0, tmp_path), Pair(Image.new("RGB", (32, 32)), "black", "black")]
    report = ingest_pairs(rows, store, Faulty())
    assert [(item.row, item.pair_id) for item in report.skipped] == [(2, "black")]
    assert "NaN" in report.skipped[0].reason
    assert store.pair_ids() == ["p0"]


def test_image_in_memory_is_embedded_and_recognised_but_not_stored(store, towers) -> None:
    rows = [Pair(picture(5), "text", "p")]
    ingest_pairs(rows, store, towers)
    assert store.get(["p"])["p"].image_path is None
    assert ingest_pairs([Pair(picture(5), "text", "p")], store, towers).unchanged == 1
    assert ingest_pairs([Pair(picture(6), "text", "p")], store, towers).unchanged == 0


def test_other_towers_are_refused_before_anything_is_read(store) -> None:
    def explode() -> Iterator[Pair]:
        raise AssertionError("must not be read")
        yield

    with pytest.raises(StoreError, match=r"'toy@1'.*'toy@2'"):
        ingest_pairs(explode(), store, ToyTowers(identity="toy@2"))


@pytest.mark.parametrize(
    "options", [{"missing": "drop"}, {"batch_size": 0}, {"batch_size": 1.5}, {"batch_size": True}]
)
def test_options_are_validated(store, towers, options) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        ingest_pairs([], store, towers, **options)


def test_progress_counts_rows_and_input_is_read_batch_by_batch(store, towers, tmp_path) -> None:
    events: list = []

    def rows() -> Iterator[Pair]:
        for i in range(5):
            events.append(f"read {i}")
            yield pair(i, tmp_path)

    ingest_pairs(rows(), store, towers, batch_size=2, progress=events.append)
    assert events == ["read 0", "read 1", 2, "read 2", "read 3", 4, "read 4", 5]


def test_nothing_to_ingest_is_a_report_of_zeros(store, towers) -> None:
    report = ingest_pairs([], store, towers)
    assert report == IngestReport(0, 0, 0, (), report.seconds)


@pytest.mark.slow
def test_killed_ingest_resumes_and_ends_as_an_uninterrupted_one(tmp_path) -> None:
    table = tmp_path / "pairs.jsonl"
    rows = [pair(i, tmp_path, metadata={"study_id": i // 2}) for i in range(30)]
    table.write_text("".join(json.dumps(
        {"pair_id": r.pair_id, "image": str(r.image), "report": r.report,
         "patient_id": r.patient_id, "study_id": r.metadata["study_id"]}) + "\n"
        for r in rows))  # fmt: skip

    def run(folder: str, seconds: float, kill_after: int | None = None) -> list[int]:
        process = subprocess.Popen(
            [sys.executable, str(WORKER), str(table), str(tmp_path / folder), str(seconds)],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(WORKER.parents[2])},
        )
        seen: list[int] = []
        try:
            assert process.stdout is not None
            for line in process.stdout:
                seen.append(int(line))
                if kill_after is not None and seen[-1] >= kill_after:
                    process.send_signal(signal.SIGKILL)
            process.wait(timeout=60)
        finally:
            process.kill()
            process.wait(timeout=10)
            process.stdout.close()
        return seen

    # Killed in the middle of a batch, each time a little further on.
    for kill_after in (8, 16):
        acknowledged = run("killed", seconds=0.15, kill_after=kill_after)[-1]
        with PairStore.open(tmp_path / "killed") as store:
            held = set(store.pair_ids())
            assert {f"p{i}" for i in range(acknowledged)} <= held
            assert len(held) <= acknowledged + 4  # the batch in hand may have been written
    towers = ToyTowers()
    with new_store(tmp_path / "killed") as resumed, new_store(tmp_path / "whole") as whole:
        report = ingest_pairs(read_pairs(table), resumed, towers, batch_size=4)
        assert report.added + report.updated == 30
        assert report.unchanged >= 16
        assert towers.images == 30 - report.unchanged
        ingest_pairs(read_pairs(table), whole, ToyTowers(), batch_size=4)
        assert contents(resumed) == contents(whole)
        question = towers.embed_images([picture(3)])[0], towers.embed_texts(["finding 1"])[0]
        assert resumed.query(*question, FusionWeights(), 30) == whole.query(
            *question, FusionWeights(), 30
        )


@pytest.mark.slow
@pytest.mark.real
def test_every_pair_of_a_real_collection_enters(store, towers, covid_cxr: Path) -> None:
    columns = {"pair_id": "filename", "image": "filename", "report": "clinical_notes",
               "patient_id": "patientid"}  # fmt: skip
    rows = read_pairs(covid_cxr / "metadata.csv", columns, covid_cxr / "images")
    report = ingest_pairs(rows, store, towers)
    assert (report.added, report.skipped) == (200, ())
    stored = store.get(store.pair_ids())
    assert all(Path(item.image_path or "").is_file() for item in stored.values())
    assert all(
        item.patient_id and "clinical_notes" not in item.metadata for item in stored.values()
    )
