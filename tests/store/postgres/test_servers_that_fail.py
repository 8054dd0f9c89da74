"""Every call ends in one line that names the server, and nothing acknowledged is lost."""

from __future__ import annotations

import logging
import socket
import threading
import time

import psycopg
import pytest

from mrrag_llamaindex.errors import StoreError
from mrrag_llamaindex.mcr.score import FusionWeights
from mrrag_llamaindex.store.ingest.ingest import ingest_pairs
from mrrag_llamaindex.store.learned_files import keep_learned, learned_text
from mrrag_llamaindex.store.pair import Pair
from mrrag_llamaindex.store.postgres import connection, layout, server
from mrrag_llamaindex.store.postgres import store as postgres_store
from mrrag_llamaindex.store.protocol import PairStore
from mrrag_llamaindex.store.schema import StoreSchema
from mrrag_llamaindex.towers.loading import load_towers
from tests.store.postgres_server import PASSWORD, PostgresServer


def in_one_line(error: BaseException, server: PostgresServer) -> str:
    """Return the message, which must name the server and tell no secret."""
    message = str(error)
    assert f"postgresql://127.0.0.1:{server.port}/" in message
    assert "\n" not in message
    assert PASSWORD not in message
    assert "secret" not in message
    assert error.__cause__ is None  # what a log would print below it
    return message


@pytest.mark.slow
def test_server_killed_in_the_middle_of_an_ingest_loses_nothing_and_is_resumed(mortal) -> None:
    towers = load_towers("phantom")
    made = [Pair(None, f"Report number {i} of a chest film.", f"p{i}") for i in range(200)]

    def progress(done: int) -> None:
        if done == 60:
            # In the midst of a later batch: its transaction is open, and is cut off.
            threading.Timer(0.05, mortal.kill).start()

    def ingest_until_it_fails(store: PairStore) -> None:
        while True:
            ingest_pairs(made, store, towers, batch_size=10, missing="keep", progress=progress)
            made[:] = [Pair(None, f"{pair.report} Again.", pair.pair_id) for pair in made]

    schema = StoreSchema.of(towers)
    store = PairStore.create(mortal.url(), schema, collection="killed")
    with store, pytest.raises(StoreError) as caught:
        ingest_until_it_fails(store)
    in_one_line(caught.value, mortal)
    mortal.start()
    with PairStore.open(mortal.url(), collection="killed") as again:
        present = set(again.pair_ids())
        assert {f"p{i}" for i in range(60)} <= present
        assert len(present) % 10 == 0  # whole batches only
        report = ingest_pairs(made, again, towers, batch_size=10, missing="keep")
        assert report.unchanged <= len(present)
        assert len(again) == 200
        assert {pair.report for pair in again.get(again.pair_ids()).values()} == {
            pair.report for pair in made
        }


@pytest.mark.slow
def test_server_killed_in_the_middle_of_questions_is_one_error_and_then_answers_again(
    mortal, units, pairs
) -> None:
    with PairStore.create(mortal.url(), StoreSchema("t@1", "", 8), collection="asked") as store:
        store.upsert(pairs(500), units(500, seed=1), units(500, seed=2))
        question = (*units(2, seed=3), FusionWeights(), 5)
        before = [hit.pair_id for hit in store.query(*question)]
        failures: list[BaseException] = []

        def ask() -> None:
            try:
                while True:
                    assert [hit.pair_id for hit in store.query(*question)] == before
            except StoreError as error:
                failures.append(error)

        threads = [threading.Thread(target=ask) for _ in range(3)]
        for thread in threads:
            thread.start()
        time.sleep(0.3)
        mortal.kill()
        for thread in threads:
            thread.join(30)
        assert len(failures) == 3
        for error in failures:
            in_one_line(error, mortal)
        with pytest.raises(StoreError, match="refused") as caught:
            store.query(*question)
        in_one_line(caught.value, mortal)
        mortal.start()
        # The same store, without opening it again.
        assert [hit.pair_id for hit in store.query(*question)] == before
        assert len(store) == 500


@pytest.mark.slow
def test_server_that_hangs_is_named_in_time_and_used_again_when_it_goes_on(
    mortal, units, pairs, monkeypatch
) -> None:
    monkeypatch.setattr(server, "READ_SECONDS", 1.0)
    monkeypatch.setattr(server, "WRITE_SECONDS", 1.0)
    monkeypatch.setattr(connection, "CANCEL_SECONDS", 0.5)
    with PairStore.create(mortal.url(), StoreSchema("t@1", "", 8), collection="hangs") as store:
        store.upsert(pairs(5), units(5), units(5))
        mortal.pause()
        try:
            for call in (
                lambda: store.query(*units(2), FusionWeights(), 3),
                lambda: store.upsert(pairs(9), units(9), units(9)),
            ):
                start = time.monotonic()
                with pytest.raises(StoreError, match=r"within 1 s|timeout expired") as caught:
                    call()
                assert time.monotonic() - start < 10
                in_one_line(caught.value, mortal)
        finally:
            mortal.resume()
        assert len(store.query(*units(2), FusionWeights(), 9)) in (5, 9)


