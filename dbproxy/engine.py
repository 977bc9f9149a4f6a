"""What the proxy needs of one wire protocol, as values: how to log in, how to relay, how to cancel, and its dialect."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator
from dataclasses import dataclass
from typing import Any

from config.settings import Limits, Listener, Target
from dbproxy.dialect import Dialect
from protocol.contract import Host, Relay

Steps = Generator[Any, Any, None]


@dataclass(frozen=True, slots=True)
class Engine:
    """One wire protocol.

    login: steps of a login on this listener towards this target; the callable it takes makes the relay from the server's first parameters.
    make_relay: for a session, within these limits. cancel: steps that deliver a cancel request: TLS mode, process id, the server's secret.
    watch: learns what must be known of a target before anybody can log in to it; None if that is nothing.
    """

    dialect: Dialect
    login: Callable[[Listener, Target, Callable[[dict[str, str]], Relay]], Steps]
    make_relay: Callable[[Host, Limits, Target], Relay]
    cancel: Callable[[str, int, bytes], Steps]
    watch: Callable[[Target], Coroutine[Any, Any, None]] | None = None
