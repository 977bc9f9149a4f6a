"""`dbproxy catalogue show` and `dbproxy classify --target`, on real servers: the newest, and an older one over verified TLS."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.proxy import running_proxy, settings_for
from support.servers import Database, PostgresServer

from dbproxy.embedded.certificates import CertificateAuthority

pytestmark = pytest.mark.integration
SETUP = (
    "create view v as select id, ssn as badge from customers",
    "create function f() returns bigint language sql as 'select count(*) from customers'",
    "create function g(t text) returns void language plpgsql as 'begin execute t; end'",
)
ATOMIC = "create function h() returns bigint begin atomic select count(*) from customers; end"


def settle(folder: Path, server: PostgresServer, database: str) -> Path:
    """A settings file whose target has a monitor account."""
    folder.chmod(0o700)
    CertificateAuthority(folder).issue("proxy", "localhost")
    settings = settings_for(server, folder, policy="observe", env="prod", database=database, accounts=("app",))
    settings["targets"][0]["monitor"] = "app"
    users = folder / "users.yaml"
    users.write_text("version: 1\npeople: []\n")
    users.chmod(0o600)
    path = folder / "dbproxy.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


def dbproxy(*words: str, settings: Path, text: str = "") -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "dbproxy", *words, "--settings", str(settings)],
        input=text, capture_output=True, text=True, timeout=60, check=False, env={**os.environ},
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


def answers(settings: Path, *texts: str) -> list[dict[str, Any]]:
    lines = "\n".join(json.dumps({"id": str(number), "sql": text}) for number, text in enumerate(texts))
    code, output = dbproxy("classify", "--target", "shop", "--jsonl", settings=settings, text=lines)
    assert code == 0, output
    return [json.loads(line) for line in output.splitlines()]


def test_a_statement_is_resolved(tmp_path: Path, postgres: PostgresServer, database: Database) -> None:
    database.execute(*SETUP, ATOMIC)
    settings = settle(tmp_path, postgres, database.name)
    view, known, hidden, atomic, missing = answers(
        settings, "select badge from v", "select f()", "select g('x')", "select h()", "select * from nowhere"
    )
    assert (view["resolved"], view["visibility"]) == (["public.v", "public.customers"], "full")
    assert "public.customers.ssn" in view["columns"]
    assert (known["kinds"], known["flags"], known["resolved"]) == (
        ["dml_read"],
        ["unbounded_read"],
        ["public.customers"],
    )
    assert "unknown_function" in hidden["flags"]
    assert atomic["resolved"] == ["public.customers"]
    assert (missing["unresolved"], missing["visibility"]) == (["nowhere"], "degraded")


def test_what_is_known_is_shown(tmp_path: Path, postgres: PostgresServer, database: Database) -> None:
    database.execute(*SETUP)
    settings = settle(tmp_path, postgres, database.name)
    code, output = dbproxy("catalogue", "show", settings=settings)
    assert code == 0, output
    assert "visibility full" in output
    assert "  view _RETURN: public.customers" in output
    assert "function public.g: cannot be seen into, it runs text as a statement" in output
    code, output = dbproxy("catalogue", "show", "shop", "--json", settings=settings)
    assert json.loads(output)["visibility"] == "full"
    code, output = dbproxy("catalogue", "show", "nothing", settings=settings)
    assert (code, "there is no target" in output) == (2, True)
    code, output = dbproxy("catalogue", "show", "shop", "--database", "no_such", settings=settings)
    assert (code, "there is no such database" in output) == (2, True)


def test_an_older_server_over_tls(tmp_path: Path, postgres_tls: PostgresServer, database_tls: Database) -> None:
    database_tls.execute(*SETUP, ATOMIC)
    settings = settle(tmp_path, postgres_tls, database_tls.name)
    view, known, atomic = answers(settings, "select badge from v", "select f()", "select h()")
    assert view["resolved"] == ["public.v", "public.customers"]
    assert (known["resolved"], atomic["resolved"]) == (["public.customers"], ["public.customers"])
    code, output = dbproxy("catalogue", "show", settings=settings)
    assert (code, "visibility full" in output) == (0, True), output


def test_the_proxy_in_front_of_an_older_server(
    tmp_path: Path, postgres_tls: PostgresServer, database_tls: Database
) -> None:
    database_tls.execute("set role app", *SETUP)
    policy = "version: 1\nlabels: {pii: {tables: [public.customers]}}\nrules: [{name: pii, match: {label: pii}, action: block}]\n"

    def change(settings: dict[str, Any]) -> None:
        settings["targets"][0]["monitor"] = "app"

    with running_proxy(tmp_path / "proxy", postgres_tls, policy=policy, change=change) as proxy:
        with proxy.connect("alice", database_tls.name) as alice:
            assert alice.execute("select count(*) from orders").fetchall()
            for text in (b"select badge from v", b"select f()"):
                with pytest.raises(Exception, match='blocked by rule "pii"'):
                    alice.execute(text)
        assert {record["catalogue"] for record in proxy.records("statement.refused")} == {"full"}
