"""What tests of the supervisor, control and workers have in common: waiting, sessions in every worker, load, a ledger that is whole."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import psycopg
from support.proxy import Proxy, running_proxy
from support.raw_client import errors, logged_in
from support.servers import Database, PostgresServer
from support.usage import children, is_alive

from dbproxy.admin_client import AdminClient
from dbproxy.audit.signing import load_public_key
from dbproxy.audit.verify import verify_directory
from dbproxy.operations import ADMIN_SOCKET


def wait_until(is_so: Callable[[], object], timeout_s: float = 10, what: str = "it") -> float:
    """Returns how long it took."""
    began = time.monotonic()
    while not is_so():
        assert time.monotonic() - began < timeout_s, f"{what} has not happened within {timeout_s} s"
        time.sleep(0.01)
    return time.monotonic() - began


def is_ready(proxy: Proxy) -> bool:
    with contextlib.suppress(OSError):
        return proxy.get("/readyz")[0] == 200
    return False


def admin(proxy: Proxy) -> AdminClient:
    return AdminClient(proxy.folder / "state" / ADMIN_SOCKET)


def zombies(proxy: Proxy) -> list[int]:
    return [pid for pid in children(proxy.process.pid) if not is_alive(pid)]


def error_of(connection: psycopg.Connection[Any], sql: str) -> str:
    """SQLSTATE and message; "" if it runs."""
    try:
        connection.execute(sql.encode())
    except psycopg.Error as error:
        return f"{error.sqlstate} {error}"
    return ""


@contextlib.contextmanager
def sessions_in_both_workers(proxy: Proxy) -> Iterator[dict[int, list[psycopg.Connection[Any]]]]:
    """Sessions by slot, two in each worker."""
    with contextlib.ExitStack() as stack:
        found: dict[int, list[psycopg.Connection[Any]]] = {1: [], 2: []}
        for _ in range(60):
            with contextlib.ExitStack() as one:
                connection = one.enter_context(proxy.connect())
                mine = found[_slot_of(proxy, connection)]
                if len(mine) < 2:  # else it goes again: there may be a cap
                    mine.append(connection)
                    stack.enter_context(one.pop_all())
            if min(map(len, found.values())) >= 2:
                break
        assert min(map(len, found.values())) >= 2, "the kernel gives one worker everything"
        yield found


def _slot_of(proxy: Proxy, connection: psycopg.Connection[Any]) -> int:
    pid = connection.info.backend_pid
    found: list[int] = []

    def look() -> bool:
        found.extend(slot for slot in (1, 2) if any(each.get("server_pid") == pid for each in proxy.records_of(slot)))
        return bool(found)

    wait_until(look)
    return found[0]


def assert_whole(proxy: Proxy) -> None:
    """The proxy has ended: nothing is missing, and the last checkpoint, signed, covers every chain to its end."""
    found = verify_directory(proxy.ledger, keys=[load_public_key(proxy.folder / "state" / "signing.key.pub")])
    assert found.problem is None, found.problem
    payload = json.loads(proxy.records_of(0)[-2]["payload"])
    heads = {head["slot"]: head["seq"] for head in payload["heads"]}
    assert payload["final"]
    slots = [slot for slot in (1, 2, 3, 4) if proxy.records_of(slot)]
    assert {slot: proxy.records_of(slot)[-1]["seq"] for slot in slots} == {slot: heads[slot] for slot in slots}


@contextlib.contextmanager
def whole_proxy(folder: Path, server: PostgresServer, database: Database, **options: Any) -> Iterator[Proxy]:
    """A proxy for several tests, in front of a database of theirs; its ledger must be whole in the end."""
    with running_proxy(folder, server, database=database.name, **options) as proxy:
        yield proxy
    assert_whole(proxy)


class Load:
    """Statements in many sessions, until the block ends. connects: each in a session of its own. failures: what went wrong."""

    def __init__(self, proxy: Proxy, threads: int, *, connects: bool = False) -> None:
        self._proxy = proxy
        self._connects = connects
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(number,)) for number in range(threads)]
        self.statements = 0
        self.connections = 0
        self.failures: list[str] = []

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(30)

    def _run(self, number: int) -> None:
        person = "alice" if number % 2 else "bob"
        while not self._stop.is_set():
            try:
                with logged_in(self._proxy.address(person)) as client:
                    self.connections += 1
                    while not self._stop.is_set():
                        found = errors(client.query(f"select {number}, item from orders where id = {number}"))
                        self.failures += found
                        self.statements += 1
                        if self._connects:
                            break
            except Exception as error:  # whatever it is, it should not have happened
                self.failures.append(f"{type(error).__name__}: {error}")
                time.sleep(0.01)
