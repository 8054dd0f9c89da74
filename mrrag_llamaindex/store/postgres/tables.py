"""The tables, versioned: schema ``mrrag``, one table for each collection.

Every row belongs to a tenant, and row-level security shows a role the rows of its own alone. Roles
that ``mrrag.tenants`` does not name share the tenant ``''``. An identifier is unique within a
tenant, so that not even a refused insertion tells of another's.
"""

from __future__ import annotations

from typing import Final

from psycopg.sql import SQL

from mrrag_llamaindex.store.postgres.connection import Statement

TABLES: Final = SQL("""
CREATE SCHEMA IF NOT EXISTS mrrag;
CREATE TABLE mrrag.layout (version integer NOT NULL);
CREATE TABLE mrrag.collections (
    id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text NOT NULL UNIQUE,
    metadata json NOT NULL,
    made timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE mrrag.tenants (member name PRIMARY KEY, tenant text NOT NULL);
ALTER TABLE mrrag.tenants ENABLE ROW LEVEL SECURITY;
CREATE FUNCTION mrrag.tenant() RETURNS text LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path = pg_catalog
    AS $$ SELECT coalesce((SELECT tenant FROM mrrag.tenants WHERE member = session_user), '') $$;
CREATE TABLE mrrag.log (
    number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    role name NOT NULL DEFAULT session_user,
    tenant text NOT NULL DEFAULT mrrag.tenant(),
    collection text NOT NULL,
    action text NOT NULL CHECK (action IN ('write', 'delete')),
    pair_ids text[] NOT NULL
);
ALTER TABLE mrrag.log ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY readable ON mrrag.log FOR SELECT USING (tenant = (SELECT mrrag.tenant()));
CREATE POLICY appendable ON mrrag.log FOR INSERT WITH CHECK (
    tenant = (SELECT mrrag.tenant()) AND role = session_user
);
INSERT INTO mrrag.layout VALUES (1);
""")

PAIRS: Final = """
CREATE TABLE {table} (
    number bigint GENERATED ALWAYS AS IDENTITY,
    tenant text NOT NULL DEFAULT mrrag.tenant(),
    pair_id text NOT NULL,
    patient_id text,
    study_id text,
    image_path text,
    missing text,
    report text NOT NULL,
    metadata json NOT NULL,
    attributes jsonb NOT NULL GENERATED ALWAYS AS (metadata::jsonb) STORED,
    fingerprint text NOT NULL,
    checksum text NOT NULL,
    embedding vector({length}) NOT NULL,
    PRIMARY KEY (tenant, pair_id)
);
CREATE INDEX ON {table} (patient_id);
CREATE INDEX ON {table} USING gin (attributes jsonb_path_ops);
ALTER TABLE {table} ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY own ON {table}
    USING (tenant = (SELECT mrrag.tenant())) WITH CHECK (tenant = (SELECT mrrag.tenant()));
COMMENT ON TABLE {table} IS {comment};
"""

MIGRATIONS: Final[dict[int, Statement]] = {
    1: SQL("""
CREATE TABLE mrrag.learned (
    collection integer NOT NULL REFERENCES mrrag.collections (id),
    tenant text NOT NULL DEFAULT mrrag.tenant(),
    name text NOT NULL,
    content text NOT NULL,
    PRIMARY KEY (collection, tenant, name)
);
ALTER TABLE mrrag.learned ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY own ON mrrag.learned
    USING (tenant = (SELECT mrrag.tenant())) WITH CHECK (tenant = (SELECT mrrag.tenant()));
"""),
}
"""From each version to the next; new tables go the whole way."""
