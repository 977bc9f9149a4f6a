"""What single MySQL and MariaDB statements are reported as. Cases are data: data/statements_mysql.jsonl, exactly what must be reported."""

import json
from pathlib import Path

import pytest

from classifiers.answers import answer_case, describe_report
from classifiers.classify import classify
from classifiers.effects import FLAGS, Kind, LexingState

DATA = Path(__file__).parent / "data" / "statements_mysql.jsonl"
CASES = [json.loads(line) for line in DATA.read_text().splitlines()]


def read(text, version=0, state=None):
    return classify("mysql", text.encode(), state or LexingState(), version)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["sql"][:60])
def test_a_statement_is_reported_for_what_it_does(case):
    report = read(case["sql"])
    answer = describe_report(report)
    for key in ("kinds", "reads", "writes", "flags"):
        assert set(case.get(key, ())) == set(answer[key]), report.reason
    assert report.flags <= FLAGS


def test_a_handler_reads_the_table_that_its_alias_stands_for():
    case = {"sql": "HANDLER h READ NEXT", "session": ["HANDLER secrets OPEN AS h"]}
    assert "secrets" in answer_case(case, "mysql")["reads"]


def test_a_prepared_text_is_known_and_a_computed_one_is_not():
    known = {"sql": "EXECUTE s", "session": ["PREPARE s FROM 'DELETE FROM secrets'"]}
    assert answer_case(known, "mysql")["writes"] == ["secrets"]
    computed = {"sql": "EXECUTE s", "session": ["PREPARE s FROM 'SELECT 1'", "PREPARE s FROM @x"]}
    assert "unknown_prepared" in answer_case(computed, "mysql")["flags"]


@pytest.mark.parametrize(
    "text",
    [
        "CREATE PROCEDURE p() SELECT 1; DROP TABLE secrets",
        "CREATE PROCEDURE p() BEGIN END; DROP TABLE secrets; SELECT 1 AS end",
        "CREATE TRIGGER t BEFORE INSERT ON n FOR EACH ROW SET @a = 1; DROP TABLE secrets",
        "BEGIN NOT ATOMIC SELECT 1; END; DROP TABLE secrets",
        "CREATE PROCEDURE p() BEGIN SELECT CASE 1 WHEN 1 THEN 2 END; END; DROP TABLE secrets",
        "CREATE PROCEDURE p() BEGIN IF 1 THEN SELECT 1; END IF; WHILE 1 DO SELECT 1; END WHILE; END; DROP TABLE secrets",
        "SELECT 1 AS begin; DROP TABLE secrets",
    ],
)
def test_what_follows_stored_code_is_seen(text):
    report = read(text)
    assert Kind.UNPARSABLE in report.kinds or "secrets" in report.writes


@pytest.mark.parametrize(
    "text",
    [
        "SELECT 1 FROM (SELECT v FROM secrets) x",
        "SELECT (SELECT v FROM secrets)",
        "SELECT 1 UNION ALL (SELECT v FROM secrets LIMIT 1, 2)",
        "SELECT * FROM a NATURAL JOIN secrets",
        "SELECT * FROM a STRAIGHT_JOIN secrets",
        "SELECT * FROM (a, (b, secrets))",
        "SELECT * FROM a LEFT JOIN (b JOIN secrets ON 1) ON 1",
        "SELECT * FROM a PARTITION (p0), secrets",
        "SELECT * FROM a USE INDEX (i), secrets",
        "SELECT * FROM a IGNORE KEY FOR ORDER BY (i) , secrets",
        "INSERT INTO t SELECT * FROM secrets",
        "INSERT INTO t VALUES ((SELECT v FROM secrets))",
        "INSERT INTO t SET a = (SELECT v FROM secrets)",
        "REPLACE t VALUES (1) , ((SELECT v FROM secrets))",
        "UPDATE t, secrets SET t.a = secrets.v",
        "UPDATE t SET a = 1 ORDER BY (SELECT v FROM secrets)",
        "DELETE t FROM t JOIN secrets USING (id)",
        "SET @x = (SELECT v FROM secrets)",
        "SET GLOBAL max_connections = (SELECT v FROM secrets)",
        "DO (SELECT v FROM secrets)",
        "CALL p((SELECT v FROM secrets))",
        "KILL (SELECT v FROM secrets)",
        "SHOW TABLES WHERE (SELECT v FROM secrets)",
        "SELECT CAST((SELECT v FROM secrets) AS CHAR)",
        "SELECT CONVERT((SELECT v FROM secrets), CHAR)",
        "SELECT CONVERT((SELECT v FROM secrets) USING utf8mb4)",
        "SELECT GROUP_CONCAT((SELECT v FROM secrets) SEPARATOR ',')",
        "SELECT INTERVAL (SELECT v FROM secrets) DAY + NOW()",
        "SELECT {fn (SELECT v FROM secrets)}",
        "SELECT @x := (SELECT v FROM secrets)",
        "SELECT MATCH (a) AGAINST ((SELECT v FROM secrets) IN BOOLEAN MODE) FROM t",
        "SELECT * FROM JSON_TABLE((SELECT v FROM secrets), '$' COLUMNS (a INT PATH '$')) j",
        "SELECT 1 LIMIT 1 OFFSET 2 UNION SELECT v FROM secrets",
        "VALUES ROW((SELECT v FROM secrets))",
        "TABLE secrets",
        "EXECUTE IMMEDIATE 'SELECT v FROM secrets'",
        "SET STATEMENT max_statement_time = 1 FOR SELECT v FROM secrets",
        "CREATE TABLE t AS SELECT * FROM secrets",
        "CREATE TABLE t (a INT) ENGINE=MERGE UNION=(x, secrets)",
        "CREATE VIEW v AS SELECT * FROM secrets",
        "EXPLAIN SELECT * FROM secrets",
        "DESC SELECT * FROM secrets",
        "ANALYZE FORMAT=JSON SELECT * FROM secrets",
        "SELECT `v`FROM`secrets`",
        "SELECT/**/v/**/FROM/**/secrets",
        "SELECT v#c\nFROM secrets",
        "SELECT v -- '\nFROM secrets",
        "SELECT /*!v*/ FROM /*!50000 secrets*/",
        "SELECT 1.FROM secrets",
        "SELECT 1e1FROM secrets",
        "SELECT 0x1 FROM secrets",
        "SELECT @a,@`b`,@'c' FROM secrets",
        "SELECT ';' FROM secrets",
        "SELECT '\\'' FROM secrets -- '",
        "SELECT \"'\" FROM secrets -- '",
        "SELECT '''' FROM secrets",
    ],
)
def test_a_table_is_seen_wherever_it_stands(text):
    report = read(text)
    assert Kind.UNPARSABLE in report.kinds or "secrets" in report.reads, report


def test_reasons_hold_nothing_of_the_text():
    for text in (
        "SELECT hunter2(",
        "hunter2",
        "SELECT 'hunter2",
        "DO hunter2 (",
        "ALTER hunter2",
        "SET x hunter2",
        "SELECT a b hunter2 c",
    ):
        assert "hunter" not in read(text).reason


def test_a_change_of_modes_and_more_text_in_one_message_are_refused():
    assert Kind.UNPARSABLE in read('SET sql_mode=\'ANSI_QUOTES\'; SELECT "v" FROM "secrets"').kinds
