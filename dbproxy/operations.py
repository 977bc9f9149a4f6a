"""What operators may ask of the running proxy as a whole: how it is, and to read its files again.

Implemented by the control process, asked by admin.py. Sessions are in sessions_view.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

ADMIN_SOCKET = "admin.sock"
"""Where they ask: its name in the state directory."""
REASON_MAX = 200
"""Characters of a reason that somebody must give."""


class ProcessState(StrEnum):
    """Where a process is in its life."""

    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    """It takes no new sessions, and ends when the last one has."""
    DOWN = "down"
    """It is not there; a new one will be started."""


@dataclass(frozen=True, slots=True)
class ProcessStatus:
    """One process of the proxy. role: supervisor, control or worker. slot: its chain in the ledger; None for the supervisor.

    started_at_ns: wall time, 0 while it is down. restarts: since the proxy was started, because it had ended by itself.
    """

    role: str
    slot: int | None
    pid: int
    version: str
    state: ProcessState
    started_at_ns: int
    restarts: int
    sessions: int


@dataclass(frozen=True, slots=True)
class AuditStatus:
    """How the audit trail is. reason: why it cannot be written, "" if it can. durability: the setting's word.

    records: in all chains since the proxy was started. is_signing: checkpoints are made. checkpoint: number of the last one, 0 if there is none yet;
    checkpoint_at_ns: its wall time, 0 if it is from before the start. is_anchored: it has reached an anchor outside.
    """

    is_writable: bool
    reason: str
    durability: str
    records: int
    is_signing: bool
    checkpoint: int
    checkpoint_at_ns: int
    is_anchored: bool


@dataclass(frozen=True, slots=True)
class ProxyStatus:
    """The proxy at one moment. problems: why it is not ready, as in /readyz; () if it is. warnings: what fails although it is, and what to do."""

    version: str
    started_at_ns: int
    settings_file: str
    settings_sha256: str
    policy_sha256: str
    sessions: int
    problems: tuple[str, ...]
    warnings: tuple[str, ...]
    audit: AuditStatus
    processes: tuple[ProcessStatus, ...]


@dataclass(frozen=True, slots=True)
class Reloaded:
    """What became of a reload. problems: what is invalid, one sentence each; for those parts the old stays in force everywhere."""

    policy_sha256: str
    problems: tuple[str, ...]


class Operations(Protocol):
    """The proxy as a whole. In tests: tests/support/fake_operations.py."""

    async def status(self) -> ProxyStatus:
        """How the proxy is now."""

    async def reload(self) -> Reloaded:
        """Read policies, users and certificates again, as SIGHUP does; returns when every worker has answered or timed out."""
