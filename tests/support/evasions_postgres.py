"""Ways to do what a rule forbids without seeming to: forbidden acts of PostgreSQL, spelled and wrapped in many ways. Seeded.

A candidate is one or more messages. Not each of them works on a server: the test that uses them finds out, and counts those that do.
Tokens in the templates stand apart by blanks, so that comments and other blanks can take their place.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

from support.postgres_texts import respell

POLICY = """
version: 1
defaults: {action: allow, on_unparsable: block, on_dynamic: block, on_error: block}
rules:
  - {name: no-drop, match: {flag: ddl_destructive}, action: block}
  - {name: no-truncate, match: {flag: truncate}, action: block}
  - {name: no-mass-write, match: {kind: dml_write, flag: [no_where, trivial_where]}, action: block}
  - {name: no-secrets, match: {table: ["*.secrets"]}, action: block}
  - {name: no-samples, match: {flag: sample_leak}, action: block}
  - {name: no-programs, match: {flag: program_exec}, action: block}
  - {name: no-files, match: {flag: [server_file_read, server_file_write]}, action: block}
  - {name: no-privileges, match: {flag: [privilege_change, owner_change]}, action: block}
  - {name: no-identity, match: {flag: identity_change}, action: block}
"""
CODE_RULE = "  - {name: no-code, match: {flag: code_body}, action: block}\n"
"""Beside POLICY for what only this can stop as long as no catalogue says which tables have triggers and rules: the shipped policy has it too."""
SETUP = (
    "drop role if exists other",
    "create role other",
    "create table notes (id integer, body text)",
    "insert into notes select n, 'note ' || n from generate_series(1, 20) n",
    "create table secrets (id integer, value text)",
    "insert into secrets select n, 'classified-' || n from generate_series(1, 20) n",
    "create table keep (a text)",
    "analyze",
)
STATE = """
select md5(string_agg(line, E'\\n' order by line)) || current_user from (
  select 'column ' || attrelid::regclass || ' ' || attname || atttypid from pg_attribute
    where attrelid in ('public.notes'::regclass, 'public.secrets'::regclass) and attnum > 0 and not attisdropped
  union all select 'table ' || oid::regclass || relowner || coalesce(relacl::text, '') from pg_class
    where oid in ('public.notes'::regclass, 'public.secrets'::regclass, 'public.keep'::regclass)
  union all select 'row ' || n::text from public.notes n
  union all select 'row ' || s::text from public.secrets s
  union all select 'role ' || r::text from pg_authid r
  union all select 'member ' || roleid::text || member::text from pg_auth_members
  union all select 'default ' || d::text from pg_default_acl d
  union all select 'setting ' || s::text from pg_db_role_setting s
) lines (line)
"""
"""Fails, or says something else than before, if anything that the rules protect has changed, or the session is another's."""
CANARY = "classified"
DROP, TRUNCATE, DELETE, READ, PROGRAM, FILE, PRIVILEGE, IDENTITY = RULES = (
    "drop",
    "truncate",
    "delete without where",
    "read a table",
    "run a program",
    "server files",
    "change privileges",
    "change identity",
)
# {t}: the table notes, {s}: secrets, {f}: a file to be made, {p}: a file with the canary, {n}: a number used once
_DDL: dict[str, tuple[str, ...]] = {
    DROP: (
        "DROP TABLE {t}",
        "DROP TABLE IF EXISTS {t} CASCADE",
        "DROP TABLE IF EXISTS nope , {t} RESTRICT",
        "ALTER TABLE {t} DROP COLUMN body",
        "ALTER TABLE {t} DROP body",
        "ALTER TABLE IF EXISTS {t} ADD COLUMN x int , DROP COLUMN IF EXISTS body CASCADE",
        "DROP SCHEMA public CASCADE",
        "DROP OWNED BY app CASCADE",
    ),
    TRUNCATE: (
        "TRUNCATE {t}",
        "TRUNCATE TABLE {t}",
        "TRUNCATE ONLY {t} RESTART IDENTITY CASCADE",
        "TRUNCATE TABLE keep , {t} CONTINUE IDENTITY RESTRICT",
        "TRUNCATE {t} *",
    ),
    PROGRAM: (
        "COPY ( SELECT 1 ) TO PROGRAM 'touch {f}'",
        "COPY {t} TO PROGRAM 'cat > {f}'",
        "COPY {t} ( id ) TO PROGRAM $q$cat > {f}$q$ WITH ( FORMAT csv )",
        "COPY keep FROM PROGRAM E'touch {f}'",
        "COPY ( TABLE {t} ) TO PROGRAM 'cat > {f}' CSV HEADER",
        "COPY keep ( a ) FROM PROGRAM 'touch {f}' WITH ( FORMAT text )",
        "COPY ( VALUES ( 1 ) ) TO PROGRAM U&'touch {f}'",
    ),
    FILE: (
        "COPY {t} TO '{f}'",
        "COPY ( SELECT * FROM {t} ) TO '{f}' WITH ( FORMAT csv )",
        "COPY {t} ( id ) TO $q${f}$q$",
        "COPY ( TABLE {t} ) TO E'{f}' CSV",
    ),
    PRIVILEGE: (
        "GRANT SELECT ON {t} TO PUBLIC",
        "GRANT ALL PRIVILEGES ON TABLE {t} TO other WITH GRANT OPTION",
        "GRANT SELECT ON ALL TABLES IN SCHEMA public TO other",
        "REVOKE SELECT ON {t} FROM app",
        "CREATE ROLE r{n} SUPERUSER LOGIN PASSWORD 'x'",
        "CREATE USER u{n} IN ROLE app",
        "CREATE GROUP g{n} WITH USER other",
        "ALTER ROLE other SUPERUSER",
        "ALTER USER other WITH PASSWORD 'pw'",
        "ALTER ROLE other RENAME TO r{n}",
        "ALTER GROUP app ADD USER other",
        "GRANT app TO other",
        "GRANT pg_read_all_data TO other WITH ADMIN OPTION",
        "ALTER TABLE {t} OWNER TO other",
        "REASSIGN OWNED BY app TO other",
        "DROP ROLE other",
        "ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT SELECT ON TABLES TO PUBLIC",
        "ALTER DEFAULT PRIVILEGES FOR ROLE app REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC",
        "ALTER ROLE other SET search_path TO pg_temp",
    ),
    IDENTITY: (
        "SET ROLE other",
        "SET SESSION ROLE other",
        "SET SESSION AUTHORIZATION other",
        "SET SESSION SESSION AUTHORIZATION 'other'",
        'SET ROLE "other"',
        "SET role TO other",
        "SET role = 'other'",
        "SET SESSION role TO U&'\\006fther'",
        "SET session_authorization TO 'other'",
    ),
}
_WRITES: dict[str, tuple[str, ...]] = {
    DELETE: (
        "DELETE FROM {t}",
        "DELETE FROM ONLY {t}",
        "DELETE FROM {t} AS x",
        "DELETE FROM {t} WHERE true",
        "DELETE FROM {t} WHERE 1 = 1",
        "DELETE FROM {t} x WHERE x . id = x . id",
        "DELETE FROM {t} WHERE NOT false",
        "DELETE FROM {t} WHERE 'a' = 'a' OR id < 0",
        "DELETE FROM {t} USING keep RIGHT JOIN ( VALUES ( 1 ) ) v ( a ) ON true",
        "UPDATE {t} SET body = 'x'",
        "UPDATE ONLY {t} AS x SET body = x . id",
        "UPDATE {t} SET body = 'x' WHERE true",
        "UPDATE {t} SET ( id , body ) = ( 1 , 'x' ) WHERE 1 < 2",
        "UPDATE {t} SET id = v . a FROM ( VALUES ( 7 ) ) v ( a )",
    ),
    PRIVILEGE: (
        "UPDATE pg_authid SET rolsuper = true WHERE rolname = 'other'",
        "UPDATE pg_catalog . pg_class SET relacl = NULL , relowner = 10 WHERE relname = 'notes' AND relkind = 'r'",
        (
            "INSERT INTO pg_auth_members SELECT 99999 , a . oid , b . oid , 10 , false FROM pg_authid a , pg_authid b"
            " WHERE a . rolname = 'app' AND b . rolname = 'other'"
        ),
    ),
}
_QUERIES: dict[str, tuple[str, ...]] = {
    READ: (
        "SELECT * FROM {s}",
        "TABLE {s}",
        "SELECT value FROM {s} WHERE id = 1",
        "SELECT s FROM {s} AS s",
        "SELECT x . b FROM {s} AS x ( a , b )",
        "SELECT ( SELECT max ( value ) FROM {s} ) AS v",
        "SELECT 1 , value FROM keep RIGHT JOIN {s} ON true",
        "SELECT v FROM notes n , LATERAL ( SELECT value FROM {s} s WHERE s . id = n . id ) l ( v )",
        (
            "SELECT id FROM notes WHERE false UNION ALL SELECT id FROM ( SELECT id , value FROM {s} ) q"
            " WHERE ( value :: int ) IS NULL"
        ),
        "VALUES ( ( SELECT value FROM {s} LIMIT 1 ) )",
        "SELECT body FROM notes UNION SELECT value FROM {s}",
        "SELECT CASE WHEN EXISTS ( SELECT FROM {s} WHERE value LIKE 'classified%' ) THEN 'classi' || 'fied' END",
        "SELECT string_agg ( value , ',' ) FROM {s}",
        "SELECT to_jsonb ( s ) FROM {s} s",
        "SELECT row_to_json ( s . * ) FROM {s} s",
        "WITH secrets AS ( SELECT * FROM public . secrets ) SELECT * FROM secrets",
        (
            "WITH RECURSIVE r ( n , v ) AS ( SELECT 1 , '' UNION ALL SELECT n + 1 , ( SELECT value FROM {s} LIMIT 1 ) FROM r WHERE n < 2 )"
            " SELECT v FROM r"
        ),
        "SELECT value :: int FROM {s}",
        "SELECT id FROM notes ORDER BY ( SELECT value :: date FROM {s} LIMIT 1 )",
        "SELECT query_to_xml ( 'select value from secrets' , true , false , '' )",
        "SELECT table_to_xml ( 'secrets' , true , false , '' )",
        "SELECT pg_catalog . schema_to_xml ( 'public' , true , false , '' )",
        "SELECT database_to_xml ( true , false , '' )",
        "SELECT query_to_xml ( 'select value from ' || 'sec' || 'rets' , true , false , '' )",
        "SELECT query_to_xml ( convert_from ( '\\x73656c656374202a2066726f6d2073656372657473' , 'UTF8' ) , true , false , '' )",
        "SELECT * FROM ts_stat ( 'select to_tsvector(''simple'', value) from secrets' )",
        "SELECT histogram_bounds FROM pg_stats WHERE tablename = 'secrets' AND attname = 'value'",
        "SELECT stavalues1 FROM pg_catalog . pg_statistic WHERE starelid = 'secrets' :: regclass",
        "SELECT xpath ( '//value' , table_to_xml ( '\"secrets\"' , true , false , '' ) )",
    ),
    IDENTITY: (
        "SELECT set_config ( 'role' , 'other' , false )",
        "SELECT pg_catalog . set_config ( 'ro' || 'le' , 'other' , false )",
        "SELECT set_config ( 'session_authorization' , 'other' , false )",
        "SELECT set_config ( n , 'other' , false ) FROM ( VALUES ( 'role' ) ) v ( n )",
        "SELECT 1 WHERE set_config ( 'ROLE' , 'other' , false ) = 'other'",
        "SELECT count ( * ) FROM notes GROUP BY set_config ( 'role' , 'other' , false )",
    ),
    FILE: (
        "SELECT pg_read_file ( '{p}' )",
        "SELECT pg_catalog . pg_read_binary_file ( '{p}' )",
        "SELECT convert_from ( pg_read_binary_file ( '{p}' , 0 , 100 ) , 'UTF8' )",
        "SELECT * FROM pg_read_file ( '{p}' , 0 , 50 )",
        "SELECT convert_from ( lo_get ( lo_import ( '{p}' ) ) , 'UTF8' )",
        "SELECT lo_export ( lo_from_bytea ( 0 , 'x' ) , '{f}' )",
        "SELECT pg_ls_dir ( regexp_replace ( '{p}' , '[^/]*$' , '' ) )",
    ),
    DELETE: (
        "WITH d AS ( DELETE FROM {t} RETURNING id ) SELECT count ( * ) FROM d",
        "WITH d AS MATERIALIZED ( UPDATE {t} SET body = 'x' RETURNING * ) TABLE d",
        "WITH a AS ( WITH b AS ( SELECT 1 ) SELECT * FROM b ) , d AS ( DELETE FROM {t} WHERE true ) SELECT * FROM a",
    ),
}
_SEVERAL: dict[str, tuple[tuple[str, ...], ...]] = {
    READ: (
        ("BEGIN", "DECLARE c{n} CURSOR FOR SELECT * FROM {s}", "FETCH ALL FROM c{n}"),
        ("CREATE TABLE copy{n} AS TABLE {s}", "SELECT * FROM copy{n}"),
        ("SELECT * INTO copy{n} FROM {s}", "TABLE copy{n}"),
        ("CREATE TEMP TABLE copy{n} ( LIKE {s} )", "INSERT INTO copy{n} SELECT * FROM {s}", "TABLE copy{n}"),
        ("CREATE VIEW view{n} AS SELECT * FROM {s}", "SELECT * FROM view{n}"),
        ("CREATE MATERIALIZED VIEW mat{n} AS SELECT * FROM {s}", "SELECT * FROM mat{n}"),
        ("ALTER TABLE {s} RENAME TO plain{n}", "SELECT * FROM plain{n}"),
        ("CREATE SCHEMA s{n}", "ALTER TABLE {s} SET SCHEMA s{n}", "SELECT * FROM s{n} . secrets"),
        ("CREATE SCHEMA s{n}", "ALTER TABLE {s} SET SCHEMA s{n}", "SET search_path TO s{n}", "TABLE secrets"),
        ("CREATE TABLE parent{n} ( id integer , value text )", "ALTER TABLE {s} INHERIT parent{n}", "TABLE parent{n}"),
        ("INSERT INTO keep SELECT value FROM {s} RETURNING a",),
        ("UPDATE notes SET body = value FROM {s} s WHERE s . id = notes . id RETURNING body",),
        ("UPDATE notes SET body = ( SELECT value FROM {s} LIMIT 1 ) WHERE id = 1 RETURNING *",),
        ("DELETE FROM notes USING {s} s WHERE s . id = notes . id RETURNING s . *",),
        (
            "MERGE INTO notes USING {s} s ON notes . id = s . id WHEN MATCHED THEN UPDATE SET body = s . value",
            "TABLE notes",
        ),
        ("COPY {s} TO STDOUT",),
        ("COPY {s} ( value ) TO STDOUT WITH ( FORMAT csv , HEADER )",),
        ("COPY ( SELECT value FROM {s} ) TO STDOUT",),
        ("COPY BINARY {s} TO STDOUT",),
        ("DO $$ DECLARE v text ; BEGIN SELECT value INTO v FROM secrets LIMIT 1 ; RAISE NOTICE '%' , v ; END $$",),
        ("DO $$ BEGIN RAISE EXCEPTION '%' , ( SELECT value FROM secrets LIMIT 1 ) ; END $$",),
        (
            "DO $$ DECLARE v text ; BEGIN EXECUTE 'select value from sec' || 'rets limit 1' INTO v ; RAISE NOTICE '%' , v ; END $$",
        ),
        ("CREATE FUNCTION f{n}() RETURNS SETOF text LANGUAGE sql AS 'select value from secrets'", "SELECT f{n}()"),
        (
            "CREATE FUNCTION f{n}() RETURNS SETOF text LANGUAGE sql BEGIN ATOMIC SELECT value FROM secrets ; END",
            "SELECT f{n}()",
        ),
        ("PREPARE p{n} AS SELECT * FROM {s}", "EXECUTE p{n}"),
        ("PREPARE p{n} AS SELECT * FROM {s}", "CREATE TABLE copy{n} AS EXECUTE p{n}", "TABLE copy{n}"),
        ("PREPARE p{n} AS SELECT * FROM {s}", "EXPLAIN ANALYZE EXECUTE p{n}", "EXECUTE p{n}"),
        (
            "BEGIN",
            "DECLARE c{n} CURSOR FOR SELECT * FROM {s}",
            "SELECT cursor_to_xml ( 'c{n}' , 100 , true , false , '' )",
        ),
        ("CREATE RULE r{n} AS ON UPDATE TO keep DO INSTEAD SELECT * FROM {s}", "UPDATE keep SET a = 'x' WHERE a = 'y'"),
        ("ALTER TABLE notes ADD FOREIGN KEY ( body ) REFERENCES {s} ( value )", "SELECT 1"),
    ),
    FILE: (
        ("COPY keep FROM '{p}'", "TABLE keep"),
        ("CREATE TEMP TABLE t{n} ( a text )", "COPY t{n} FROM '{p}' WITH ( FORMAT text )", "TABLE t{n}"),
        ("DO $$ BEGIN RAISE NOTICE '%' , pg_read_file ( '{p}' ) ; END $$",),
    ),
    PROGRAM: (("CREATE TEMP TABLE t{n} ( a text )", "COPY t{n} FROM PROGRAM 'touch {f}'"),),
    DELETE: (
        ("MERGE INTO {t} USING ( SELECT 1 ) s ON true WHEN MATCHED THEN DELETE",),
        ("MERGE INTO {t} AS x USING ( VALUES ( 1 ) ) s ( a ) ON 1 = 1 WHEN MATCHED THEN UPDATE SET body = 'x'",),
    ),
    IDENTITY: (
        ("BEGIN", "SET LOCAL ROLE other"),
        ("BEGIN", "SELECT set_config ( 'role' , 'other' , true )"),
        ("UPDATE pg_settings SET setting = 'other' WHERE name = 'role'",),
        ("UPDATE pg_catalog . pg_settings SET setting = 'other' WHERE name = 'session_authorization'",),
        ("PREPARE p{n} AS SELECT set_config ( $1 , $2 , false )", "EXECUTE p{n} ( 'role' , 'other' )"),
    ),
}


