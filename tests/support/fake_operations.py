"""A proxy as the admin API sees it, in memory: sessions, status, an audit trail. Counterparts: the Protocols in dbproxy/sessions_view.py
and dbproxy/operations.py."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import uvloop

from dbproxy.admin import Actor, Admin, Permission, everybody
from dbproxy.audit.types import EventType
from dbproxy.operations import AuditStatus, ProcessState, ProcessStatus, ProxyStatus, Reloaded
from dbproxy.sessions_view import SessionInfo, SessionState, TransactionState
from dbproxy.store.contract import Ending, Run, StoreError

BEGAN_NS = 1_767_225_600_000_000_000
ALICE = SessionInfo(
    id="a1b2c3d4e5f60718",
    worker=1,
    person="alice",
    account="app",
    server_user="app",
    database="shop",
    target="main",
    client="127.0.0.1:40000",
    application="psql",
    started_at_ns=BEGAN_NS,
    last_active_at_ns=BEGAN_NS + 1_500_000_000,
    state=SessionState.RUNNING,
    transaction=TransactionState.OPEN,
    statements=3,
    refused=1,
    rows=42,
    received_bytes=12_345,
    sent_bytes=900,
)
BOB = replace(
    ALICE,
    id="ffff000011112222",
    worker=2,
    person="bob",
    client="127.0.0.1:40001",
    application="\x1b[2Jevil\udcff",
    state=SessionState.IDLE,
    transaction=TransactionState.IDLE,
)
STATUS = ProxyStatus(
    version="1.2.3",
    started_at_ns=BEGAN_NS,
    settings_file="/etc/dbproxy/dbproxy.yaml",
    settings_sha256="5" * 64,
    policy_sha256="a" * 64,
    sessions=2,
    problems=(),
    warnings=(),
    audit=AuditStatus(True, "", "tiered", 1234, True, 7, BEGAN_NS, True),
    processes=(
        ProcessStatus("supervisor", None, 10, "1.2.3", ProcessState.READY, BEGAN_NS, 0, 0),
        ProcessStatus("control", 0, 11, "1.2.3", ProcessState.READY, BEGAN_NS, 0, 0),
        ProcessStatus("worker", 1, 0, "1.2.3", ProcessState.DOWN, 0, 3, 0),
    ),
)
RUNS = (
    Run(2, "worker", 1, 12, "1.2.3", BEGAN_NS, BEGAN_NS + 5_000_000_000, Ending.CRASHED, "signal 9"),
    Run(1, "control", 0, 11, "1.2.3", BEGAN_NS),
)


class FakeProxy:
    """Implements SessionDirectory and Operations. Tests change the attributes and read `events` and `killed`."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.there = {ALICE.id: ALICE, BOB.id: BOB}
        self.now = STATUS
        self.is_audit_down = False
        self.is_store_broken = False
        self.kill_hangs = False
        self.ends_by_itself = False
        self.reloaded = Reloaded("b" * 64, ())
        self.reloads = 0
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.killed: list[tuple[str, str]] = []

    async def sessions(self) -> tuple[SessionInfo, ...]:
        return tuple(self.there.values())

    async def find_session(self, session_id: str) -> SessionInfo | None:
        return self.there.get(session_id)

    async def kill_session(self, session_id: str, message: str) -> SessionInfo | None:
        if self.kill_hangs:
            raise TimeoutError
        if self.ends_by_itself:
            return None
        self.killed.append((session_id, message))
        return self.there.pop(session_id)

    async def status(self) -> ProxyStatus:
        return self.now

    async def reload(self) -> Reloaded:
        self.reloads += 1
        return self.reloaded

    async def record(self, event: EventType, fields: dict[str, object]) -> bool:
        if self.is_audit_down:
            return False
        self.events.append((event.value.decode(), fields))
        return True

    async def runs(self, limit: int) -> tuple[Run, ...]:
        if self.is_store_broken:
            raise StoreError("state.db: disk I/O error")
        return RUNS[:limit]


class Served:
    """The admin API in a thread of its own. permitted: what everybody may do, to be changed by a test."""

    def __init__(self, proxy: FakeProxy, directory: Path) -> None:
        self.proxy = proxy
        self.directory = directory
        self.permitted = everybody(Actor("", 0))
        self.socket = directory / "admin.sock"

    def permissions(self, _actor: Actor) -> frozenset[Permission]:
        return self.permitted

    @contextmanager
    def running(self) -> Iterator[None]:
        is_up, over, failures = threading.Event(), asyncio.Event(), []
        loop = uvloop.new_event_loop()

        async def serve() -> None:
            admin = Admin(self.proxy, self.proxy, self.proxy.record, self.proxy.runs, self.permissions)
            await admin.start(self.directory)
            is_up.set()
            await over.wait()
            await admin.stop()

        def run() -> None:
            try:
                loop.run_until_complete(serve())
            except BaseException as error:
                failures.append(error)
            finally:
                loop.close()
                is_up.set()

        thread = threading.Thread(target=run)
        thread.start()
        is_up.wait(20)
        try:
            if failures:
                raise failures[0]
            yield
        finally:
            if not failures:
                loop.call_soon_threadsafe(over.set)
            thread.join(20)


@contextmanager
def serving(directory: Path) -> Iterator[Served]:
    """A fake proxy with a real admin socket in directory, which is made."""
    served = Served(FakeProxy(), directory)
    with served.running():
        yield served
