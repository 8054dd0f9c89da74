"""``mrrag ingest --ray`` stores what ``mrrag ingest`` stores, in the same order."""

from __future__ import annotations

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from mrrag_llamaindex.commands.app import app
from mrrag_llamaindex.phantom.corpus import make_corpus, write_corpus
from mrrag_llamaindex.store.protocol import PairStore
from mrrag_llamaindex.store.schema import StoreSchema
from mrrag_llamaindex.towers.loading import load_towers
from tests.store.conftest import chroma_server  # noqa: F401

pytestmark = pytest.mark.slow

BY_RAY = ("--ray", "--workers", "2")
BY_ONE = ("--ray", "--workers", "1")
"""Where one worker shows as much as two: each takes seconds to begin."""


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """Rows of which some cannot be stored."""
    folder = tmp_path_factory.mktemp("pairs")
    path = write_corpus(folder, make_corpus(3, patients=40, queries=0, profiles=8).studies)
    lines = path.read_text().splitlines()
    lines.insert(5, lines[1])
    lines.insert(9, lines[2].replace(lines[2].split(",")[0], "without", 1))
    (folder / "torn.png").write_bytes(b"\x89PNG")
    where = lines[0].split(",").index("image")
    for number in (9, 20):
        cells = lines[number].split(",")
        cells[where] = "torn.png" if number == 20 else "absent.png"
        lines[number] = ",".join(cells)
    path.write_text("\n".join(lines) + "\n")
    return path


def run(*arguments):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return result.exit_code, result.stdout, result.stderr


def ingest(table, store, *options):
    code, out, err = run(
        *("ingest", table, "--store", store, "--towers", "phantom", "--json", "--batch-size", "4"),
        *options,
    )
    assert code == 0, err
    return json.loads(out) | {"seconds": None}


def contents(where):
    with PairStore.open(where) as store:
        ids = store.pair_ids()
        return ids, list(store.get(ids).values())


def assert_same(one, other):
    assert one[0] == other[0]
    for first, second in zip(one[1], other[1], strict=True):
        assert np.array_equal(first.vector, second.vector)
        facts = [
            (pair.report, pair.patient_id, pair.fingerprint, pair.image_path, pair.metadata)
            for pair in (first, second)
        ]
        assert facts[0] == facts[1]


@pytest.mark.ray
@pytest.mark.usefixtures("ray", "one_thread")
class TestByRay:
    @pytest.mark.parametrize("place", ["folder", "server"])
    def test_the_store_is_the_same_row_for_row(self, table, tmp_path, request, place):
        where = tmp_path / "store"
        if place == "server":
            where = request.getfixturevalue("chroma_server")
        plain = ingest(table, tmp_path / "plain")
        spread = ingest(table, where, *BY_RAY)
        assert spread == plain
        assert spread["skipped"]
        assert_same(contents(tmp_path / "plain"), contents(where))

    def test_both_workers_write_into_postgresql_in_the_order_of_the_table(
        self, table, tmp_path, postgres
    ):
        psycopg = pytest.importorskip("psycopg")
        postgres.execute("CREATE DATABASE spread")
        where = postgres.url(database="spread")
        PairStore.create(where, StoreSchema.of(load_towers("phantom"))).close()
        by_whom = "ALTER TABLE mrrag.log ADD COLUMN process integer DEFAULT pg_backend_pid()"
        postgres.execute(by_whom, database="spread")
        assert ingest(table, where, *BY_RAY) == ingest(table, tmp_path / "plain")
        assert_same(contents(tmp_path / "plain"), contents(where))
        with psycopg.connect(where) as sql:
            wrote = "SELECT count(DISTINCT process) FROM mrrag.log"
            assert sql.execute(wrote).fetchone() == (2,)

    def test_what_a_run_has_stored_another_one_goes_on_from(self, table, tmp_path):
        lines = table.read_text().splitlines(keepends=True)
        part = table.with_name("part.csv")
        part.write_text("".join(lines[:18]))
        reports = []
        for name, options in (("plain", ()), ("store", BY_ONE)):
            ingest(part, tmp_path / name)
            reports.append(ingest(table, tmp_path / name, *options))
        assert reports[0] == reports[1]
        assert reports[0]["unchanged"] > 0 < reports[0]["added"]
        assert_same(contents(tmp_path / "plain"), contents(tmp_path / "store"))
        again = ingest(table, tmp_path / "store", *BY_ONE)
        stored = reports[0]["added"] + reports[0]["unchanged"]
        assert (again["added"], again["unchanged"]) == (0, stored)

    def test_strictly_it_stops_at_the_same_row_behind_the_same_batches(self, table, tmp_path):
        ends = []
        for name, options in (("plain", ()), ("store", BY_ONE)):
            code, _, err = run(
                *("ingest", table, "--store", tmp_path / name, "--towers", "phantom", "--strict"),
                *("--batch-size", "4", *options),
            )
            ends.append((code, err.splitlines()[-1]))
        assert ends[0] == ends[1]
        assert ends[0][0] == 2
        assert_same(contents(tmp_path / "plain"), contents(tmp_path / "store"))

    def test_towers_that_are_not_there_are_named_in_one_line(self, table, tmp_path):
        code, _, err = run(
            *("ingest", table, "--store", tmp_path / "store", "--towers", tmp_path / "none"),
            *BY_ONE,
        )
        assert code == 2
        assert "none" in err.splitlines()[-1]
        assert not (tmp_path / "store").exists()


def test_options_of_ray_are_refused_without_it(table, tmp_path):
    for option in (("--workers", "2"), ("--gpus-per-worker", "1")):
        code, _, err = run(
            *("ingest", table, "--store", tmp_path / "store", "--towers", "phantom", *option)
        )
        assert (code, f"{option[0]} goes with --ray" in err) == (2, True)


def test_the_address_may_be_left_out_wherever_the_option_stands(table, tmp_path):
    for words in (
        [table, "--ray", "--check"],
        ["--check", "--ray", table],
        [table, "--ray=local", "--check"],
    ):
        code, _, err = run("ingest", *words)
        assert (code, "--check embeds nothing: leave --ray out" in err) == (2, True), err
