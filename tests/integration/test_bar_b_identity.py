"""SECURITY_BAR B6, B9, B10: who did it is in every event, what is secret is in none."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest
from support import canaries
from support import pg_bytes as pg
from support.bar import OPEN_POLICY, POLICY
from support.figures import record, scaled
from support.proxy import Proxy, running_proxy
from support.raw_client import RawClient, errors, logged_in
from support.servers import Database, PostgresServer

pytestmark = pytest.mark.workers(1)

ADDRESS = re.compile(r"127\.0\.0\.1:\d+")
IDENTITY = (
    "person",
    "account",
    "server_user",
    "database",
    "target",
    "env",
    "listener",
    "client",
    "session",
    "server_pid",
)
OF_A_SESSION = ("statement.", "session.")


def test_every_event_of_a_session_says_who_and_where(make_proxy: Callable[..., Proxy], vault: Database) -> None:
    """B9: in clear and over TLS, executed, refused, skipped and failed."""
    proxy = make_proxy(policy=POLICY, database=vault.name)
    rounds = scaled(20, 1300)
    for number in range(rounds):
        with logged_in(proxy.address("bob" if number % 2 else "alice")) as client:
            client.query("select count(*) from notes")
            client.query("select * from secrets")
            client.run(
                pg.parse("", "select 1/0"), pg.bind(), pg.execute(), pg.parse("", "select 1"), pg.bind(), pg.sync()
            )
            client.query("select * from no_such_table")
    with proxy.connect("carol") as connection:
        connection.execute("select 1")
    proxy.stop()
    events = [each for each in proxy.records() if each["type"].startswith(OF_A_SESSION)]
    incomplete = []
    pids = {each["session"]: each["server_pid"] for each in events if each["type"] == "session.start"}
    for each in events:
        is_whole = all(each.get(name) not in (None, "") for name in IDENTITY) and "tls" in each and "server_tls" in each
        if not is_whole or not ADDRESS.fullmatch(each["client"]) or each["server_pid"] != pids[each["session"]]:
            incomplete.append(each["type"])
    assert {each["tls"] for each in events if each["person"] == "carol"} == {"TLSv1.3"}
    assert {each["tls"] for each in events if each["person"] != "carol"} == {None}
    assert len({each["type"] for each in events}) >= 5
    record(
        "B9",
        "events of sessions without the whole identity",
        count=len(events),
        failures=len(incomplete),
        which=incomplete[:5],
    )


def test_changing_the_role_does_not_change_the_person(open_proxy: Proxy, default_proxy: Proxy, vault: Database) -> None:
    """B6: and the shipped policy refuses it."""
    texts = (
        "set role app",
        "set session authorization app",
        "set session role app",
        "reset role",
        "set local role app",
    )
    with logged_in(open_proxy.address(database=vault.name)) as client:
        for text in texts:
            client.query(text)
        client.query("select 'as whom'")
    intents = [each for each in open_proxy.records("statement.intent") if each["database"] == vault.name]
    assert [each["sql"] for each in intents] == [*texts, "select 'as whom'"]
    assert {each["person"] for each in intents} == {"alice"}
    with logged_in(default_proxy.address(database=vault.name)) as client:
        codes = [errors(client.query(text)) for text in texts if text != "reset role"]
    record(
        "B6",
        "changes of role that the shipped policy let pass",
        count=len(codes),
        failures=sum(code != ["42501"] for code in codes),
    )


CANARIES = {name: f"CaNaRy-{name}-7f3a9" for name in (
    "account", "wrong_password", "role", "alter", "broken", "blocked", "mapping", "parameter", "binary", "copy_in",
    "row", "error", "connection", "notice",
)}  # fmt: skip


def test_canary_secrets_are_in_no_output(make_proxy: Callable[..., Proxy], vault: Database) -> None:
    """B10, N5: passwords, bound values, COPY data, rows and error texts, in everything that the proxy writes."""
    c = CANARIES
    vault.server.execute(f"create role canary_account login password '{c['account']}'")
    vault.execute(f"insert into notes values (77, '{c['row']}')", "grant all on notes to canary_account")

    def change(settings: dict[str, Any]) -> None:
        settings["targets"][0]["accounts"].append(
            {"name": "canary", "user": "canary_account", "password": "${env:CANARY_PASSWORD}"}
        )

    proxies = [
        make_proxy(policy=policy, database=vault.name, change=change, environment={"CANARY_PASSWORD": c["account"]})
        for policy in (OPEN_POLICY, "default")
    ]
    secrets_on_the_wire: list[bytes] = []
    for proxy in proxies:
        with pytest.raises(psycopg.OperationalError), proxy.connect(password=c["wrong_password"]):
            pass
        with logged_in(proxy.address()) as client:
            secrets_on_the_wire.append(client.secret)
            for text in (
                f"create role canary_role password '{c['role']}'",
                f"alter role canary_account with password $${c['alter']}$$",
                f"alter role canary_account wiht password '{c['broken']}'",
                f"create user mapping for app server nowhere options (user 'x', password '{c['mapping']}')",
                f"select dblink_connect('host=h password={c['connection']}')",
                f"alter user canary_account encrypted password E'{c['blocked']}'; selct 1",
            ):
                client.query(text)
            client.run(
                pg.parse("", "select $1::text", [25]),
                pg.bind("", "", [c["parameter"].encode()]),
                pg.execute(),
                pg.sync(),
            )
            client.run(
                pg.parse("", "select $1::bytea", [17]),
                pg.bind("", "", [c["binary"].encode()], [1]),
                pg.execute(),
                pg.sync(),
            )
            client.run(
                pg.parse("", "select $1::int", [0]), pg.bind("", "", [c["error"].encode()]), pg.execute(), pg.sync()
            )
            client.send(pg.query("copy notes from stdin"), pg.copy_data(f"78\t{c['copy_in']}\n"), pg.copy_done())
            client.ready()
            assert c["row"].encode() in b"".join(body for _, body in client.query("select * from notes where id = 77"))
            client.query("select body::int from notes where id = 77")
        broken = RawClient.open(proxy.host, proxy.port)
        broken.login(proxy.address())
        broken.send(pg.query("select 1"), pg.frame("Q", f"alter role canary_account password '{c['notice']}'".encode()))
        broken.to_the_end()
        broken.close()
    outputs: dict[str, bytes] = {}
    for proxy in proxies:
        outputs[f"{proxy.folder.name} metrics"] = proxy.get("/metrics")[1].encode()
        for name in ("cmdline",):
            outputs[f"{proxy.folder.name} {name}"] = Path(f"/proc/{proxy.process.pid}/{name}").read_bytes()
        proxy.stop()
        for path in proxy.folder.rglob("*"):
            if path.is_file() and path.suffix not in (".password", ".yaml"):
                outputs[f"{proxy.folder.name} {path.name}"] = path.read_bytes()
    found = [
        (place, name)
        for place, data in outputs.items()
        for name, secret in c.items()
        if secret.encode() in data or secret.encode().hex().encode() in data
    ]
    found += [
        (place, "cancel key")
        for place, data in outputs.items()
        for key in secrets_on_the_wire
        if key.hex().encode() in data
    ]
    vault.execute("drop owned by canary_account", "drop role canary_account", "drop role if exists canary_role")
    record(
        "B10", "canary secrets in what the proxy wrote", count=len(c) * len(outputs), failures=len(found), which=found
    )


LEAKS: dict[str, Callable[[Proxy], bytes]] = {
    "alice's password": lambda proxy: b"alice-pw",
    "bob's password in hex": lambda proxy: b"bob-pw".hex().encode(),
    "app's password in base64": lambda proxy: base64.b64encode(b"app-pw"),
    "proxy.key": lambda proxy: (proxy.folder / "proxy.key").read_bytes(),
    "users.yaml verifier 1.0": lambda proxy: re.findall(
        rb"\$([A-Za-z0-9+/]{43}=):", (proxy.folder / "users.yaml").read_bytes()
    )[1],
}


@pytest.mark.parametrize("leak", LEAKS)
def test_leak_of_any_proxy_fails_its_test(
    postgres: PostgresServer, tmp_path: Path, leak: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """B10: what support.proxy looks for at the end of every proxy; told without showing the secret."""
    monkeypatch.setattr(canaries, "looked", canaries.looked.copy())
    with (
        pytest.raises(AssertionError, match=re.escape(leak.partition(" in ")[0])) as caught,
        running_proxy(tmp_path / "proxy", postgres, workers=1) as proxy,
        (proxy.folder / "stdout.log").open("ab") as file,
    ):
        text = LEAKS[leak](proxy)
        file.write(b"user=x password=" + text + b"\n")
    assert text.split()[-2 if b"-----" in text else 0].decode() not in str(caught.value)
