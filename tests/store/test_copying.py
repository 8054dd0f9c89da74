"""A store in another place: the same pairs, whatever cut the copy short."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from mrrag_llamaindex.commands.app import app
from mrrag_llamaindex.doctor.store_check import verify_store
from mrrag_llamaindex.errors import InputError, StoreError
from mrrag_llamaindex.mcr.blocks import Blocks
from mrrag_llamaindex.mcr.gated_weights import QueryGatedWeights
from mrrag_llamaindex.mcr.score import FusionWeights
from mrrag_llamaindex.store import copying
from mrrag_llamaindex.store.copying import copy_store, refuse_one_place, target_schema
from mrrag_llamaindex.store.learned_files import FUSION_FILE, keep_learned, learned_text, weights_of
from mrrag_llamaindex.store.llamaindex.record import KIND_KEY, node_id
from mrrag_llamaindex.store.pair import Pair
from mrrag_llamaindex.store.protocol import PairStore
from mrrag_llamaindex.store.schema import StoreSchema

TARGETS = ["numpy", "qdrant::memory:", "milvus:{}/m.db", "{}/folder"]
SCHEMA = StoreSchema("t@0", "phantom", 8)


def filled(place, pairs, units, count=60, schema=SCHEMA):
    store = PairStore.create(place, schema)
    image, text = units(count, seed=1), units(count, seed=2)
    image[3] = text[4] = 0
    made = pairs(
        count,
        image=lambda i: None if i == 3 else f"{i}.png",
        report=lambda i: None if i == 4 else f"Befund {i}: é",
        patient_id=lambda i: f"patient{i // 4}" if i % 5 else None,
        metadata=lambda i: {"age": i + 0.0 if i % 2 else i, "study_id": i % 3, "ok": bool(i % 2)},
    )
    store.upsert(made, image, text, fingerprints=[f"f{i}" for i in range(count)])
    return store


@pytest.mark.parametrize("target", TARGETS)
def test_all_of_it_arrives_and_answers_alike(target, tmp_path, pairs, units):
    with filled(tmp_path / "source", pairs, units) as source:
        FusionWeights(1, -0.3, 2).save(tmp_path / "source" / FUSION_FILE)
        with PairStore.open_or_create(target.format(tmp_path), target_schema(source)) as copy:
            report = copy_store(source, copy)
            assert (report.copied, report.unchanged) == (60, 0)
            assert copy.pair_ids() == source.pair_ids()
            assert copy.schema.blocks == source.schema.blocks
            assert copy.towers_source == "phantom"
            assert copy.fingerprints(["p7"]) == source.fingerprints(["p7"])
            question = (*units(2, seed=3), FusionWeights(1, -0.3, 2), 60)
            for mine, theirs in zip(source.query(*question), copy.query(*question), strict=True):
                assert mine.score == pytest.approx(theirs.score, abs=1e-6)
                assert (mine.pair_id, mine.report, mine.metadata) == (
                    theirs.pair_id, theirs.report, theirs.metadata)  # fmt: skip
            assert verify_store(copy).pairs == 60
            if target == "numpy":
                assert report.left == (FUSION_FILE,)
            else:
                assert report.learned == (FUSION_FILE,)
                assert weights_of(copy) == weights_of(source)
            assert copy_store(source, copy).unchanged == 60


def test_other_towers_blocks_and_patients_are_refused(pairs, units):
    with filled("numpy", pairs, units) as source:
        with (
            PairStore.create("numpy", StoreSchema("u@1", "", 8)) as other,
            pytest.raises(StoreError, match=r"t@0"),
        ):
            copy_store(source, other)
        scaled = StoreSchema("t@0", "", 8, blocks=Blocks(8, scales=(2.0, 1, 1, 1, 1, 1)))
        with (
            PairStore.create("numpy", scaled) as other,
            pytest.raises(StoreError, match="blocks"),
        ):
            copy_store(source, other)
        with PairStore.create("numpy", SCHEMA) as other:
            other.upsert([Pair("x.png", "r", "p7", "somebody")], units(1), units(1))
            with pytest.raises(StoreError, match=r"'p7'.*another patient"):
                copy_store(source, other)
    with pytest.raises(InputError, match="another place"):
        refuse_one_place("store", "store/")


def test_what_changed_meanwhile_is_copied_anew(pairs, units):
    with filled("numpy", pairs, units) as source, PairStore.create("numpy", SCHEMA) as copy:
        copy_store(source, copy)
        source.upsert([Pair("9.png", "new", "p9", "patient2")], units(1, seed=8), units(1, seed=9))
        assert copy_store(source, copy).copied == 1
        assert copy.get(["p9"])["p9"].report == "new"


def test_a_target_that_loses_a_pair_is_found_out(pairs, units, monkeypatch):
    with filled("numpy", pairs, units) as source, PairStore.create("numpy", SCHEMA) as copy:
        write = copy._write
        monkeypatch.setattr(copy, "_write", lambda rows: write(rows[:-1]))
        with pytest.raises(StoreError, match="'p59' is not in"):
            copy_store(source, copy)


def test_one_and_true_are_two_values(units):
    with PairStore.create("numpy", SCHEMA) as source, PairStore.create("numpy", SCHEMA) as copy:
        for store, value in ((source, True), (copy, 1)):
            store.upsert([Pair("1.png", "r", "p1", "x", {"ok": value})], units(1), units(1))
        assert copy_store(source, copy).copied == 1
        assert copy.get(["p1"])["p1"].metadata["ok"] is True


def test_a_source_that_gains_or_loses_pairs_meanwhile_is_found_out(pairs, units):
    for change, said in (
        (lambda source: source.delete(["p7"]), r"deleted.*'p7'"),
        (lambda source: source.upsert([Pair("x", "r", "q")], units(1), units(1)), "copy again"),
    ):
        with filled("numpy", pairs, units) as source, PairStore.create("numpy", SCHEMA) as copy:

            def meanwhile(doing, done, total, source=source, change=change):
                if doing == "copying":
                    change(source)

            with pytest.raises(StoreError, match=said):
                copy_store(source, copy, meanwhile)


def test_weights_of_a_target_with_pairs_of_its_own_stay(tmp_path, pairs, units):
    with (
        filled(tmp_path / "source", pairs, units) as source,
        PairStore.create(tmp_path / "target", SCHEMA) as target,
    ):
        FusionWeights(1, 2, 3).save(tmp_path / "source" / FUSION_FILE)
        copy_store(source, target)
        FusionWeights(4, 5, 6).save(tmp_path / "source" / FUSION_FILE)
        assert copy_store(source, target).learned == (FUSION_FILE,)
        assert weights_of(target) == FusionWeights(4, 5, 6)
        target.upsert([Pair("x", "r", "own")], units(1), units(1))
        FusionWeights(1, 2, 3).save(tmp_path / "source" / FUSION_FILE)
        report = copy_store(source, target)
        assert (report.learned, report.kept, report.others) == ((), (FUSION_FILE,), 1)
        assert weights_of(target) == FusionWeights(4, 5, 6)


def test_a_place_that_fails_to_keep_weights_is_no_place_without_one(
    tmp_path, pairs, units, monkeypatch
):
    with filled(tmp_path / "source", pairs, units) as source:
        FusionWeights(1, 2, 3).save(tmp_path / "source" / FUSION_FILE)
        with PairStore.create("qdrant::memory:", SCHEMA) as copy:
            add = copy._engine.add

            def fails(nodes, replaced):
                if nodes[0].metadata[KIND_KEY] == "learned":
                    raise ConnectionError
                add(nodes, replaced)

            monkeypatch.setattr(copy._engine, "add", fails)
            with pytest.raises(StoreError, match="ConnectionError"):
                copy_store(source, copy)


@pytest.mark.parametrize("target", ["qdrant::memory:", "milvus:{}/m.db"])
def test_long_weights_go_along_and_torn_ones_are_refused(target, tmp_path, units):
    rng = np.random.default_rng(0)

    def gated(hidden):
        first, last = rng.standard_normal((hidden, 1024)), np.ones((3, hidden))
        return QueryGatedWeights(FusionWeights(), first, np.zeros(hidden), last, np.zeros(3))

    with PairStore.create(target.format(tmp_path), SCHEMA) as store:
        for hidden in (12, 8, 1, 8):  # longer than what such an engine keeps of a text, and not
            gated(hidden).save(tmp_path / "gate.json")
            text = (tmp_path / "gate.json").read_text()
            keep_learned(store, FUSION_FILE, text)
            assert learned_text(store, FUSION_FILE) == text
        store._engine.delete([node_id("learned", f"{FUSION_FILE}/2")])
        with pytest.raises(StoreError, match="not written to its end"):
            learned_text(store, FUSION_FILE)


SCRIPT = """
import sys, time
from mrrag_llamaindex.store import copying
from mrrag_llamaindex.store.protocol import PairStore
copying.BATCH = 20
source = PairStore.open(sys.argv[1])
target = PairStore.open_or_create(sys.argv[2], copying.target_schema(source))
def slow(doing, done, total):
    print(done, flush=True)
    time.sleep(0.2)
