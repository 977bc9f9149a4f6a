"""The tour: each step does what the story says and checks it, against the server itself where that can be."""

from __future__ import annotations

import re
import secrets
import shutil
import signal
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

import orjson
from rich.console import Console

from dbproxy.demo.client import Client, MariaDB, Psql, find_client
from dbproxy.demo.screen import Screen
from dbproxy.demo.stage import ACCOUNT, PERSON, DemoError, Stage, dbproxy_command, open_stage
from dbproxy.demo.story import MARIADB, POSTGRES
from dbproxy.embedded.errors import EmbeddedServerError
from dbproxy.embedded.mariadb import find_program
from dbproxy.embedded.shop import CUSTOMERS

_DROP = "DROP TABLE customers CASCADE"
_READ = "SELECT id, item, amount FROM orders WHERE id = 42"
_COUNT = "SELECT count(*) AS customers FROM customers"
_COMMAND_TIMEOUT_S = 60


def run_demo(console: Console, *, once: bool, is_mysql: bool = False) -> int:
    """Play the tour; once: end after it, else stay up until Ctrl+C or SIGTERM. is_mysql: on MariaDB instead of PostgreSQL.

    Returns the exit status: 0 only if every step did what the story says, 130 if it was interrupted before its end.
    """
    screen = Screen(console)
    is_told = False
    previous = signal.signal(signal.SIGTERM, _interrupt)
    try:
        with screen.working(), open_stage(MARIADB if is_mysql else POSTGRES, screen.say) as stage:
            client: Client = MariaDB(find_program("mariadb", "mysql")) if is_mysql else find_client()
            screen.stop_working()
            for step in (_introduce, _read, _drop, _fail_login, _show_records, _verify, _tamper):
                step(stage, client, screen)
            screen.result()
            is_told = True
            if not once:
                _stay(stage, client, screen)
    except KeyboardInterrupt:
        screen.note("stopped; everything is cleaned up")
        return 130 if not is_told else int(bool(screen.failed))
    except (EmbeddedServerError, DemoError, subprocess.TimeoutExpired) as error:
        screen.problem(str(error))
        return 1
    finally:
        signal.signal(signal.SIGTERM, previous)
    return int(bool(screen.failed))


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _introduce(stage: Stage, client: Client, screen: Screen) -> None:
    screen.note(stage.server.describe())
    screen.note(
        f"dbproxy on {stage.alice.host}:{stage.alice.port} with the policy `default`; the target counts as production"
    )
    screen.note(
        f"{PERSON} uses {client.name}{' over verified TLS' if client.has_tls else ''}; her password exists in the proxy only, {ACCOUNT}'s she never sees"
    )


def _read(stage: Stage, client: Client, screen: Screen) -> None:
    screen.step(f"{PERSON} reads an order")
    ran = client.run(stage.alice, [_READ])
    screen.command(ran.command)
    screen.output(ran.output)
    if isinstance(client, Psql):
        screen.claim("she was told at login that the session is monitored", "monitored" in ran.output)
    expected = stage.server.fetch("select item from orders where id = 42", database="shop")[0][0]
    screen.claim(
        "she got the row that is in the table",
        ran.is_ok and re.search(rf"\b42\b.*\b{expected}\b", ran.output) is not None,
    )
    screen.claim(
        "the server ran her text as she typed it",
        stage.story.ran.format(_READ) in _server_log(stage),
    )


def _drop(stage: Stage, client: Client, screen: Screen) -> None:
    screen.step(f"{PERSON} drops a table of production")
    ran = client.run(stage.alice, [_DROP, _COUNT])
    screen.command(ran.command)
    screen.output(ran.output)
    screen.claim(
        "it was refused like an error of the server, by a named rule, saying why and what to do",
        re.search(stage.story.refused, ran.output) is not None
        and all(word in ran.output for word in stage.story.explains),
    )
    screen.claim("her session lives on: the next statement in it worked", ran.is_ok and str(CUSTOMERS) in ran.output)
    rows = stage.server.fetch("select count(*) from customers", database="shop")[0][0]
    screen.claim(f"the table is there, asked directly: {rows} customers", rows == CUSTOMERS)
    screen.claim("the server's own log has no trace of the statement", _DROP.lower() not in _server_log(stage).lower())


def _fail_login(stage: Stage, client: Client, screen: Screen) -> None:
    screen.step("somebody tries her name with a wrong password")
    connected = stage.story.connected.format(ACCOUNT)
    connections = _server_log(stage).count(connected)
    ran = client.run(replace(stage.alice, password=secrets.token_urlsafe(9)), ["SELECT 1"])
    screen.command(ran.command)
    screen.output(ran.output)
    screen.claim("the login was refused", not ran.is_ok and stage.story.denied in ran.output)
    screen.claim("nothing reached the server", _server_log(stage).count(connected) == connections > 0)


