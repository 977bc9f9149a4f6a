"""The program: reads the settings and runs the supervisor with them.

supervisor ─┬─ control    one: caps, policies, figures, admin API, checkpoints
└─ worker …   processes.workers of them: listeners, logins, sessions, audit
"""

from __future__ import annotations

import asyncio
import logging
import resource
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from config.load import check_settings
from dbproxy.clock import SystemClock
from dbproxy.errors import StartError
from dbproxy.supervisor import Supervisor
from dbproxy.watched import file_sha256

_log = logging.getLogger("dbproxy")


def serve(settings_path: Path, on_ready: Callable[[list[str]], None]) -> int:
    """Run the proxy until it is stopped. Raises ConfigError or DbproxyError if it cannot start."""
    if not settings_path.exists():
        raise StartError(
            f"{settings_path}: there is no settings file; `dbproxy init` writes one, and --settings names another"
        )
    sha256 = file_sha256(settings_path)
    checked = check_settings(settings_path)
    settings = checked.require()
    for warning in checked.problems:
        _log.warning("%s", warning)

    _forbid_core_dumps()

    async def main() -> int:
        return await Supervisor(settings_path, settings, sha256, SystemClock()).run(on_ready)

    return asyncio.run(main())


def _forbid_core_dumps() -> None:
    """Keep what is in memory, passwords of accounts among it, out of files, whatever kills a process. Children inherit it."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with suppress(
        OSError
    ):  # programs that the kernel hands a dump to may not heed the limit: leave them nothing. Linux only
        Path("/proc/self/coredump_filter").write_text("0")
