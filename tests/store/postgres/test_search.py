"""A search finds what an exact scan finds, however selective its condition is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import psycopg
import pytest

from mrrag_llamaindex.mcr.score import FusionWeights, document_vector, fused_query
from mrrag_llamaindex.store.filters import Combination, Comparison, Filter
from mrrag_llamaindex.store.hits import Exclusion
from mrrag_llamaindex.store.pair import Pair
from mrrag_llamaindex.store.protocol import PairStore
from mrrag_llamaindex.store.schema import HNSWSettings, StoreSchema
from tests.benchmarks.clustered import WEIGHTS, Synthetic

pytestmark = pytest.mark.slow

COUNT, QUERIES, K = 4000, 25, 10
DRAWN = Synthetic(32, seed=0)


def metadata(i: int) -> dict[str, Any]:
    return {"tenth": i % 10, "rare": i % 500 == 3, "study_id": i // 2, "note": "x" * (i % 7)}


@pytest.fixture(scope="module")
def filled(postgres: Any) -> Iterator[tuple[PairStore, np.ndarray]]:
    image, text = DRAWN.draw(COUNT, seed=1)
    made = [
        Pair("a.png", f"report {i}", f"p{i}", f"patient{i // 4}", metadata(i)) for i in range(COUNT)
    ]
    schema = StoreSchema("toy@1", "", 32, hnsw=HNSWSettings(16, 64, 200))
    with PairStore.create(postgres.url(), schema, collection="search") as store:
        store.upsert(made, image, text)
        postgres.execute("ANALYZE")
        yield store, document_vector(image, text)


def recall(
    store: PairStore,
    matrix: np.ndarray,
    weights: FusionWeights,
    allowed: np.ndarray,
    **options: Any,
) -> float:
    right = total = 0
    for q_image, q_text in zip(*DRAWN.draw(QUERIES, seed=2), strict=True):
        exact = matrix @ fused_query(q_image, q_text, weights, store.schema.blocks)
        exact[~allowed] = -np.inf
        wanted = min(K, int(allowed.sum()))
        last = np.sort(exact)[-wanted] - 1e-6
        hits = store.query(q_image, q_text, weights, K, **options)
        assert len(hits) == wanted
        assert all(
            hit.score == pytest.approx(exact[int(hit.pair_id[1:])], abs=1e-5) for hit in hits
        )
        right += sum(exact[int(hit.pair_id[1:])] >= last for hit in hits)
        total += wanted
    return right / total


@pytest.mark.parametrize("weights", WEIGHTS)
def test_recall_at_ten_against_an_exact_scan(filled, weights) -> None:
    store, matrix = filled
    assert recall(store, matrix, FusionWeights(*weights), np.ones(COUNT, bool)) >= 0.99


RARE = Comparison("rare", "==", True)
SELECTIVE: dict[str, tuple[Filter | None, Any]] = {
    "a tenth": (Comparison("tenth", "==", 3), lambda i: i % 10 == 3),
    "all but a tenth": (Comparison("tenth", "!=", 3), lambda i: i % 10 != 3),
    "one in 500": (RARE, lambda i: i % 500 == 3),
    "one in 500, negated": (Combination("not", (Combination("not", (RARE,)),)),
                            lambda i: i % 500 == 3),
    "a range": (Comparison("tenth", "<", 1.5), lambda i: i % 10 < 2),
    "some patients": (Comparison("patient_id", "in", ("patient5", "patient900")),
                      lambda i: i // 4 in (5, 900)),
    "text by order": (Comparison("note", ">=", "xxxxx"), lambda i: i % 7 >= 5),
    "nothing": (Comparison("tenth", "==", 11), lambda i: False),
}  # fmt: skip


@pytest.mark.parametrize(("where", "matches"), SELECTIVE.values(), ids=SELECTIVE)
def test_a_selective_filter_returns_all_that_an_exact_scan_returns(filled, where, matches) -> None:
    store, matrix = filled
    allowed = np.array([matches(i) for i in range(COUNT)])
    for weights in (FusionWeights(), FusionWeights(1, -0.3, 1)):
        if allowed.any():
            assert recall(store, matrix, weights, allowed, filters=where) >= 0.99
        else:
            assert store.query(*units_of(2), weights, K, filters=where) == []


def test_exclusion_of_most_of_the_nearest_returns_the_best_of_the_rest(filled) -> None:
    store, matrix = filled
    for q_image, q_text in zip(*DRAWN.draw(3, seed=5), strict=True):
        exact = matrix @ fused_query(q_image, q_text, FusionWeights(), store.schema.blocks)
        nearest = np.argsort(-exact)[:700]
        exclude = Exclusion(
            pair_ids={f"p{i}" for i in nearest[:300]},
            patient_ids={f"patient{i // 4}" for i in nearest[300:600]},
            cases={(f"patient{i // 4}", str(i // 2)) for i in nearest[600:]},
        )
        left = [i for i in range(COUNT) if not excluded(exclude, i)]
        best = sorted(left, key=lambda i: -exact[i])[:K]
        hits = store.query(q_image, q_text, FusionWeights(), K, exclude)
        assert [hit.score for hit in hits] == pytest.approx([exact[i] for i in best], abs=1e-5)


def excluded(exclude: Exclusion, i: int) -> bool:
    patient = f"patient{i // 4}"
    return (
        f"p{i}" in exclude.pair_ids
        or patient in exclude.patient_ids
        or (patient, str(i // 2)) in exclude.cases
    )


def units_of(rows: int) -> np.ndarray:
    return DRAWN.draw(rows, seed=9)[0]


def test_equal_scores_come_in_the_order_of_ids_in_a_database_of_any_language(
    postgres, units
) -> None:
    try:
        postgres.execute("CREATE DATABASE english TEMPLATE template0 LOCALE 'en_US.utf8'")
    except psycopg.errors.WrongObjectType:
        pytest.skip("this machine has no locale en_US.utf8")
    names = ["b", "B", "a", "A", "é", "_", "Z", "z", "10", "9"]
    alike = np.repeat(units(1), len(names), axis=0)
    with PairStore.create(postgres.url(database="english"), StoreSchema("t@1", "", 8)) as store:
        store.upsert([Pair("i", "r", name) for name in names], alike, alike)
        for k in (6, 9):  # more than half of what there is: compared with all pairs
            hits = store.query(*units(2), FusionWeights(), k, Exclusion(patient_ids={"nobody"}))
            assert [hit.pair_id for hit in hits] == sorted(names)[:k]


def test_an_index_of_half_precision_is_used_and_scored_by_whole_vectors(postgres):
    image, text = DRAWN.draw(COUNT, seed=1)
    made = [Pair("a.png", "a report", f"p{i}", f"patient{i}") for i in range(COUNT)]
    schema = StoreSchema("toy@1", "", 32, hnsw=HNSWSettings(16, 64, 200))
    with PairStore.create(postgres.url(), schema, collection="halved") as store:
        store.upsert(made, image, text)
        number, version = store._number, store._index.version
    if version < (0, 7):
        pytest.skip("this pgvector has no halfvec")
    table = f"mrrag.pairs_{number}"
    postgres.execute(
        f"DROP INDEX {table}_embedding_idx",
        f"CREATE INDEX halved_idx ON {table} USING hnsw ((embedding::halfvec(64)) halfvec_ip_ops)",
    )
    with PairStore.open(postgres.url(), collection="halved") as store:
        everything = np.ones(COUNT, dtype=bool)
        found = recall(store, document_vector(image, text), FusionWeights(), everything)
        assert found >= 0.99
    with psycopg.connect(postgres.url()) as connection:
        connection.execute("SELECT pg_stat_force_next_flush()")
        rows = connection.execute(
            "SELECT idx_scan FROM pg_stat_user_indexes WHERE indexrelname = 'halved_idx'"
        )
        assert rows.fetchone()[0] >= QUERIES