@pytest.mark.slow
def test_statement_that_takes_too_long_is_ended_on_the_server(mortal, units, pairs) -> None:
    with PairStore.create(mortal.url(), StoreSchema("t@1", "", 8), collection="slow") as store:
        table = store._sql._table.as_string()
        store.upsert(pairs(3), units(3), units(3))
        with psycopg.connect(mortal.url()) as other:
            other.execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(server, "READ_SECONDS", 0.5)
                patch.setattr(server, "WRITE_SECONDS", 0.5)
                patch.setattr(postgres_store, "WRITE_SECONDS", 0.5)
                for call in (
                    lambda: store.get(["p1"]),
                    lambda: store.upsert(pairs(3), units(3), units(3)),
                ):
                    with pytest.raises(StoreError, match=r"did not answer|took too long") as caught:
                        call()
                    in_one_line(caught.value, mortal)
            waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
            for _ in range(50):
                with psycopg.connect(mortal.url()) as third:
                    if third.execute(waiting).fetchone() == (0,):
                        break
                time.sleep(0.1)
            else:
                pytest.fail("the statement still waits on the server")
        assert list(store.get(["p1"])) == ["p1"]


def test_what_the_database_says_of_a_row_is_not_repeated(mortal, units, caplog) -> None:
    """PostgreSQL quotes the row that it refuses, report and patient included."""
    with PairStore.create(mortal.url(), StoreSchema("t@1", "", 8), collection="refused") as store:
        table = store._sql._table.as_string()
        mortal.execute(f"ALTER TABLE {table} ADD CHECK (report <> 'A private report.')")
        pair = Pair("a.png", "A private report.", "p", "Anna Example")
        with caplog.at_level(logging.DEBUG), pytest.raises(StoreError) as caught:
            store.upsert([pair], units(1), units(1))
        text = in_one_line(caught.value, mortal) + caplog.text
        assert "CheckViolation" in text
        assert "private" not in text
        assert "Anna" not in text
        assert len(store) == 0


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://user:hidden@127.0.0.1:{port}/none",
        "postgres://user:hidden@127.0.0.1:1/none",
        "POSTGRESQL://user:hidden@127.0.0.1:{port}",
        "postgresql://user:hidden@127.0.0.1:port/none",
        "postgresql://user:hid den@127.0.0.1/none",
        "postgresql://user:hidden#1@127.0.0.1/none",
        "postgresql:user:hidden@127.0.0.1/none",
        "postgresql://user:hidden@127.0.0.1/none?no_such_option=1",
        "postgresql://user:hidden%zz@127.0.0.1/none",
    ],
)
def test_no_error_repeats_a_password(mortal, url, caplog) -> None:
    with caplog.at_level(logging.DEBUG):
        for call in (PairStore.open, PairStore.exists):
            with pytest.raises(StoreError) as caught:
                call(url.format(port=mortal.port))
            assert "\n" not in str(caught.value)
            assert "hid" not in str(caught.value)
            assert caught.value.__cause__ is None
    assert "hid" not in caplog.text


