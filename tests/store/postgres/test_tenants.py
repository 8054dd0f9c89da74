"""Roles: what the server allows is what a store does, and no tenant learns of another's pairs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from mrrag_llamaindex.errors import StoreError
from mrrag_llamaindex.mcr.score import FusionWeights
from mrrag_llamaindex.store.filters import Comparison
from mrrag_llamaindex.store.hits import Exclusion
from mrrag_llamaindex.store.protocol import PairStore
from mrrag_llamaindex.store.schema import StoreSchema

ROLES = {"ward_a": "a", "ward_b": "b", "reader_a": "a"}


@pytest.fixture(scope="module")
def hospital(postgres: Any) -> Iterator[Any]:
    """A database with two tenants, as docs/stores.md has a DBA make it."""
    towers = {"towers_identity": "toy@1", "towers_source": "", "dimension": 8}
    postgres.execute("CREATE DATABASE hospital")
    PairStore.create(postgres.url(database="hospital"), StoreSchema(**towers)).close()
    for role, tenant in ROLES.items():
        rights = "SELECT" if role.startswith("reader") else "SELECT, INSERT, UPDATE, DELETE"
        postgres.execute(
            f"CREATE ROLE {role} LOGIN PASSWORD '{role}'",
            f"GRANT USAGE ON SCHEMA mrrag TO {role}",
            # More than is needed: what must not be written is not writable all the same.
            f"GRANT {rights} ON ALL TABLES IN SCHEMA mrrag TO {role}",
            f"INSERT INTO mrrag.tenants VALUES ('{role}', '{tenant}')",
            database="hospital",
        )
    yield postgres
    postgres.execute("DROP DATABASE hospital WITH (FORCE)", *(f"DROP ROLE {r}" for r in ROLES))


@pytest.fixture
def wards(hospital: Any, units: Any, pairs: Any) -> Iterator[dict[str, PairStore]]:
    stores = {
        role: PairStore.open(hospital.url(role, role, "hospital")) for role in ("ward_a", "ward_b")
    }
    for number, (role, store) in enumerate(stores.items()):
        made = pairs(
            30,
            report=lambda i, role=role: f"report {i} of {role}",
            patient_id=lambda i, role=role: f"{role}-{i}",
            metadata=lambda i, role=role: {"ward": role},
        )
        store.upsert(made, units(30, seed=number), units(30, seed=number + 9))
    yield stores
    for store in stores.values():
        store.delete(store.pair_ids())
        store.close()


def test_tenants_with_the_same_ids_see_their_own_pairs_and_count_them(wards, units) -> None:
    for role, store in wards.items():
        assert len(store) == 30
        assert store.pair_ids() == [f"p{i}" for i in range(30)]
        assert store.get(["p7"])["p7"].report == f"report 7 of {role}"
        hits = store.query(*units(2, seed=3), FusionWeights(), 100)
        assert len(hits) == 30
        assert all(hit.report.endswith(role) for hit in hits)
        other = {"ward_a": "ward_b", "ward_b": "ward_a"}[role]
        question = (*units(2, seed=3), FusionWeights(), 5)
        assert store.query(*question, filters=Comparison("ward", "==", other)) == []
        assert store.query(*question, filters=Comparison("patient_id", "==", f"{other}-1")) == []
        assert len(store.query(*question, Exclusion(patient_ids={f"{other}-1"}))) == 5


def test_deleting_and_replacing_touch_no_other_tenants_pairs(wards, units, pairs) -> None:
    wards["ward_a"].delete(["p1"])
    wards["ward_a"].upsert(pairs(1, report=lambda i: "new"), units(1), units(1))
    assert len(wards["ward_b"]) == 30
    assert wards["ward_b"].get(["p0"])["p0"].report == "report 0 of ward_b"


def test_no_statement_of_a_role_reaches_another_tenant(wards, hospital) -> None:
    """Whatever SQL a role sends, not only what the store sends."""
    with psycopg.connect(hospital.url("ward_a", "ward_a", "hospital"), autocommit=True) as sql:
        everything = sql.execute("SELECT report FROM mrrag.pairs_1").fetchall()
        assert len(everything) == 30
        assert all("ward_a" in row[0] for row in everything)
        logged = sql.execute("SELECT DISTINCT role FROM mrrag.log").fetchall()
        assert logged == [("ward_a",)]
        assert sql.execute("UPDATE mrrag.pairs_1 SET report = '' WHERE tenant = 'b'").rowcount == 0
        assert sql.execute("DELETE FROM mrrag.pairs_1 WHERE tenant = 'b'").rowcount == 0
        assert sql.execute("SELECT * FROM mrrag.tenants").fetchall() == []
        # The log can be added to, in one's own name, and not changed.
        assert sql.execute("UPDATE mrrag.log SET action = 'delete'").rowcount == 0
        assert sql.execute("DELETE FROM mrrag.log").rowcount == 0
        for attempt in (
            "INSERT INTO mrrag.tenants VALUES ('ward_a', 'b') ON CONFLICT (member) DO NOTHING",
            "UPDATE mrrag.pairs_1 SET tenant = 'b' WHERE pair_id = 'p2'",
            "INSERT INTO mrrag.log (tenant, collection, action, pair_ids) "
            "VALUES ('b', 'pairs', 'write', '{}')",
            "INSERT INTO mrrag.log (role, collection, action, pair_ids) "
            "VALUES ('ward_b', 'pairs', 'write', '{}')",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                sql.execute(attempt)
        assert sql.execute("UPDATE mrrag.tenants SET tenant = 'b'").rowcount == 0
    assert len(wards["ward_b"]) == 30


def test_a_superuser_sees_the_tenant_that_it_belongs_to(wards, hospital) -> None:
    """Row-level security does not bind it; two pairs of one id would be mixed."""
    with PairStore.open(hospital.url(database="hospital")) as store:
        assert len(store) == 0
        assert store.get(["p0"]) == {}


def test_a_role_that_may_only_read_reads_and_is_told_what_it_lacks(
    wards, hospital, units, pairs
) -> None:
    with PairStore.open(hospital.url("reader_a", "reader_a", "hospital")) as store:
        assert len(store) == 30
        assert len(store.query(*units(2), FusionWeights(), 3)) == 3
        for write in (
            lambda: store.upsert(pairs(1), units(1), units(1)),
            lambda: store.delete(["p0"]),
        ):
            with pytest.raises(StoreError, match="permission denied for table pairs_1") as caught:
                write()
            assert "\n" not in str(caught.value)
        assert len(store) == 30


def test_the_rights_that_the_document_gives_an_ingest_suffice_and_no_more(
    wards, hospital, units, pairs
) -> None:
    page = (Path(__file__).parents[3] / "docs" / "stores.md").read_text(encoding="utf-8")
    granted = re.findall(r"GRANT [^;]+;", page)
    assert len(granted) == 4
    hospital.execute(
        "CREATE ROLE intake LOGIN PASSWORD 'intake'",
        "INSERT INTO mrrag.tenants VALUES ('intake', 'c')",
        *(grant.replace("answers", "intake") for grant in granted),
        database="hospital",
    )
    url = hospital.url("intake", "intake", "hospital")
    schema = StoreSchema("toy@1", "", 8)
    try:
        with PairStore.open_or_create(url, schema) as store:  # as `mrrag ingest` begins
            for seed in (1, 2):
                assert len(store.fingerprints([f"p{i}" for i in range(5)])) == 5 * (seed - 1)
                store.upsert(pairs(5), units(5, seed=seed), units(5, seed=seed))
            store.erase_replaced()
            assert len(store) == len(store.query(*units(2), FusionWeights(), 9)) == 5
            assert not store.get(["p7"])  # of the wards
            with pytest.raises(StoreError, match="permission denied for table pairs_1"):
                store.delete(["p1"])
        with psycopg.connect(url, autocommit=True) as sql:
            assert sql.execute("SELECT count(*) FROM mrrag.pairs_1").fetchone() == (5,)
            for attempt in (
                "DROP TABLE mrrag.pairs_1",
                "TRUNCATE mrrag.pairs_1",
                "ALTER TABLE mrrag.pairs_1 DISABLE ROW LEVEL SECURITY",
                "DELETE FROM mrrag.pairs_1",
                "SELECT * FROM mrrag.log",
                "SELECT * FROM mrrag.tenants",
                "INSERT INTO mrrag.learned VALUES (1, 'c', 'x', 'x')",
                "UPDATE mrrag.pairs_1 SET tenant = 'a'",
                "CREATE TABLE mrrag.mine ()",
            ):
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    sql.execute(attempt)
        assert all(len(store) == 30 for store in wards.values())
    finally:
        hospital.execute("DROP OWNED BY intake", "DROP ROLE intake", database="hospital")


def test_a_role_without_rights_is_told_so(hospital) -> None:
    hospital.execute("CREATE ROLE stranger LOGIN PASSWORD 'stranger'")
    url = hospital.url("stranger", "stranger", "hospital")
    try:
        with pytest.raises(StoreError, match="permission denied for schema mrrag"):
            PairStore.open(url)
        with pytest.raises(StoreError, match="permission denied"):
            PairStore.create(url, StoreSchema("toy@1", "", 8), collection="mine")
    finally:
        hospital.execute("DROP ROLE stranger")


def test_the_log_names_who_wrote_and_deleted_which_pairs_and_no_report(wards, hospital) -> None:
    wards["ward_a"].delete(["p3", "unknown"])
    with psycopg.connect(hospital.url("ward_a", "ward_a", "hospital")) as sql:
        row = sql.execute(
            "SELECT role::text, tenant, collection, action, pair_ids, log::text "
            "FROM mrrag.log ORDER BY number DESC LIMIT 1"
        ).fetchone()
    assert row is not None
    assert row[:5] == ("ward_a", "a", "pairs", "delete", ["p3"])
    assert "report" not in row[5]
