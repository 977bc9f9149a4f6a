"""A state file that cannot be used costs the history of processes, and nothing else."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

from support.processes import admin, is_ready, wait_until
from support.proxy import Proxy, running_proxy
from support.servers import Database


def test_damaged_state_file_keeps_nobody_out_and_history_begins_when_it_is_gone(
    tmp_path: Path, database: Database
) -> None:
    state = tmp_path / "state" / "state.db"
    state.parent.mkdir(mode=0o700)
    state.write_bytes(b"these are not the bytes you are looking for" * 200)
    with running_proxy(tmp_path, database.server, database=database.name) as proxy:
        (control,) = proxy.processes("control")
        for _ in range(2):  # at the first start, and when control is started again
            with proxy.connect() as connection:
                assert connection.execute("select 1").fetchone() == (1,)
            wait_until(lambda: proxy.metric("dbproxy_history_down") == 1)
            assert json.loads(proxy.get("/readyz")[1])["warnings"] == ["the history of processes is not kept"]
            status = admin(proxy).get("/v1/status")
            assert (status["ready"], status["problems"], status["runs"]) == (True, [], None)
            assert f"{state.resolve()}: is damaged" in status["warnings"][0]
            if control in proxy.processes("control"):
                os.kill(control, signal.SIGKILL)
                wait_until(lambda: proxy.processes("control") not in ([], [control]))
                wait_until(lambda: is_ready(proxy))
        assert proxy.stderr.count("the history of processes is not kept") == 2, "said once by each"
        state.rename(state.with_suffix(".damaged"))
        wait_until(lambda: proxy.metric("dbproxy_history_down") == 0, 20)
        assert json.loads(proxy.get("/readyz")[1])["warnings"] == []
        worker = proxy.processes("worker")[1]
        os.kill(worker, signal.SIGKILL)
        wait_until(
            lambda: _ending(proxy, worker) == "crashed", what="the end of one that began before there was a file"
        )
        wait_until(lambda: is_ready(proxy))


def _ending(proxy: Proxy, pid: int) -> str | None:
    runs = admin(proxy).get("/v1/status")["runs"]
    return next((each["ending"] for each in runs if each["pid"] == pid), None)
