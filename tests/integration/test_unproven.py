"""Nobody signs what is recorded: statements are refused with words that say so, and run again as soon as somebody does."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

import psycopg
import pytest
from support.impatient import launcher
from support.processes import error_of, wait_until
from support.proxy import Proxy


def test_statements_are_refused_while_control_is_frozen_and_run_again_when_it_thaws(
    make_proxy: Callable[..., Proxy],
) -> None:
    proxy = make_proxy(launcher=launcher(interval_s=1, late_s=2))
    (control,) = proxy.processes("control")
    with proxy.connect() as connection:
        os.kill(control, signal.SIGSTOP)
        try:
            wait_until(
                lambda: proxy.stderr.count("statements are refused: no signed checkpoint") == 2
            )  # in each worker
            with pytest.raises(psycopg.Error) as refused:
                connection.execute("select 1")
        finally:
            os.kill(control, signal.SIGCONT)
        wait_until(lambda: not error_of(connection, "select 1"))
    diag = refused.value.diag
    assert diag.sqlstate == "58030"
    assert diag.message_primary == "dbproxy: the audit trail cannot be proven, so nothing may run"
    assert diag.message_detail is not None
    assert diag.message_detail.startswith("no signed checkpoint for ")
