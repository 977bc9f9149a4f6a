"""The SQL of MariaDB's own tests (mysql-test/main), read by the classifier and by a real MariaDB, and compared.

    make suite-mariadb-sql CHECKOUT=/path/to/mysql-test/main

The folder comes with MariaDB's sources or with Debian's package mariadb-test-data (dpkg-deb -x is enough). Nothing of it is executed:
the server only PREPAREs, which takes one statement and no more, and names in its errors each table that it wants to open. Such a table
is then made (temporary), so that the next one is named too. Full list of what differs: reports/suites/mariadb-sql.json.
Ends with status 0 if no statement with effects is called a plain read, no count of statements is wrong, at most 0.01 % of the
statements with tables lack one, and at most 3 % of what the server takes is unparsable.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import random
import re
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pymysql
from support.classifier_truth import is_plain_read
from support.figures import report
from support.mtr_script import split_script
from support.my_servers import running_mariadb
from support.postgres_oracle import write_name

from classifiers.classify import classify
from classifiers.effects import Kind, LexingState, Report

ROOT = Path(__file__).resolve().parents[2]
MAX_MISSED_SHARE = 0.0001
MAX_UNPARSABLE_SHARE = 0.03
SYNTAX_ERRORS = {1064, 1065, 1149}
NO_TABLE, NO_DATABASE, NO_FUNCTION = 1146, 1049, 1305
_LEADING = re.compile(r"(?:\s|\(|/\*(?![!M]).*?\*/|--\s[^\n]*\n|#[^\n]*\n)*([a-z]+)", re.IGNORECASE | re.DOTALL)
_LITERAL = re.compile(r"'(?:[^'\\]|\\.|'')*'|\"(?:[^\"\\]|\\.|\"\")*\"|`[^`]*`|/\*(?![!M]).*?\*/", re.DOTALL)
_COMMENTS = re.compile(r"(?:\s|/\*(?![!M]).*?\*/)*\Z", re.DOTALL)
_GEOMETRY = {"geometrycollection", "linestring", "multilinestring", "multipoint", "multipolygon", "point", "polygon"}
"""The server's own; it says that there is none when it is called with a wrong number of arguments."""
_READS = {"SELECT", "WITH", "VALUES", "TABLE", "SHOW", "DESC", "DESCRIBE", "EXPLAIN", "HELP", "DO", "HANDLER"}
_HIDDEN_EFFECTS = re.compile(
    r"\binto\b(?!\s*@)|\bfor\s+update\b|\block\s+in\s+share\s+mode\b|\bnext\s+value\s+for\b"
    r"|\b(?:nextval|setval|get_lock|release_lock|release_all_locks|load_file|sleep)\s*\(",
    re.IGNORECASE,
)


class Server:
    """What MariaDB itself says of a text."""

    def __init__(self, connection: Any) -> None:
        self._cursor = connection.cursor()
        for text in ("set names utf8mb4", "set sql_mode=''", "create database if not exists probe", "use probe"):
            self._cursor.execute(text)

    def ask(self, text: bytes) -> tuple[int, list[tuple[str, str]]]:
        """(error of the last PREPARE or 0, tables that it wanted to open as (database, name))."""
        quoted = b"prepare p from '" + text.replace(b"\\", b"\\\\").replace(b"'", b"\\'") + b"'"
        wanted: list[tuple[str, str]] = []
        databases: list[str] = []
        error = 0
        try:
            for _ in range(12):
                error, message = self._run(quoted)
                found = re.search(r"'(.*)' doesn't exist|'(.*)'$", message)
                named = (found.group(1) or found.group(2)) if found else ""
                if error == NO_TABLE and named:
                    database, _, name = named.partition(".")
                    if (database, name) in wanted:
                        break
                    wanted.append((database, name))
                    made, _ = self._run(
                        f"create temporary table {_quote(database)}.{_quote(name)} (dummy int) engine=memory".encode()
                    )
                    if made:
                        break
                elif error == NO_DATABASE and named and named not in databases:
                    databases.append(named)
                    self._run(b"create database " + _quote(named).encode())
                else:
                    break
        finally:
            for database, name in wanted:
                self._run(f"drop temporary table if exists {_quote(database)}.{_quote(name)}".encode())
            for database in databases:
                self._run(b"drop database if exists " + _quote(database).encode())
        return error, wanted

    def _run(self, text: bytes) -> tuple[int, str]:
        try:
            self._cursor.execute(text)
        except pymysql.err.Error as failure:
            if failure.args[0] in (2006, 2013):
                raise
            return int(failure.args[0]), str(failure.args[1])
        return 0, ""


def _quote(name: str) -> str:
    return "`" + name.replace("`", "``") + "`"


