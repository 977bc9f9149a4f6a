"""The shipped default policy on what people's tools really send, and on what it is there to stop, through the real classifier."""

from __future__ import annotations

import pytest
from support.policies import context, shipped

from classifiers.effects import LexingState
from dbproxy.classifier.pool import classify_in_process
from dbproxy.policy.decide import decide
from dbproxy.policy.model import Decision

TOOLS = {
    "psql": r"""
        SELECT n.nspname as "Schema", c.relname as "Name", CASE c.relkind WHEN 'r' THEN 'table' WHEN 'v' THEN 'view' END as "Type", pg_catalog.pg_get_userbyid(c.relowner) as "Owner" FROM pg_catalog.pg_class c LEFT JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind IN ('r','p','') AND n.nspname <> 'pg_catalog' AND n.nspname !~ '^pg_toast' AND n.nspname <> 'information_schema' AND pg_catalog.pg_table_is_visible(c.oid) ORDER BY 1,2
        SELECT c.oid, n.nspname, c.relname FROM pg_catalog.pg_class c LEFT JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE c.relname OPERATOR(pg_catalog.~) '^(orders)$' COLLATE pg_catalog.default AND pg_catalog.pg_table_is_visible(c.oid) ORDER BY 2, 3
        SELECT a.attname, pg_catalog.format_type(a.atttypid, a.atttypmod), (SELECT pg_catalog.pg_get_expr(d.adbin, d.adrelid, true) FROM pg_catalog.pg_attrdef d WHERE d.adrelid = a.attrelid AND d.adnum = a.attnum AND a.atthasdef), a.attnotnull FROM pg_catalog.pg_attribute a WHERE a.attrelid = '16385' AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum
        SELECT r.rolname, r.rolsuper, ARRAY(SELECT b.rolname FROM pg_catalog.pg_auth_members m JOIN pg_catalog.pg_roles b ON (m.roleid = b.oid) WHERE m.member = r.oid) as memberof FROM pg_catalog.pg_roles r WHERE r.rolname !~ '^pg_' ORDER BY 1
        BEGIN
        COMMIT
        COPY public.orders (id, status) FROM stdin
        COPY public.orders TO stdout
    """,
    "pg_dump": """
        SET DATESTYLE = ISO
        SET INTERVALSTYLE = POSTGRES
        SET extra_float_digits TO 3
        SET synchronize_seqscans TO off
        SET statement_timeout = 0
        SET lock_timeout = 0
        SET idle_in_transaction_session_timeout = 0
        SET row_security = off
        SELECT pg_catalog.set_config('search_path', '', false)
        SELECT pg_catalog.pg_is_in_recovery()
        BEGIN
        SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY
        LOCK TABLE public.orders IN ACCESS SHARE MODE
        PREPARE dumpFunc(pg_catalog.oid) AS SELECT proretset, prosrc FROM pg_catalog.pg_proc p WHERE p.oid = $1
        COPY public.orders (id, status) TO stdout
        SELECT pg_catalog.pg_encoding_to_char(encoding) FROM pg_catalog.pg_database
    """,
    "pg_restore": """
        SET standard_conforming_strings = on
        SET check_function_bodies = false
        SET xmloption = content
        SET client_min_messages = warning
        SET default_tablespace = ''
        SET default_table_access_method = heap
        CREATE TABLE public.orders (id integer NOT NULL, status text)
        COPY public.orders (id, status) FROM stdin
        SELECT pg_catalog.setval('public.orders_id_seq', 5, true)
        ALTER TABLE ONLY public.orders ADD CONSTRAINT orders_pkey PRIMARY KEY (id)
        CREATE INDEX i ON public.orders USING btree (id)
        COMMENT ON TABLE public.orders IS 'x'
    """,
    "pgjdbc": """
        SET extra_float_digits = 3
        SET application_name = 'PostgreSQL JDBC Driver'
        SHOW TRANSACTION ISOLATION LEVEL
        SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL READ COMMITTED
        select current_schema()
        BEGIN READ ONLY
    """,
    "asyncpg": """
        SELECT pg_advisory_unlock_all(); CLOSE ALL; UNLISTEN *; RESET ALL;
        SELECT t.oid, t.typname FROM pg_catalog.pg_type AS t WHERE t.oid = any($1::oid[])
        DEALLOCATE ALL
        LISTEN jobs
    """,
    "pools and ORMs": """
        DISCARD ALL
        select pg_catalog.version()
        show standard_conforming_strings
        SELECT t.oid, typarray FROM pg_type t JOIN pg_namespace ns ON typnamespace = ns.oid WHERE typname = 'hstore'
        SELECT CAST('test plain returns' AS VARCHAR(60)) AS anon_1
        SELECT current_database(), current_user, session_user
        SAVEPOINT sa_savepoint_1
        RELEASE SAVEPOINT sa_savepoint_1
        ROLLBACK TO SAVEPOINT sa_savepoint_1
        INSERT INTO orders (status) VALUES ($1) RETURNING id
        UPDATE orders SET status = $1 WHERE id = $2
        DELETE FROM orders WHERE id = $1
        SELECT * FROM orders WHERE id = $1 FOR UPDATE
        SELECT nextval('orders_id_seq')
        select exists(select 1 from information_schema.tables where table_schema = 'public')
        DECLARE c1 CURSOR FOR SELECT * FROM orders
    """,
}