copying.copy_store(source, target, slow)
"""


@pytest.mark.slow
@pytest.mark.parametrize("target", ["milvus:{}/m.db", "{}/folder", "qdrant:{}/q"])
def test_a_copy_that_was_killed_is_resumed_and_loses_nothing(target, tmp_path, pairs, units):
    place = target.format(tmp_path)
    filled(tmp_path / "source", pairs, units, 100).close()
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(tmp_path / "source"), place],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(copying.__file__).parents[2])},
    )
    acknowledged = 0
    for line in process.stdout:
        acknowledged = int(line)
        if acknowledged >= 60:
            break
    process.send_signal(signal.SIGKILL)
    process.wait(20)
    process.stdout.close()
    assert 0 < acknowledged < 100
    with (
        PairStore.open(tmp_path / "source") as source,
        PairStore.open_or_create(place, target_schema(source)) as copy,
    ):
        there = copy.get(source.pair_ids()[:acknowledged])
        assert len(there) == acknowledged
        report = copy_store(source, copy)
        assert report.unchanged >= acknowledged
        assert report.copied + report.unchanged == 100
        assert verify_store(copy).pairs == 100


@pytest.mark.slow
def test_the_command(tmp_path, pairs, units):
    runner = CliRunner()

    filled(tmp_path / "source", pairs, units).close()
    target = f"milvus:{tmp_path}/m.db"
    for copied in (60, 0):
        result = runner.invoke(app, ["store", "copy", str(tmp_path / "source"), target, "--json"])
        said = json.loads(result.stdout)
        assert (said["copied"], said["unchanged"]) == (copied, 60 - copied)
    assert json.loads(runner.invoke(app, ["verify", target, "--json"]).stdout)["pairs"] == 60
    result = runner.invoke(app, ["store", "copy", target, target])
    assert result.exit_code == 2
    assert "name another place" in result.stderr
