"""SECURITY_BAR K1: nobody waits for a policy that is reloaded, however large it is.

Which policy each statement was judged by is in test_bar_k_reload.py.
"""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from support.figures import record, scaled
from support.processes import assert_whole, wait_until
from support.proxy import Proxy, running_proxy
from support.servers import Database, find_program
from support.steady import Seen, Steady

RULES = scaled(300, 600)
MOST_MS = 200.0
RATE = scaled(300, 2000)


def policy(name: str) -> str:
    """As large as a policy may well become."""
    head = "version: 1\ndefaults: {action: allow, on_unparsable: block, on_dynamic: block, on_error: block}\nrules:\n"
    rule = '  - {{name: rule-{0}-{1}, match: {{table: ["*.nothing_{0}_{1}"], group: [dba]}}, action: block, severity: high}}\n'
    return head + "".join(rule.format(name, number) for number in range(RULES))


@contextlib.contextmanager
def load(proxy: Proxy, folder: Path, seconds: float) -> Iterator[None]:
    """RATE statements a second in 16 sessions, each of them with a text that was judged before."""
    script = folder / "load.sql"
    script.write_text("\\set id random(1, 5)\nselect item from orders where id = :id;\n")
    command = [
        find_program("pgbench"),
        "-n",
        "-M",
        "prepared",
        "-c",
        "16",
        "-j",
        "1",
        "-R",
        RATE,
        "-T",
        int(seconds) + 1,
    ]
    with (folder / "pgbench.log").open("wb") as log:
        running = subprocess.Popen(
            [*map(str, command), "-f", str(script)],
            env={**proxy.environment(), "PGSSLMODE": "disable", "PATH": "/usr/bin:/bin"},
            stdout=log,
            stderr=log,
        )
        try:
            yield
            assert running.wait(seconds + 60) == 0, (folder / "pgbench.log").read_text()
        finally:
            running.kill()


def test_nobody_waits_while_a_large_policy_is_reloaded(tmp_path: Path, database: Database) -> None:
    reloads = scaled(2, 100)
    with running_proxy(tmp_path / "proxy", database.server, database=database.name, policy=policy("first")) as proxy:

        def reload(name: str) -> None:
            before = len(proxy.records("policy.loaded"))
            proxy.write_policy(policy(name))
            proxy.reload()
            wait_until(lambda: len(proxy.records("policy.loaded")) >= before + 2, 60)

        def watch(seconds: float, names: list[str]) -> tuple[list[Seen], float]:
            """What streams in both workers saw."""
            with load(proxy, tmp_path, seconds), contextlib.ExitStack() as stack:
                streams = [stack.enter_context(Steady(proxy.address("bob"), pause_s=0.002)) for _ in range(4)]
                began = time.monotonic()
                for name in names:
                    reload(name)
                took = time.monotonic() - began
                time.sleep(max(0.0, seconds - took))
            return [each.seen for each in streams], took

        quiet, _ = watch(scaled(1, 60), [])
        seen, took = watch(scaled(2, 300), [str(number) for number in range(reloads)])
        assert not [each.failures for each in seen if each.failures]
    assert_whole(proxy)
    each_s = took / reloads
    gap_ms, quiet_gap_ms = (max(each.longest_gap_ms for each in some) for some in (seen, quiet))
    record(
        "K1.pause",
        "reloads under load: somebody waited for more than 200 ms, and for a good part of the reload",
        count=reloads,
        # On a busy machine everything takes longer; whoever waited for the whole of a reload has waited for most of its time.
        failures=int(gap_ms > MOST_MS and gap_ms > each_s * 1e3 / 4),
        rules=RULES,
        longest_gap_ms=gap_ms,
        longest_gap_ms_without=quiet_gap_ms,
        p99_ms=max(each.p99_ms for each in seen),
        p99_ms_without=max(each.p99_ms for each in quiet),
        statements=sum(each.statements for each in seen),
        load_per_second=RATE,
        seconds_each_reload=round(each_s, 2),
    )