@dataclass(frozen=True)
class Evasion:
    """messages: in order, each a Query or, if is_extended, a Parse, Bind and Execute. name: what it is made of.

    is_trigger: it runs as a trigger or rule, in a statement that names nothing of it, see CODE_RULE.
    """

    rule: str
    name: str
    messages: tuple[str, ...]
    is_extended: bool = False
    is_trigger: bool = False


def evasions(rule: str, seed: int, made_file: str, canary_file: str, database: str) -> Iterator[Evasion]:
    """Candidates without end, no two with the same messages."""
    choose = random.Random(f"{rule}/{seed}")
    seen: set[tuple[str, ...]] = set()
    number = 0
    while True:
        number += 1
        names = {"f": made_file, "p": canary_file, "n": str(number)}
        evasion = _one(choose, rule, names, database)
        if evasion.messages not in seen:
            seen.add(evasion.messages)
            yield evasion


def _one(choose: random.Random, rule: str, names: dict[str, str], database: str) -> Evasion:
    pools = [
        (pool, form)
        for form, pool in (("ddl", _DDL), ("write", _WRITES), ("query", _QUERIES), ("several", _SEVERAL))
        if rule in pool
    ]
    pool, form = choose.choices(pools, [len(pool[rule]) for pool, _ in pools])[0]
    template = choose.choice(pool[rule])
    parts = template if isinstance(template, tuple) else (template,)
    messages = [
        each.format(t=_table(choose, "notes", database), s=_table(choose, "secrets", database), **names)
        for each in parts
    ]
    head = parts[0][:40]
    if form != "several":
        name, messages = _wrap(choose, messages[0], form, names["n"])
        head = f"{head} / {name}"
    elif len(messages) > 1 and choose.randrange(3) == 0 and "BEGIN" not in messages:
        messages = [" ; ".join(messages)]
    messages = [respell(choose, each) if choose.randrange(4) else each for each in messages]
    is_extended = choose.randrange(4) == 0 and not any(";" in each for each in messages)
    return Evasion(rule, head, tuple(messages), is_extended, head.endswith(("/ trigger", "/ rule")))