STOPPED = {
    "no-prod-drop": "DROP TABLE customers|TRUNCATE customers|ALTER TABLE customers DROP COLUMN ssn|DROP SCHEMA app CASCADE|SELECT 1; DROP TABLE customers",
    "no-server-files": "COPY customers TO '/tmp/x'|COPY customers FROM '/etc/passwd'|SELECT pg_read_file('/etc/passwd')|SELECT lo_import('/x')|SELECT lo_export(1, '/x')",
    "no-programs": "COPY customers TO PROGRAM 'sh'",
    "no-identity-change": "SET ROLE postgres|SET SESSION AUTHORIZATION postgres|SET LOCAL ROLE x|SELECT set_config('role', 'postgres', false)|RESET ROLE",
    "no-audit-evasion": "SET log_statement = 'none'|SET session_replication_role = replica|SET pgaudit.log = 'none'|ALTER TABLE t DISABLE TRIGGER ALL|ALTER SYSTEM SET log_statement = 'none'|ALTER ROLE alice SET log_statement = 'none'|ALTER ROLE alice RESET ALL",
    "no-server-settings": "ALTER SYSTEM SET work_mem = '1GB'|SELECT pg_reload_conf()",
    "no-stored-settings": "ALTER DATABASE shop SET search_path = x",
    "no-privilege-change": "CREATE ROLE x SUPERUSER|ALTER ROLE alice SUPERUSER|GRANT ALL ON customers TO public|ALTER TABLE t OWNER TO x|ALTER FUNCTION f() SECURITY DEFINER",
    "no-row-security-change": "ALTER TABLE t DISABLE ROW LEVEL SECURITY",
    "no-catalog-secrets": "SELECT rolpassword FROM pg_authid|SELECT passwd FROM pg_shadow|SELECT * FROM pg_user_mappings",
    "no-code-loading": "CREATE EXTENSION dblink|LOAD 'x'",
    "no-remote-access": "SELECT dblink('host=x', 'select 1')|CREATE SUBSCRIPTION s CONNECTION 'x' PUBLICATION p|CREATE SERVER s FOREIGN DATA WRAPPER postgres_fdw",
    "no-replication": "CREATE PUBLICATION p FOR ALL TABLES|SELECT pg_create_physical_replication_slot('x')",
    "no-prod-code": "CREATE FUNCTION f() RETURNS int LANGUAGE plpgsql AS $$ begin end $$|CREATE TRIGGER t BEFORE INSERT ON x FOR EACH ROW EXECUTE FUNCTION f()|CREATE RULE r AS ON INSERT TO t DO ALSO DELETE FROM s",
    "defaults.on_dynamic": "DO $$ BEGIN DELETE FROM customers; END $$|CALL p()|SELECT myfunc()|EXPLAIN SELECT myfunc()|EXECUTE nobody_knows(1)",
    "defaults.on_unparsable": ")(|SELECT 'unterminated",
}

DEFAULT = shipped("default")


def decided(sql: str, env: str = "prod") -> Decision:
    report = classify_in_process("postgres", sql.encode(), LexingState(), 180000)
    return decide(DEFAULT, report, context(env=env, search_path=None))


@pytest.mark.parametrize("tool", TOOLS)
def test_what_tools_send_is_not_refused(tool: str) -> None:
    statements = [line.strip() for line in TOOLS[tool].strip().splitlines()]
    assert [(sql, decision.rule) for sql in statements if (decision := decided(sql)).is_refused] == []


@pytest.mark.parametrize("rule", STOPPED)
def test_what_the_rule_is_for_is_refused_by_it_on_production(rule: str) -> None:
    for sql in STOPPED[rule].split("|"):
        decision = decided(sql)
        assert decision.is_refused, sql
        assert rule in [hit.rule for hit in decision.hits], (sql, decision.hits)


def test_each_rule_of_the_default_policy_that_blocks_has_a_case() -> None:
    assert {rule.name for rule in DEFAULT.rules if rule.action == "block"} <= set(STOPPED)
    assert all(rule.message for rule in DEFAULT.rules if rule.action == "block")


@pytest.mark.parametrize(
    ("sql", "rule"),
    [
        ("DELETE FROM orders", "unfiltered-write"),
        ("SELECT pg_terminate_backend(1)", "session-kill"),
        ("COPY customers TO STDOUT", "bulk-export"),
        ("SELECT * FROM pg_stats", "statistics-that-show-data"),
        ("SELECT pg_sleep(100)", "resource-abuse"),
    ],
)
def test_what_is_worth_a_look_runs_with_an_alert(sql: str, rule: str) -> None:
    decision = decided(sql)
    assert (decision.action.value, decision.rule) == ("alert", rule)


def test_elsewhere_than_on_production_people_may_change_tables() -> None:
    for sql in ("DROP TABLE customers", "TRUNCATE customers", "GRANT SELECT ON t TO x"):
        assert not decided(sql, "dev").is_refused
    for sql in ("SET ROLE x", "COPY t TO PROGRAM 'sh'", "SET log_statement = none"):
        assert decided(sql, "dev").is_refused
