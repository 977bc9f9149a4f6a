"""The program: reads the settings and runs the supervisor with them.

supervisor ─┬─ control    one: caps, policies, figures, admin API, checkpoints
└─ worker …   processes.workers of them: listeners, logins, sessions, audit
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from config.load import load_settings
from dbproxy.clock import SystemClock
from dbproxy.supervisor import Supervisor
from dbproxy.watched import file_sha256


def serve(settings_path: Path, on_ready: Callable[[list[str]], None]) -> int:
    """Run the proxy until it is stopped. Raises ConfigError or DbproxyError if it cannot start."""
    sha256 = file_sha256(settings_path)
    settings = load_settings(settings_path)

    async def main() -> int:
        return await Supervisor(settings_path, settings, sha256, SystemClock()).run(on_ready)

    return asyncio.run(main())