def _table(choose: random.Random, name: str, database: str) -> str:
    return choose.choice(
        (
            name,
            f"public . {name}",
            f'"{name}"',
            f'public . "{name}"',
            f'"public" . {name}',
            f'U&"\\{ord(name[0]):04x}{name[1:]}"',
            f"U&\"!{ord(name[0]):04x}{name[1:]}\" UESCAPE '!'",
            f"{database} . public . {name}",
            f'U&"p\\+000075blic" . "{name}"',
        )
    )


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _wrap(choose: random.Random, sql: str, form: str, number: str) -> tuple[str, list[str]]:
    """sql in a wrapper that makes it run all the same."""
    half = len(sql) // 2
    as_hex = sql.encode().hex()
    tag = f"$b{number}$"
    wrappers: dict[str, list[str]] = {
        "plain": [sql],
        "behind": [f"SELECT 1 ; {sql}"],
        "in front": [f"{sql} ; SELECT 1"],
        "empty statements": [f"; ; {sql} ; ;"],
        "behind a comment": [f"/* {sql[:7].split()[0]} */ -- ' /*\n {sql} /* /* */ */"],
        "three": [f"SELECT 'a ; b' ; {sql} ; SELECT $$ ; $$"],
        "DO": [f"DO {tag} BEGIN {sql} ; END {tag}"],
        "DO in a string": [f"DO {_quoted(f'BEGIN {sql} ; END')}"],
        "DO by language": [f"DO LANGUAGE plpgsql {tag} BEGIN {sql} ; END {tag}"],
        "DO EXECUTE": [f"DO {tag} BEGIN EXECUTE {_quoted(sql)} ; END {tag}"],
        "DO EXECUTE halves": [f"DO {tag} BEGIN EXECUTE {_quoted(sql[:half])} || {_quoted(sql[half:])} ; END {tag}"],
        "DO EXECUTE hex": [f"DO {tag} BEGIN EXECUTE convert_from ( decode ( '{as_hex}' , 'hex' ) , 'UTF8' ) ; END {tag}"],
        "DO EXECUTE format": [f"DO {tag} BEGIN EXECUTE format ( '%s' , {_quoted(sql)} ) ; END {tag}"],
        "function": [
            f"CREATE FUNCTION pg_temp . w{number}() RETURNS void LANGUAGE plpgsql AS {tag} BEGIN {sql} ; END {tag}",
            f"SELECT pg_temp . w{number}()",
        ],
        "function in one message": [
            (f"CREATE OR REPLACE FUNCTION w{number}() RETURNS void LANGUAGE plpgsql AS {_quoted(f'BEGIN {sql} ; END')} ;"
            f" SELECT w{number}()")
        ],
        "SQL function": [
            f"CREATE FUNCTION w{number}() RETURNS void LANGUAGE sql AS {tag} {sql} ; SELECT {tag}",
            f"SELECT * FROM w{number}()",
        ],
        "procedure": [
            f"CREATE PROCEDURE w{number}() LANGUAGE plpgsql AS {tag} BEGIN {sql} ; END {tag}",
            f"CALL w{number}()",
        ],
        "trigger": [
            f"CREATE FUNCTION w{number}() RETURNS trigger LANGUAGE plpgsql AS {tag} BEGIN {sql} ; RETURN NEW ; END {tag}",
            f"CREATE TRIGGER w{number} BEFORE INSERT ON keep FOR EACH ROW EXECUTE FUNCTION w{number}()",
            "INSERT INTO keep VALUES ( 'x' )",
        ],
    }  # fmt: skip
    if "'" not in sql and "\\" not in sql:
        wrappers["strings switched"] = ["SET standard_conforming_strings = off", f"SELECT 'a\\'' ; {sql} --'"]
        wrappers["strings switched by a function"] = [
            "SELECT set_config ( 'standard_conforming_' || 'strings' , 'off' , false )",
            f"SELECT 'a\\'' ; {sql} --'",
        ]
    if form in ("write", "query"):
        wrappers |= {
            "PREPARE": [f"PREPARE w{number} AS {sql}", f"EXECUTE w{number}"],
            "PREPARE in one message": [f"PREPARE w{number} AS {sql} ; EXECUTE w{number}"],
            "EXPLAIN ANALYZE": [f"EXPLAIN ANALYZE {sql}"],
            "EXPLAIN with options": [f"EXPLAIN ( COSTS off , ANALYZE true ) {sql}"],
        }
    if form == "write":
        wrappers |= {
            "CTE": [f"WITH w AS ( {sql} ) SELECT 1"],
            "CTE of a write": [f"WITH w AS ( {sql} RETURNING 1 ) INSERT INTO keep SELECT 'x' FROM w"],
            "COPY": [f"COPY ( {sql} RETURNING 1 ) TO STDOUT"],
            "RETURNING": [f"{sql} RETURNING *"],
            "rule": [f"CREATE RULE w{number} AS ON INSERT TO keep DO ALSO {sql}", "INSERT INTO keep VALUES ( 'x' )"],
            "CREATE TABLE AS EXECUTE": [
                f"PREPARE w{number} AS {sql} RETURNING 1 AS a",
                f"CREATE TABLE t{number} AS EXECUTE w{number}",
            ],
        }
    if form == "query" and not sql.startswith("WITH d") and " , d AS" not in sql:
        wrappers |= {
            "subquery": [f"SELECT * FROM ( {sql} ) AS w"],
            "CTE": [f"WITH w AS ( {sql} ) SELECT * FROM w"],
            "COPY": [f"COPY ( {sql} ) TO STDOUT"],
            "cursor": ["BEGIN", f"DECLARE w{number} CURSOR FOR {sql}", f"FETCH 5 FROM w{number}"],
            "CREATE TABLE AS": [f"CREATE TABLE t{number} AS {sql}", f"TABLE t{number}"],
            "view": [f"CREATE TEMP VIEW t{number} AS {sql}", f"TABLE t{number}"],
            "LATERAL": [f"SELECT w . * FROM ( VALUES ( 1 ) ) v , LATERAL ( {sql} ) w"],
            "UNION": [f"( {sql} ) UNION ALL ( {sql} )"],
            "row": [f"SELECT w :: text FROM ( {sql} ) w"],
            "query_to_xml": [f"SELECT query_to_xml ( {_quoted(sql)} , true , false , '' )"],
            "EXISTS": [f"SELECT 1 WHERE EXISTS ( {sql} )"],
        }
    name = choose.choice(list(wrappers))
    return name, wrappers[name]
