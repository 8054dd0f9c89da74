"""Connections belong to one process, and a statement to the index that it was written for."""

from __future__ import annotations

import multiprocessing
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import psycopg
import pytest

from mrrag_llamaindex.errors import StoreError
from mrrag_llamaindex.mcr.score import FusionWeights
from mrrag_llamaindex.store.postgres import server
from mrrag_llamaindex.store.postgres.conditions import Conditions
from mrrag_llamaindex.store.protocol import PairStore
from mrrag_llamaindex.store.schema import HNSWSettings, StoreSchema
from tests.store.test_forks import in_a_fork

SCHEMA = StoreSchema("t@1", "", 8)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_behind_a_fork_there_is_an_error_and_the_parents_connections_live(
    postgres, units, pairs
) -> None:
    with PairStore.create(postgres.url(), SCHEMA, collection="forked") as store:
        store.upsert(pairs(3), units(3), units(3))
        assert in_a_fork(lambda: len(store)) == StoreError.__name__
        child = multiprocessing.get_context("fork").Process(target=store.close)
        child.start()
        child.join(30)
        assert child.exitcode == 0
        assert len(store) == 3


def test_more_threads_than_connections_wait_for_one_another(postgres, units, pairs) -> None:
    with PairStore.create(postgres.url(), SCHEMA, collection="threads") as store:
        store.upsert(pairs(50), units(50), units(50))
        before = _connections(postgres)
        with ThreadPoolExecutor(3 * server.MOST_CONNECTIONS) as pool:
            asked = [
                pool.submit(store.query, *units(2, seed=n), FusionWeights(), 3) for n in range(200)
            ]
            assert all(len(answer.result(timeout=60)) == 3 for answer in asked)
        assert _connections(postgres) - before <= server.MOST_CONNECTIONS
    assert _connections(postgres) < before + 1


@pytest.mark.slow
def test_writers_of_several_processes_lose_nothing(postgres, units, pairs) -> None:
    PairStore.create(postgres.url(), SCHEMA, collection="writers").close()
    program = (
        "import sys, numpy as np\n"
        "from mrrag_llamaindex.store.pair import Pair\n"
        "from mrrag_llamaindex.store.protocol import PairStore\n"
        "store = PairStore.open(sys.argv[1], collection='writers')\n"
        "vectors = np.eye(8, dtype=np.float32)\n"
        "for n in range(20):\n"
        "    rows = [Pair('a.png', 'r', f'{sys.argv[2]}-{8 * n + i}') for i in range(8)]\n"
        "    store.upsert(rows, vectors, vectors)\n"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", program, postgres.url(), name]) for name in "ab"
    ]
    assert [process.wait(timeout=120) for process in processes] == [0, 0]
    with PairStore.open(postgres.url(), collection="writers") as store:
        assert len(store) == 320


@pytest.mark.slow
def test_writers_of_the_same_pairs_in_opposite_orders_never_wait_in_a_circle(
    postgres, units, pairs
) -> None:
    made, vectors = pairs(60), units(60)
    PairStore.create(postgres.url(), SCHEMA, collection="crossed").close()

    def write(order: slice) -> None:
        with PairStore.open(postgres.url(), collection="crossed") as store:
            for turn in range(6):
                store.upsert(made[order], vectors[order], vectors[order])
                if turn < 5:
                    store.delete([pair.pair_id for pair in made[order]])

    before = _deadlocks(postgres)
    with ThreadPoolExecutor(3) as pool:
        orders = (slice(None), slice(None, None, -1), slice(None, None, -1))
        for done in [pool.submit(write, order) for order in orders]:
            done.result(timeout=60)
    assert _deadlocks(postgres) == before
    with PairStore.open(postgres.url(), collection="crossed") as store:
        assert store.pair_ids() in ([f"p{i}" for i in range(60)], [f"p{59 - i}" for i in range(60)])


@pytest.mark.parametrize("dimension", [64, 1000, 1500, 2500])
def test_search_uses_the_index_that_there_is_whatever_statistics_say(
    postgres, units, pairs, dimension
) -> None:
    schema = StoreSchema("t@1", "", dimension, hnsw=HNSWSettings(8, 32, 100))
    name = f"plan{dimension}"
    with PairStore.create(postgres.url(), schema, collection=name) as store:
        halves = units(30, dimension, seed=1), units(30, dimension, seed=2)
        store.upsert(pairs(30), *halves)
        question = units(2, dimension, seed=3)
        conditions = Conditions("")
        assert store._index.exists == (
            2 * dimension <= 2000 or (2 * dimension <= 4000 and store._index.version >= (0, 7))
        )
        if store._index.exists:
            statement = store._sql.search(conditions, 5, 5, True)
            with store._server.transaction() as sql:
                for setting, value in store._index.settings(100, False).items():
                    sql.execute(f"SET LOCAL {setting} = {value}")
                plan = sql.execute(
                    b"EXPLAIN " + statement.as_bytes(sql),
                    {"vector": np.concatenate(question), **conditions.parameters},
                ).fetchall()
            assert any("_embedding_idx" in row[0] for row in plan), plan
        # Whichever way, scores are those of the whole vectors, in float32.
        hits = store.query(*question, FusionWeights(), 30)
        assert len(hits) == 30
        for hit in hits:
            row = int(hit.pair_id[1:])
            by_hand = question[0] @ halves[1][row] + question[0] @ halves[0][row]
            by_hand += question[1] @ halves[1][row]
            assert hit.score == pytest.approx(float(by_hand), abs=1e-5)


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        (StoreSchema("t@1", "", 8001), "16,002 numbers"),
        (StoreSchema("t@1", "", 8, hnsw=HNSWSettings(200, 800)), "max_neighbors is 200"),
        (StoreSchema("t@1", "", 8, hnsw=HNSWSettings(32, 40)), "at least twice max_neighbors"),
        (StoreSchema("t@1", "", 8, hnsw=HNSWSettings(32, 200, 1600)), "ef_search is 1600"),
    ],
)
def test_what_pgvector_cannot_keep_is_refused_before_anything_is_made(
    postgres, schema, said
) -> None:
    with pytest.raises(StoreError, match=said):
        PairStore.create(postgres.url(), schema, collection="refused")
    assert not PairStore.exists(postgres.url(), collection="refused")


def _deadlocks(postgres) -> int:
    with psycopg.connect(postgres.url()) as sql:
        counted = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
        return sql.execute(counted).fetchone()[0]


def _connections(postgres) -> int:
    with psycopg.connect(postgres.url()) as sql:
        mine = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'mrrag'"
        return sql.execute(mine).fetchone()[0]