def has_effects(text: str) -> bool:
    """By the first word, and by words that make a SELECT more than a read."""
    found = _LEADING.match(text)
    verb = found.group(1).upper() if found else ""
    bare = _LITERAL.sub(" ", text)
    if verb == "ANALYZE":
        return re.match(r"analyze\s+(?:format\s*=\s*\w+\s+)?(?:select|with|values|\()", bare, re.IGNORECASE) is None
    if verb in ("EXPLAIN", "DESC", "DESCRIBE", "SHOW", "HELP"):
        return False
    return verb not in _READS or (verb in ("SELECT", "WITH", "DO") and _HIDDEN_EFFECTS.search(bare) is not None)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("checkout", type=Path, help="a folder with *.test files")
    parser.add_argument("--show", type=int, default=3, help="examples of each finding")
    parser.add_argument("--part", default="1/1", help="2/12: the second of twelve parts")
    options = parser.parse_args()
    logging.getLogger("sqlglot").disabled = True
    files = sorted(options.checkout.glob("**/*.test"))
    if not files:
        raise SystemExit(f"{options.checkout} holds no *.test file: give a mysql-test/main")
    part, parts = map(int, options.part.split("/"))
    texts = sorted({text for path in files for text in split_script(path.read_bytes())})[part - 1 :: parts]
    counts: Counter[str] = Counter()
    findings: dict[str, list[Any]] = {
        name: [] for name in ("wrong statement count", "effects in a plain read", "unknown function in a plain read")
    } | {"tables missed": [], "unparsable": [], "the classifier failed": []}
    started, slowest = time.monotonic(), (0.0, "")
    with tempfile.TemporaryDirectory(prefix="mariadb-suite-") as folder, running_mariadb(Path(folder)) as running:
        running.execute("set global general_log = off")
        version = _version(running.version)
        with contextlib.closing(running.connect(charset="utf8mb4")) as connection:
            server = Server(connection)
            for raw in texts:
                try:
                    text = raw.decode()
                except UnicodeDecodeError:
                    counts["not UTF-8"] += 1
                    continue
                counts["statements"] += 1
                error, wanted = server.ask(raw)
                if error in SYNTAX_ERRORS or _COMMENTS.match(text):
                    counts["refused by the server"] += 1
                    continue
                before = time.process_time()
                said = classify("mysql", raw, LexingState(encoding="UTF8MB4"), version)
                slowest = max(slowest, (time.process_time() - before, text[:80]))
                counts["taken"] += 1
                counts["with tables"] += bool(wanted)
                counts["dynamic"] += Kind.DYNAMIC in said.kinds
                _compare(findings, text, error, wanted, said)
    counts["unparsable"] = len(findings["unparsable"])
    target = ROOT / "reports" / "suites" / "mariadb-sql.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps({"counts": counts, "findings": findings}, indent=1) + "\n")
    return _say(counts, findings, slowest, time.monotonic() - started, options.show)


def _version(text: str) -> int:
    major, minor, patch = (int(each) for each in re.findall(r"\d+", text)[:3])
    return major * 10_000 + minor * 100 + patch


def _compare(
    findings: dict[str, list[Any]], text: str, error: int, wanted: list[tuple[str, str]], said: Report
) -> None:
    if said.reason.startswith("the classifier failed"):
        findings["the classifier failed"].append([said.reason, text])
    if Kind.UNPARSABLE in said.kinds:
        findings["unparsable"].append([said.reason, text])
        return
    if said.statements != 1:
        findings["wrong statement count"].append([said.statements, text])
    if is_plain_read(said):
        if has_effects(text):
            findings["effects in a plain read"].append([sorted(said.kinds), text])
        if error == NO_FUNCTION and not set(said.functions) <= _GEOMETRY:
            findings["unknown function in a plain read"].append([said.functions, text])
    named = {each.object.lower() for each in _effects(said)}
    for database, name in wanted:
        if not {write_name((database, name)).lower(), write_name((name,)).lower()} & named:
            findings["tables missed"].append([f"{database}.{name}", text])
            break


def _effects(said: Report) -> list[Any]:
    inner = [each for _, prepared in (*said.prepares, *said.cursors) for each in prepared.effects]
    return [each for each in (*said.effects, *inner) if each.object]


def _say(
    counts: Counter[str], findings: dict[str, list[Any]], slowest: tuple[float, str], took_s: float, show: int
) -> int:
    for name, number in counts.items():
        print(f"{number:7} {name}")
    print(f"{took_s:7.0f} s in all; slowest {slowest[0] * 1000:.0f} ms: {slowest[1]}")
    choose = random.Random(1)
    for name, found in findings.items():
        print(f"{len(found):7} {name}")
        for each in choose.sample(found, min(show, len(found))):
            print("         ", [str(part)[:300] for part in each])
    missed_share = len(findings["tables missed"]) / max(1, counts["with tables"])
    unparsable_share = counts["unparsable"] / max(1, counts["taken"])
    plain = sum(len(found) for name, found in findings.items() if "plain read" in name)
    print(f"missed tables {missed_share:.4%} of statements with tables, unparsable {unparsable_share:.2%}")
    failures = plain + len(findings["wrong statement count"])
    report(
        "F.corpus.mariadb",
        "statements of MariaDB's tests: effects called a plain read, or wrong statement counts",
        count=counts["taken"],
        failures=failures,
        missed_tables=len(findings["tables missed"]),
        unparsable=counts["unparsable"],
        dynamic=counts["dynamic"],
        slowest_ms=round(slowest[0] * 1000, 1),
    )
    return 0 if not failures and missed_share <= MAX_MISSED_SHARE and unparsable_share <= MAX_UNPARSABLE_SHARE else 1


if __name__ == "__main__":
    sys.exit(main())