@pytest.mark.slow
def test_address_that_answers_something_else_is_named_in_time(monkeypatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"postgresql://127.0.0.1:{silent.getsockname()[1]}/none?connect_timeout=2"
        start = time.monotonic()
        with pytest.raises(StoreError, match=r"postgresql://127\.0\.0\.1"):
            PairStore.open(url)
        assert time.monotonic() - start < 10


def test_database_without_a_store_and_one_without_the_collection(mortal) -> None:
    mortal.execute("CREATE DATABASE bare")
    url = mortal.url(database="bare")
    assert not PairStore.exists(url)
    with pytest.raises(StoreError, match="holds no pair store"):
        PairStore.open(url)
    PairStore.create(url, StoreSchema("t@1", "", 8), collection="one").close()
    assert PairStore.exists(url, collection="one")
    assert not PairStore.exists(url)
    with pytest.raises(StoreError, match="no collection 'pairs'; it has: one"):
        PairStore.open(url)
    with pytest.raises(StoreError, match="already holds a collection 'one'"):
        PairStore.create(url, StoreSchema("t@1", "", 8), collection="one")


@pytest.mark.parametrize("encoding", ["SQL_ASCII", "LATIN1"])
def test_a_database_that_cannot_keep_every_text_is_refused_by_name(mortal, encoding) -> None:
    name = encoding.lower()
    mortal.execute(f"CREATE DATABASE {name} ENCODING '{encoding}' TEMPLATE template0")
    url = mortal.url(database=name)
    for call in (
        PairStore.open,
        PairStore.exists,
        lambda where: PairStore.create(where, StoreSchema("t@1", "", 8)),
    ):
        with pytest.raises(StoreError, match=f"encoding {encoding}.*ENCODING 'UTF8'") as caught:
            call(url)
        in_one_line(caught.value, mortal)


def test_reports_are_unicode_whatever_the_environment_says(
    mortal, monkeypatch, units, pairs
) -> None:
    monkeypatch.setenv("PGCLIENTENCODING", "LATIN1")
    with PairStore.create(mortal.url(), StoreSchema("t@1", "", 8), collection="texts") as store:
        store.upsert(pairs(1, report=lambda i: "肺炎なし ☢"), units(1), units(1))
        assert store.get(["p0"])["p0"].report == "肺炎なし ☢"


def test_tables_of_a_later_release_are_refused_and_older_ones_migrated(
    mortal, monkeypatch, units, pairs
) -> None:
    mortal.execute("CREATE DATABASE aged")
    url = mortal.url(database="aged")
    with monkeypatch.context() as earlier:
        earlier.setattr(layout, "LAYOUT", 1)
        PairStore.create(url, StoreSchema("t@1", "", 8)).close()
    visitor = mortal.url("visitor", "visitor", "aged")
    mortal.execute(
        "CREATE ROLE visitor LOGIN PASSWORD 'visitor'",
        "GRANT USAGE ON SCHEMA mrrag TO visitor",
        "ALTER DEFAULT PRIVILEGES IN SCHEMA mrrag GRANT SELECT ON TABLES TO visitor",
        "GRANT SELECT ON ALL TABLES IN SCHEMA mrrag TO visitor",
        database="aged",
    )
    with pytest.raises(StoreError, match="as the role that owns"):
        PairStore.open(visitor)
    with PairStore.open(url) as store:
        store.upsert(pairs(3), units(3), units(3))
        keep_learned(store, "calibration.json", "{}")
    with PairStore.open(visitor) as store:
        assert len(store) == 3
        assert learned_text(store, "calibration.json") == "{}"
    mortal.execute(f"UPDATE mrrag.layout SET version = {layout.LAYOUT + 1}", database="aged")
    for call in (PairStore.open, lambda where: PairStore.create(where, StoreSchema("t@1", "", 8))):
        with pytest.raises(StoreError, match="made by a later release"):
            call(url)


@pytest.mark.slow
def test_damaged_index_is_named_and_answers_stay_right(mortal, units, pairs, caplog) -> None:
    image, text = units(300, seed=1), units(300, seed=2)
    with PairStore.create(mortal.url(), StoreSchema("t@1", "", 8), collection="damaged") as store:
        store.upsert(pairs(300), image, text)
        question = (*units(2, seed=3), FusionWeights(), 10)
        before = store.query(*question)
        table = store._sql._table.as_string()
        with psycopg.connect(mortal.url()) as sql:
            (file,) = sql.execute(
                "SELECT pg_relation_filepath(indexrelid) FROM pg_index JOIN pg_class c "
                "ON c.oid = indexrelid JOIN pg_am a ON a.oid = relam "
                f"WHERE indrelid = '{table}'::regclass AND amname = 'hnsw'"
            ).fetchone() or [""]  # fmt: skip
            sql.execute("COMMIT")
        mortal.execute("CHECKPOINT")
    mortal.kill()
    content = bytearray((mortal.data / file).read_bytes())
    for row in range(0, 300, 3):
        place = content.find(image[row].astype("<f4").tobytes())
        assert place > 4
        content[place - 4 : place] = bytes(4)  # its number of dimensions
    (mortal.data / file).write_bytes(content)
    mortal.start()
    with PairStore.open(mortal.url(), collection="damaged") as store:
        after = store.query(*question)
        assert "the vector index is damaged" in caplog.text
        assert [hit.pair_id for hit in after] == [hit.pair_id for hit in before]
        mortal.execute(f"REINDEX TABLE {table}")
        caplog.clear()
        assert [hit.pair_id for hit in store.query(*question)] == [hit.pair_id for hit in before]
        assert not caplog.text


@pytest.mark.slow
def test_deleted_reports_are_gone_from_the_table_once_it_is_written_anew(
    mortal, units, pairs
) -> None:
    """What docs/stores.md tells a DBA: at once for every role, in the file by VACUUM FULL."""
    with PairStore.create(mortal.url(), StoreSchema("t@1", "", 8), collection="erased") as store:
        store.upsert(pairs(40, report=lambda i: f"secretreport{i:04d}"), units(40), units(40))
        table = store._sql._table.as_string()
        store.delete([f"p{i}" for i in range(0, 40, 2)])
        left = set(range(1, 40, 2))
        assert {int(name[1:]) for name in store.pair_ids()} == left
        with psycopg.connect(mortal.url(), autocommit=True) as sql:
            # The room of the deleted rows is free for others: that much our own VACUUM has done.
            dead = f"SELECT n_dead_tup FROM pg_stat_all_tables WHERE relid = '{table}'::regclass"
            assert sql.execute(dead).fetchone() == (0,)
            sql.execute(f"VACUUM FULL {table}")
            sql.execute("CHECKPOINT")
            (file,) = sql.execute(f"SELECT pg_relation_filepath('{table}')").fetchone() or [""]
        content = (mortal.data / file).read_bytes()
        assert {i for i in range(40) if f"secretreport{i:04d}".encode() in content} == left
        assert len(store.query(*units(2), FusionWeights(), 40)) == 20
