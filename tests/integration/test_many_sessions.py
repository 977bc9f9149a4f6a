"""Many sessions of one person at once: a pool of connections is ordinary, and its new texts are read, not refused."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
from support.proxy import Proxy
from support.servers import Database

pytestmark = pytest.mark.integration

SESSIONS = 48


def test_new_texts_of_many_sessions_of_one_person_are_all_read(
    make_proxy: Callable[..., Proxy], database: Database
) -> None:
    proxy = make_proxy(policy="default", database=database.name)
    barrier = Barrier(SESSIONS)

    def run(session: int) -> list[int]:
        with proxy.connect("alice", database.name) as connection:
            barrier.wait(60)
            rows = [connection.execute(f"SELECT {session} * 1000 + {n}".encode(), prepare=False) for n in range(20)]
            return [row.fetchone()[0] for row in rows]  # type: ignore[index] # one row each

    with ThreadPoolExecutor(SESSIONS) as threads:
        answers = list(threads.map(run, range(SESSIONS)))
    assert answers == [[session * 1000 + n for n in range(20)] for session in range(SESSIONS)]
    assert not proxy.records("statement.refused")
