"""SECURITY_BAR F1-F3, F5, F8 on a real PostgreSQL: what a rule forbids is not done, in however many ways it is said.

Each rewrite is first sent to the server itself, in a transaction that is rolled back: only those that then do what is forbidden count.
Through the proxy none of them may: the state of the server, what came back, and the files that it could make are compared.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from support import pg_bytes as pg
from support.evasions_postgres import CANARY, CODE_RULE, POLICY, RULES, SETUP, STATE, Evasion, evasions
from support.figures import record, scaled
from support.proxy import Proxy, running_proxy
from support.raw_client import Left, Message, RawClient, errors, logged_in, rows
from support.servers import PostgresServer, newest_postgres

DATABASE = "arena"
CANARIES = (CANARY.encode(), CANARY.encode().hex().encode())


@dataclass(frozen=True)
class Arena:
    """A server of its own, whose account `app` may do everything, and the proxies in front of it.

    no_code: with the rule against stored code besides.
    """

    server: PostgresServer
    proxy: Proxy
    no_code: Proxy
    folder: Path

    @property
    def made(self) -> Path:
        return self.folder / "made"

    @property
    def canary(self) -> Path:
        return self.folder / "canary"

    def reset(self) -> str:
        """Make the database anew; returns its state."""
        self.server.execute(f"drop database if exists {DATABASE} with (force)")
        if self.server.fetch("select 1 from pg_roles where rolname = 'other'"):
            self.server.execute("reassign owned by other to app", "drop owned by other")
        self.server.execute(f"create database {DATABASE} owner app")
        self.server.execute("set role app", *SETUP, database=DATABASE)
        with logged_in(self.server.address(DATABASE)) as client:
            return state_of(client)


@pytest.fixture(scope="module")
def arena(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Arena]:
    folder = tmp_path_factory.mktemp("files")
    for each in (folder, *folder.parents):
        if each.stat().st_mode & 0o5 != 0o5 and each.owner() == folder.owner() and each != Path("/tmp"):
            each.chmod(0o755)  # the server runs as another account
    folder.chmod(0o777)
    (folder / "canary").write_text(f"{CANARY}-file\n")
    (folder / "canary").chmod(0o644)
    with newest_postgres(print) as server:
        server.execute("alter role app superuser", f"create database {DATABASE} owner app")
        with (
            running_proxy(tmp_path_factory.mktemp("proxy"), server, policy=POLICY, database=DATABASE) as proxy,
            running_proxy(
                tmp_path_factory.mktemp("code"), server, policy=POLICY + CODE_RULE, database=DATABASE
            ) as no_code,
        ):
            yield Arena(server, proxy, no_code, folder)


def send(client: RawClient, evasion: Evasion) -> list[Message]:
    answers: list[Message] = []
    for text in evasion.messages:
        if evasion.is_extended:
            client.send(pg.parse("", text), pg.bind(), pg.execute(), pg.sync())
        else:
            client.send(pg.query(text))
        answers += client.until(lambda message: message[0] in "ZG")
        if answers[-1][0] == "G":
            client.send(pg.copy_fail("no"), *([pg.sync()] if evasion.is_extended else []))
            answers += client.ready()
    return answers


def state_of(client: RawClient) -> str:
    """ "" if it cannot be told, which is a change as well."""
    found = client.query(STATE)
    return "" if errors(found) else repr(rows(found))


def shows_canary(answers: Sequence[Message]) -> bool:
    data = b"".join(body for kind, body in answers if kind in "DdEN")
    return any(canary in data for canary in CANARIES)


def does_it(arena: Arena, evasion: Evasion, before: str) -> bool:
    """Whether the server, asked directly, does what is forbidden. Leaves no trace."""
    with logged_in(arena.server.address(DATABASE)) as client:
        client.query("begin")
        answers = send(client, evasion)
        has_failed = bool(errors(answers))
        is_done = shows_canary(answers) or (not has_failed and state_of(client) != before)
        client.query("rollback")
    with contextlib.suppress(FileNotFoundError):
        arena.made.unlink()
        is_done = True
    return is_done


def gets_through(arena: Arena, proxy: Proxy, evasion: Evasion, before: str) -> str:
    """What it did although it went through the proxy; "" if nothing."""
    answers: list[Message] = []
    same = before
    with logged_in(proxy.address()) as client, contextlib.suppress(Left):
        answers = send(client, evasion)
        client.query("commit")
        same = repr(client.rows("select current_user"))
    with logged_in(arena.server.address(DATABASE)) as direct:
        after = state_of(direct)
    done = []
    if shows_canary(answers):
        done.append("returned protected data")
    if after != before:
        done.append("changed the server")
    if "'app'" not in same and same != before:
        done.append("runs as another")
    with contextlib.suppress(FileNotFoundError):
        arena.made.unlink()
        done.append("made a file")
    return ", ".join(done)


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("rule", RULES)
def test_no_rewrite_of_what_is_forbidden_is_executed(arena: Arena, rule: str) -> None:
    wanted = scaled(5, 320)
    before = arena.reset()
    assert before
    tried, ran, forms = 0, [], set()
    potent = 0
    for evasion in evasions(rule, 4, str(arena.made), str(arena.canary), DATABASE):
        tried += 1
        assert tried < wanted * 8 + 20, "hardly any rewrite does anything: the templates are wrong"
        if not does_it(arena, evasion, before):
            continue
        potent += 1
        forms.add(evasion.name)
        did = gets_through(arena, arena.no_code if evasion.is_trigger else arena.proxy, evasion, before)
        if did:
            ran.append([did, *evasion.messages])
        if did or evasion.is_trigger:
            before = arena.reset()
        if potent == wanted:
            break
    record(
        f"F1.postgres.{rule.replace(' ', '_')}",
        f"ways around a rule ({rule}) that a PostgreSQL behind the proxy executed",
        count=potent,
        failures=len(ran),
        tried=tried,
        forms=len(forms),
        ran=ran[:5],
    )
