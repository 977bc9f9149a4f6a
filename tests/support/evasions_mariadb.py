"""Ways to do what a rule forbids without seeming to, for MariaDB: support.evasions_postgres tells how they are made and used.

Keywords are in capitals in the templates, for only their letters may change: names of tables keep theirs.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

from support.evasions_postgres import Evasion

POLICY = """
version: 1
defaults: {action: allow, on_unparsable: block, on_dynamic: block, on_error: block}
rules:
  - {name: no-drop, match: {flag: ddl_destructive}, action: block}
  - {name: no-truncate, match: {flag: truncate}, action: block}
  - {name: no-mass-write, match: {kind: dml_write, flag: [no_where, trivial_where]}, action: block}
  - {name: no-secrets, match: {table: ["*.secrets"]}, action: block}
  - {name: no-samples, match: {flag: sample_leak}, action: block}
  - {name: no-files, match: {flag: [server_file_read, server_file_write]}, action: block}
  - {name: no-privileges, match: {flag: [privilege_change, owner_change]}, action: block}
  - {name: no-evasion, match: {flag: [audit_evasion, server_config]}, action: block}
"""
DROP, TRUNCATE, DELETE, READ, FILE, PRIVILEGE, LOGGING = RULES = (
    "drop",
    "truncate",
    "delete without where",
    "read a table",
    "server files",
    "change privileges",
    "switch logs off",
)
TABLES = (
    "create or replace database test",
    "create table test.notes (id int, body varchar(60)) engine=myisam",
    "insert into test.notes values (1, 'note 1'), (2, 'note 2'), (3, 'note 3')",
    "create table test.secrets (id int, value varchar(60)) engine=myisam",
    "insert into test.secrets values (1, 'classified-1'), (2, 'classified-2')",
    "create table test.keep (a varchar(200)) engine=myisam",
)
ACCOUNTS = (
    "create or replace user other identified by 'pw'",
    "delete from mysql.db where user = 'other'",
    "delete from mysql.global_priv where user not in ('root', 'app', 'other', 'mariadb.sys', 'mysql', 'PUBLIC')",
    "delete from mysql.roles_mapping",
    "delete from mysql.proxies_priv where user <> 'root'",
    "flush privileges",
)
LOGS = (
    "set global general_log = on",
    "set global log_output = 'TABLE'",
    "set global slow_query_log = on",
)
STATE = (
    "select * from test.notes",
    "select * from test.secrets",
    (
        "select table_name, column_name, column_type from information_schema.columns where table_schema = 'test'"
        " and table_name in ('notes', 'secrets') order by 1, 2"
    ),
    "select host, user, priv from mysql.global_priv order by 1, 2",
    "select * from mysql.db order by 1, 2, 3",
    "select * from mysql.tables_priv order by 1, 2, 3, 4",
    "select * from mysql.roles_mapping order by 1, 2",
    "select * from mysql.proxies_priv order by 1, 2, 3, 4",
    "select @@global.general_log, @@global.slow_query_log, @@global.log_output",
)
SESSION_STATE = "select @@sql_log_off, @@sql_log_bin, @@slow_query_log"
BLANKS = (
    " ",
    " ",
    " ",
    "\n",
    "\t",
    "\r\n",
    "/**/",
    " /* from notes */ ",
    " -- '\n",
    " --\t\n",
    "# ' \"\n",
    "\f",
    " /*' */ ",
)
# {t}: the table notes, {s}: secrets, {f}: a file to be made, {p}: a file with the canary, {n}: a number used once
_DDL: dict[str, tuple[str, ...]] = {
    DROP: (
        "DROP TABLE {t}",
        "DROP TABLES {t}",
        "DROP TABLE IF EXISTS nope , {t} CASCADE",
        "ALTER TABLE {t} DROP COLUMN body",
        "ALTER TABLE {t} DROP body",
        "ALTER IGNORE TABLE {t} ADD COLUMN x INT , DROP COLUMN IF EXISTS body",
        "DROP DATABASE test",
        "DROP SCHEMA IF EXISTS test",
        "CREATE OR REPLACE TABLE {t} ( x INT )",
        "CREATE OR REPLACE DATABASE test",
    ),
    TRUNCATE: ("TRUNCATE {t}", "TRUNCATE TABLE {t}", "TRUNCATE TABLE {t} NOWAIT", "TRUNCATE TABLE {t} WAIT 3"),
    FILE: (
        "SELECT * FROM {t} INTO OUTFILE '{f}'",
        "SELECT * INTO OUTFILE '{f}' FIELDS TERMINATED BY ',' FROM {t}",
        "SELECT 1 INTO DUMPFILE '{f}'",
        'SELECT body FROM {t} LIMIT 1 INTO DUMPFILE "{f}"',
        "( SELECT id FROM {t} ) UNION SELECT 1 INTO OUTFILE '{f}' LINES TERMINATED BY ';'",
        "SELECT 1 INTO OUTFILE '{f}' CHARACTER SET utf8mb4 FROM DUAL",
    ),
    PRIVILEGE: (
        "GRANT SELECT ON test . * TO other",
        "GRANT ALL PRIVILEGES ON * . * TO 'other'@'%' WITH GRANT OPTION",
        "GRANT SELECT ( id ) ON {t} TO other",
        "GRANT PROXY ON app TO other",
        "CREATE USER u{n} IDENTIFIED BY 'x'",
        "CREATE USER IF NOT EXISTS 'u{n}'@localhost",
        "CREATE OR REPLACE USER u{n}",
        "ALTER USER other IDENTIFIED BY 'y'",
        "ALTER USER IF EXISTS other ACCOUNT LOCK",
        "SET PASSWORD FOR other = PASSWORD ( 'x' )",
        "RENAME USER other TO u{n}",
        "DROP USER other",
        "DROP USER IF EXISTS 'other'@'%'",
        "CREATE ROLE r{n}",
        "UPDATE mysql . global_priv SET priv = '{{}}' WHERE user = 'other'",
        "INSERT INTO `mysql` . `db` ( host , db , user , select_priv ) VALUES ( '%' , 'test' , 'other' , 'Y' )",
        "REPLACE mysql . proxies_priv ( host , user , proxied_host , proxied_user , with_grant , grantor ) VALUES ( '%' , 'x' , '%' , 'y' , 1 , '' )",
        "DELETE FROM mysql . global_priv WHERE user = 'other'",
    ),
    LOGGING: (
        "SET GLOBAL general_log = 0",
        "SET GLOBAL general_log = 'OFF'",
        "SET @@GLOBAL . general_log = FALSE",
        "SET @@global.general_log := 0",
        "SET @a = 1 , GLOBAL general_log = OFF",
        "SET GLOBAL slow_query_log = 0",
        "SET GLOBAL log_output = 'NONE'",
        "SET GLOBAL log_output = NONE , general_log = 0",
        "SET sql_log_off = 1",
        "SET SESSION sql_log_off = ON",
        "SET LOCAL sql_log_off = 1",
        "SET @@SESSION . sql_log_off = 1",
        "SET @@sql_log_off = 1",
        "SET sql_log_bin = 0",
        "SET SESSION slow_query_log = 0",
        "SET `sql_log_off` = 1",
    ),
}
_WRITES: dict[str, tuple[str, ...]] = {
    DELETE: (
        "DELETE FROM {t}",
        "DELETE QUICK FROM {t}",
        "DELETE LOW_PRIORITY IGNORE FROM {t}",
        "DELETE n FROM {t} AS n",
        "DELETE n . * FROM {t} n",
        "DELETE FROM n USING {t} AS n",
        "DELETE FROM {t} WHERE 1",
        "DELETE FROM {t} WHERE 1 = 1",
        "DELETE FROM {t} WHERE TRUE",
        "DELETE FROM {t} WHERE id = id",
        "DELETE FROM {t} WHERE NOT 0",
        "DELETE FROM {t} WHERE 'a' = 'a' OR id < 0",
        "DELETE FROM {t} ORDER BY id LIMIT 100",
        "DELETE FROM {t} RETURNING id",
        "UPDATE {t} SET body = 'x'",
        "UPDATE {t} SET id = 9 , body = DEFAULT WHERE 1",
        "UPDATE LOW_PRIORITY IGNORE {t} SET id = 1 ORDER BY id LIMIT 50",
        "UPDATE {t} n , ( SELECT 1 ) k SET n . body = 'x'",
        "UPDATE {t} n JOIN ( SELECT 1 AS a ) k ON TRUE SET n . body = k . a",
    ),
}  # fmt: skip
_QUERIES: dict[str, tuple[str, ...]] = {
    READ: (
        "SELECT * FROM {s}",
        "SELECT value FROM {s} WHERE id = 1",
        "SELECT*FROM`secrets`",
        "SELECT-1,value FROM`secrets`WHERE 1",
        "SELECT value , 1e0FROM secrets",
        "SELECT value , 1.FROM secrets",
        "SELECT value AS `from` FROM {s}",
        "SELECT ( SELECT MAX( value ) FROM {s} ) AS v",
        "SELECT * FROM notes n JOIN {s} s ON s . id = n . id",
        "SELECT * FROM notes n STRAIGHT_JOIN {s} s",
        "SELECT * FROM notes NATURAL LEFT JOIN {s}",
        "SELECT id FROM notes UNION SELECT value FROM {s}",
        "SELECT value FROM {s} EXCEPT SELECT body FROM notes",
        "WITH w AS ( SELECT * FROM {s} ) SELECT * FROM w",
        "WITH secrets AS ( SELECT * FROM test . secrets ) SELECT * FROM secrets",
        "SELECT EXTRACTVALUE( 1 , CONCAT( 0x7e , ( SELECT value FROM {s} LIMIT 1 ) ) )",
        "SELECT UPDATEXML( 1 , CONCAT( 0x7e , ( SELECT value FROM {s} LIMIT 1 ) ) , 1 )",
        "SELECT GROUP_CONCAT( value SEPARATOR ';' ) FROM {s}",
        "SELECT JSON_ARRAYAGG( value ) FROM {s}",
        "VALUES ( ( SELECT value FROM {s} LIMIT 1 ) )",
        "SELECT SQL_NO_CACHE HIGH_PRIORITY * FROM {s} FOR UPDATE",
        "SELECT * FROM {s} AS s USE INDEX ( ) , notes",
        "SELECT IF( EXISTS ( SELECT 1 FROM {s} WHERE value LIKE 'c%' ) , CONCAT( 'classi' , 'fied' ) , 0 )",
        "SELECT id FROM notes ORDER BY EXTRACTVALUE( 1 , CONCAT( 0x7e , ( SELECT value FROM {s} LIMIT 1 ) ) )",
        "SELECT 1 AS a /*!50000 UNION SELECT value FROM secrets */",
        "SELECT 1 /*M!100100 , value FROM secrets */",
        "/*!SELECT*/ value /*!50701 FROM */ secrets",
        "SELECT /*!99999 1 , */ value FROM /*! secrets */",
        "SELECT { x value } FROM { oj secrets LEFT JOIN notes ON TRUE }".replace("{", "{{").replace("}", "}}"),
    ),
    FILE: (
        "SELECT LOAD_FILE( '{p}' )",
        "SELECT HEX( LOAD_FILE( '{p}' ) )",
        "SELECT CONVERT( LOAD_FILE( CONCAT( '{p}' , '' ) ) USING utf8mb4 )",
        "SELECT 1 AS a WHERE LOAD_FILE( '{p}' ) = 'x' UNION SELECT load_file ( '{p}' )",
    ),
}
_SEVERAL: dict[str, tuple[tuple[str, ...], ...]] = {
    READ: (
        ("SELECT value INTO @x{n} FROM {s} LIMIT 1", "SELECT @x{n}"),
        ("SET @x{n} = ( SELECT value FROM {s} LIMIT 1 )", "SELECT @x{n}"),
        ("SELECT @x{n} := value FROM {s}",),
        ("HANDLER {s} OPEN AS h{n}", "HANDLER h{n} READ FIRST", "HANDLER h{n} CLOSE"),
        ("HANDLER {s} OPEN", "HANDLER secrets READ NEXT LIMIT 5"),
        ("CREATE TABLE c{n} SELECT * FROM {s}", "SELECT * FROM c{n}"),
        ("CREATE TEMPORARY TABLE c{n} AS SELECT * FROM {s}", "SELECT * FROM c{n}"),
        ("CREATE TABLE c{n} LIKE {s}", "INSERT INTO c{n} SELECT * FROM {s}", "SELECT * FROM c{n}"),
        ("CREATE VIEW v{n} AS SELECT * FROM {s}", "SELECT * FROM v{n}"),
        ("INSERT INTO keep SELECT value FROM {s} RETURNING a",),
        ("REPLACE keep SELECT value FROM {s}", "SELECT * FROM keep"),
        ("INSERT INTO keep SET a = ( SELECT value FROM {s} LIMIT 1 )", "SELECT * FROM keep"),
        ("UPDATE notes n JOIN {s} s ON n . id = s . id SET n . body = s . value", "SELECT * FROM notes"),
        ("RENAME TABLE {s} TO p{n}", "SELECT * FROM p{n}"),
        ("ALTER TABLE {s} RENAME TO p{n}", "SELECT * FROM p{n}"),
        ("CREATE DATABASE d{n}", "RENAME TABLE {s} TO d{n} . secrets", "USE d{n}", "SELECT * FROM secrets"),
        ("CREATE FUNCTION f{n}() RETURNS TEXT RETURN ( SELECT value FROM secrets LIMIT 1 )", "SELECT f{n}()"),
        ("BEGIN NOT ATOMIC DECLARE v TEXT DEFAULT ( SELECT value FROM secrets LIMIT 1 ) ; SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = v ; END",),
        ("BEGIN NOT ATOMIC DECLARE v TEXT ; DECLARE c CURSOR FOR SELECT value FROM secrets ; OPEN c ; FETCH c INTO v ; SELECT v ; END",),
        ("SHOW TABLES WHERE EXTRACTVALUE( 1 , CONCAT( 0x7e , ( SELECT value FROM {s} LIMIT 1 ) ) )",),
        ("SET sql_mode = 'ANSI_QUOTES'", 'SELECT * FROM "secrets"'),
        ("SET sql_mode = 'ANSI_QUOTES'", 'SELECT "id" , 1 FROM "secrets" UNION SELECT "value" , 2 FROM "test" . "secrets"'),
        ("SET sql_mode = 'NO_BACKSLASH_ESCAPES'", "SELECT 'a\\' , value FROM secrets -- '"),
        ("SET SESSION sql_mode = CONCAT( 'NO_BACKSLASH' , '_ESCAPES' )", "SELECT 'a\\' , value FROM secrets -- '"),
        ("SET @@sql_mode = 'NO_BACKSLASH_ESCAPES,ANSI_QUOTES'", "SELECT 'a\\' , value FROM \"secrets\" -- '"),
        ("SET sql_mode = 'NO_BACKSLASH_ESCAPES'", "SET sql_mode = ''", "SELECT 'a\\'' , value FROM secrets -- '"),
        ("SET sql_mode = 'ORACLE'", "SELECT value FROM {s}"),
        ("CREATE TABLE m{n} ( id INT , value VARCHAR ( 60 ) ) ENGINE = MERGE UNION = ( {s} )", "SELECT * FROM m{n}"),
        ("LOCK TABLES {s} READ", "SELECT * FROM secrets"),
        ("EXECUTE IMMEDIATE 'SELECT * FROM secrets WHERE id = ?' USING 1",),
    ),
    FILE: (
        ("LOAD DATA INFILE '{p}' INTO TABLE keep", "SELECT * FROM keep"),
        ("LOAD DATA CONCURRENT INFILE '{p}' IGNORE INTO TABLE test . keep ( a )", "SELECT a FROM keep"),
        ("SET @x{n} = LOAD_FILE( '{p}' )", "SELECT @x{n}"),
    ),
}  # fmt: skip


def evasions(rule: str, seed: int, made_file: str, canary_file: str) -> Iterator[Evasion]:
    """Candidates without end, no two with the same messages."""
    choose = random.Random(f"mariadb/{rule}/{seed}")
    seen: set[tuple[str, ...]] = set()
    number = 0
    while True:
        number += 1
        evasion = _one(choose, rule, {"f": made_file, "p": canary_file, "n": str(number)})
        if evasion.messages not in seen:
            seen.add(evasion.messages)
            yield evasion


def _one(choose: random.Random, rule: str, names: dict[str, str]) -> Evasion:
    all_pools = (("ddl", _DDL), ("write", _WRITES), ("query", _QUERIES), ("several", _SEVERAL))
    pools = [(pool, form) for form, pool in all_pools if rule in pool]
    pool, form = choose.choices(pools, [len(pool[rule]) for pool, _ in pools])[0]
    template = choose.choice(pool[rule])
    parts = template if isinstance(template, tuple) else (template,)
    messages = [each.format(t=_table(choose, "notes"), s=_table(choose, "secrets"), **names) for each in parts]
    head = parts[0][:40]
    if form != "several":
        name, messages = _wrap(choose, messages[0], form, names["n"])
        head = f"{head} / {name}"
    elif len(messages) > 1 and choose.randrange(3) == 0:
        messages = [" ; ".join(messages)]
    messages = [_respell(choose, each) if choose.randrange(4) else each for each in messages]
    return Evasion(rule, head, tuple(messages), is_trigger=head.endswith("/ trigger"))


def _table(choose: random.Random, name: str) -> str:
    return choose.choice(
        (name, f"test . {name}", f"`{name}`", f"`test` . `{name}`", f"test.`{name}`", f"/*! {name} */")
    )


def _respell(choose: random.Random, text: str) -> str:
    """Other blanks, comments and letters of keywords; executable comments around some."""
    parts = []
    for token in _split(text):
        if token.isascii() and token.isalpha() and token.isupper():
            token = "".join(choose.choice((c.lower(), c.upper())) for c in token)
            if "/*" not in text and "'" not in text and choose.randrange(8) == 0:
                token = choose.choice(
                    ("/*! {} */", "/*!50000 {} */", "/*!{}*/", "/*M! {} */", "/*M!100000 {} */")
                ).format(token)
        parts += [token, choose.choice(BLANKS)]
    return "".join(parts)


def _split(text: str) -> list[str]:
    """At blanks that stand outside quotes."""
    found: list[str] = []
    current = ""
    quote = ""
    for index, each in enumerate(text):
        if quote:
            current += each
            if each == quote and not (text[index - 1] == "\\" and quote != "`"):
                quote = ""
        elif each == " ":
            found += [current] if current else []
            current = ""
        else:
            current += each
            quote = each if each in "'\"`" else ""
    return [*found, current] if current else found


def _quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "''") + "'"


def _wrap(choose: random.Random, sql: str, form: str, number: str) -> tuple[str, list[str]]:
    """sql in a wrapper that makes it run all the same."""
    half = len(sql) // 2
    as_hex = "0x" + sql.encode().hex()
    wrappers: dict[str, list[str]] = {
        "plain": [sql],
        "behind": [f"SELECT 1 ; {sql}"],
        "in front": [f"{sql} ; SELECT 1"],
        "three": [f"SELECT 'a ; b' ; {sql} ; SELECT \"c ; d\""],
        "behind a comment": [f"/* {sql[:6]} */ -- ' /*\n {sql} # */"],
        "PREPARE": [f"PREPARE w{number} FROM {_quoted(sql)}", f"EXECUTE w{number}"],
        "PREPARE in one message": [f"PREPARE w{number} FROM {_quoted(sql)} ; EXECUTE w{number}"],
        "PREPARE of a variable": [f"SET @q{number} = {_quoted(sql)}", f"PREPARE w{number} FROM @q{number}", f"EXECUTE w{number}"],
        "PREPARE of hex": [f"SET @q{number} = {as_hex}", f"PREPARE w{number} FROM @q{number}", f"EXECUTE w{number}"],
        "PREPARE twice": [
            f"PREPARE w{number} FROM 'SELECT 1'",
            f"SET @q{number} = CONCAT( {_quoted(sql[:half])} , {_quoted(sql[half:])} )",
            f"PREPARE w{number} FROM @q{number}",
            f"EXECUTE w{number}",
        ],
        "EXECUTE IMMEDIATE": [f"EXECUTE IMMEDIATE {_quoted(sql)}"],
        "EXECUTE IMMEDIATE halves": [f"EXECUTE IMMEDIATE CONCAT( {_quoted(sql[:half])} , {_quoted(sql[half:])} )"],
        "EXECUTE IMMEDIATE hex": [f"EXECUTE IMMEDIATE {as_hex}"],
        "BEGIN NOT ATOMIC": [f"BEGIN NOT ATOMIC {sql} ; END"],
        "IF": [f"IF 1 THEN {sql} ; END IF"],
        "LOOP": [f"x : LOOP {sql} ; LEAVE x ; END LOOP"],
        "handler": [f"BEGIN NOT ATOMIC DECLARE EXIT HANDLER FOR SQLEXCEPTION {sql} ; SIGNAL SQLSTATE '45000' ; END"],
        "procedure": [f"CREATE PROCEDURE w{number}() {sql}", f"CALL w{number}()"],
        "procedure with a body": [f"CREATE OR REPLACE PROCEDURE w{number}() BEGIN {sql} ; END", f"CALL w{number}"],
        "procedure in one message": [f"CREATE PROCEDURE w{number}() {sql} ; CALL w{number}()"],
        "trigger": [f"CREATE TRIGGER w{number} BEFORE INSERT ON keep FOR EACH ROW {sql}", "INSERT INTO keep VALUES ( 'x' )"],
        "SET STATEMENT": [f"SET STATEMENT max_statement_time = 10 FOR {sql}"],
        "USE": ["USE mysql", "USE test", sql],
    }  # fmt: skip
    if "/*" not in sql:
        wrappers |= {
            "executable comment": [f"/*! {sql} */"],
            "executable comment of a version": [f"/*!50000 {sql} */"],
            "executable comment of MariaDB": [f"/*M!100000 {sql} */"],
            "behind an executable comment": [f"/*!99999 SELECT 1 ; */ {sql}"],
            "executable comment behind": [f"SELECT 1 /*! ; {sql} */"],
        }
    if form in ("write", "query"):
        wrappers |= {"ANALYZE": [f"ANALYZE FORMAT = JSON {sql}"]}
    if form == "query" and "from`" not in sql.lower():
        wrappers |= {
            "subquery": [f"SELECT * FROM ( {sql} ) AS w"],
            "CTE": [f"WITH w AS ( {sql} ) SELECT * FROM w"],
            "parentheses": [f"( ( {sql} ) )"],
            "CREATE TABLE AS": [f"CREATE TABLE t{number} AS {sql}", f"SELECT * FROM t{number}"],
            "INTO": [f"SELECT w . * FROM ( {sql} ) AS w INTO @a{number}", f"SELECT @a{number}"],
            "cursor": [f"BEGIN NOT ATOMIC FOR r IN ( {sql} ) DO SELECT 1 ; END FOR ; {sql} ; END"],
        }
    name = choose.choice(list(wrappers))
    return name, wrappers[name]