def _show_records(stage: Stage, _client: Client, screen: Screen) -> None:
    screen.step("what the audit ledger says about it")
    status, printed = _dbproxy(
        screen, "audit", "tail", str(stage.ledger), "--lines", "40", shown="dbproxy audit tail LEDGER"
    )
    screen.output(printed)
    records = _records(stage.ledger)

    def find(type_: str, is_it: Callable[[dict[str, Any]], bool] = lambda record: True) -> dict[str, Any] | None:
        return next((record for record in records if record["type"] == type_ and is_it(record)), None)

    read = find("statement.intent", lambda record: record.get("sql") == _READ)
    outcome = find(
        "statement.outcome",
        lambda record: (
            read is not None and (record["session"], record["statement"]) == (read["session"], read["statement"])
        ),
    )
    screen.claim("`dbproxy audit tail` reads it", status == 0)
    screen.claim(
        f"the read: intent written before, outcome after, by {PERSON} as {ACCOUNT}",
        read is not None
        and outcome is not None
        and read["seq"] < outcome["seq"]
        and read.get("person") == PERSON
        and read.get("server_user") == ACCOUNT,
    )
    refused = find("statement.refused", lambda record: record.get("sql") == _DROP)
    screen.claim(
        "the refusal: her text and the rule that fired",
        refused is not None
        and [rule["name"] for rule in refused["rules"] if rule["action"] == "block"] == ["no-prod-drop"],
    )
    screen.claim(
        "the refused text has no intent: it was never forwarded",
        find("statement.intent", lambda record: record.get("sql") == _DROP) is None,
    )
    screen.claim(
        "both logins of hers and the failed one",
        len([each for each in records if each["type"] == "login.success"]) == 2
        and find("login.failure", lambda record: record.get("person") == PERSON) is not None,
    )
    everything = b"".join(path.read_bytes() for path in stage.ledger.iterdir() if path.is_file())
    screen.claim(
        "no password is in it",
        stage.alice.password.encode() not in everything and stage.server.password.encode() not in everything,
    )


def _verify(stage: Stage, _client: Client, screen: Screen) -> None:
    screen.step("is the ledger whole?")
    status, printed = _dbproxy(screen, "audit", "verify", str(stage.ledger), shown="dbproxy audit verify LEDGER")
    screen.output(printed)
    screen.claim("every record is linked to the one before, nothing is missing", status == 0)


def _tamper(stage: Stage, _client: Client, screen: Screen) -> None:
    screen.step("somebody changes one byte of a copy")
    copy = stage.folder / "copy"
    shutil.copytree(stage.ledger, copy)
    path, seq = _change_one_byte(copy)
    screen.note(f"in {path.name}, record {seq}: the refused DROP TABLE now names another table")
    status, printed = _dbproxy(screen, "audit", "verify", str(copy), shown="dbproxy audit verify COPY")
    screen.output(printed)
    screen.claim("verification fails", status == 1)
    screen.claim(
        f"and names the file and record {seq}",
        path.name in printed and re.search(rf"\b{seq}\b", printed.replace(path.name, "")) is not None,
    )


def _change_one_byte(ledger: Path) -> tuple[Path, int]:
    """Change one letter of the refused statement's text, so that the record stays valid JSON."""
    for path in sorted(ledger.glob("*.jsonl")):
        data = path.read_bytes()
        for line in data.splitlines():
            record = orjson.loads(line)
            if record["type"] == "statement.refused" and record.get("sql") == _DROP:
                path.write_bytes(data.replace(line, line.replace(b"TABLE customers", b"TABLE customerz", 1)))
                return path, record["seq"]
    raise DemoError("the ledger has no record of the refused statement")


def _stay(stage: Stage, client: Client, screen: Screen) -> None:
    screen.step("your turn")
    screen.note(f"connect as {PERSON}, through the proxy:")
    screen.command(client.invite(stage.alice))
    screen.note("watch the records:")
    screen.command(f"{' '.join(dbproxy_command())} audit tail --follow {stage.ledger}")
    screen.note("metrics:")
    screen.command(f"curl http://127.0.0.1:{stage.admin_port}/metrics")
    screen.note("Ctrl+C ends everything and removes it.")
    status = stage.proxy.wait()
    raise DemoError(f"the proxy ended with status {status}:\n{stage.messages()}")


def _server_log(stage: Stage) -> str:
    return stage.server.log_path.read_text(errors="replace")


def _records(ledger: Path) -> list[dict[str, Any]]:
    return [orjson.loads(line) for path in sorted(ledger.glob("*.jsonl")) for line in path.read_bytes().splitlines()]


def _dbproxy(screen: Screen, *words: str, shown: str) -> tuple[int, str]:
    screen.command(shown)
    done = subprocess.run(  # noqa: S603  # our own program, no shell
        [*dbproxy_command(), *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=_COMMAND_TIMEOUT_S,
        check=False,
    )
    return done.returncode, done.stdout
