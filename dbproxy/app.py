"""The program: puts the parts together, starts them in order, reloads, drains, stops. The only place that knows which engines there are.

start:  ledger ─► policy, users, certificates ─► classifier processes ─► listeners ─► metrics and health
stop:   listeners ─► sessions drained ─► processes ─► metrics and health ─► ledger
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import os
import secrets
import signal
from collections.abc import Callable
from pathlib import Path

import uvloop

from config.errors import ConfigError
from config.load import check_settings, load_settings, load_users
from config.settings import BUILTIN, SHIPPED_POLICIES, Compression, Durability, Parameters, Settings
from config.users import Users
from dbproxy import __version__
from dbproxy.audit.ledger import AuditDown, Ledger
from dbproxy.audit.record import members
from dbproxy.audit.types import EventType
from dbproxy.classifier.pool import ClassifierPool, PoolSettings
from dbproxy.clock import SystemClock
from dbproxy.control import Control
from dbproxy.engine_mysql import mysql_engine
from dbproxy.engine_postgres import POSTGRES
from dbproxy.errors import DbproxyError, StartError
from dbproxy.identity.identity import Identity, UsersError
from dbproxy.identity.tls import ListenerMaterial, TLSMaterialError, target_context
from dbproxy.judge import Judge
from dbproxy.ledger_watch import LedgerWatch
from dbproxy.metrics import Counters, Exporter, watch_loop
from dbproxy.policy.load import load_policy
from dbproxy.policy.model import Policy
from dbproxy.server import Entrance, Server
from dbproxy.tasks import Tasks
from dbproxy.turn import Turn

_log = logging.getLogger("dbproxy")
_MYSQL = mysql_engine()
_ENGINES = {"postgres": POSTGRES, "mysql": _MYSQL, "mariadb": _MYSQL}
_WATCH_STEP_S = 0.5
_WATCH_S = 1.0
_DIGEST_KEY = "digest.key"


class App:
    """One running proxy. settings_path: kept to be read again on reload."""

    def __init__(self, settings_path: Path, settings: Settings) -> None:
        self._path = settings_path
        self._settings = settings
        self._settings_sha256 = _digest(settings_path)
        self._clock = SystemClock()
        self._tasks = Tasks(self._crashed)
        self._counters = Counters()
        self._stop = asyncio.Event()
        self._stamps: dict[Path, tuple[int, int]] = {}
        self._warnings: tuple[str, ...] = ()
        self._ledger = Ledger(
            settings.audit.directory,
            segment_bytes=settings.audit.segment_bytes,
            segment_age_s=settings.audit.segment_age_s,
            reserve_bytes=settings.audit.reserve_bytes,
            now_ns=self._clock.wall_ns,
        )
        self._turn: Turn | None = None
        self._judge: Judge | None = None
        self._server: Server | None = None
        self._pool: ClassifierPool | None = None
        self._exit_code = 0

    # ---- what /readyz asks --------------------------------------------------------------------------------------

    @property
    def is_listening(self) -> bool:
        return self._server is not None and self._server.is_listening

    @property
    def is_audit_writable(self) -> bool:
        return not self._ledger.is_down

    @property
    def has_policy(self) -> bool:
        return self._judge is not None

    @property
    def is_classifier_ready(self) -> bool:
        return self._pool is not None and self._pool.is_ready

    @property
    def is_draining(self) -> bool:
        return self._stop.is_set()

    # ---- life ---------------------------------------------------------------------------------------------------

    async def run(self, on_ready: Callable[[list[str]], None]) -> int:
        """Serve until told to stop. on_ready: called with the addresses in use. Returns the exit status.

        Raises StartError, ConfigError, or another DbproxyError when it cannot start; nothing is left running then.
        """
        settings = self._settings
        loop = asyncio.get_running_loop()
        policy = self._load_policy()
        users = _load_users(settings)
        recovery = self._ledger.open()
        try:
            turn = self._turn = Turn(
                self._ledger,
                loop,
                self._counters,
                self._clock.monotonic_ns,
                syncs_some=settings.audit.durability is Durability.TIERED,
                syncs_all=settings.audit.durability is Durability.DURABLE,
            )
            self._record(
                EventType.PROXY_START,
                {"version": __version__, "pid": os.getpid(), "recovered": len(recovery.unknown)},
            )
            self._record(EventType.SETTINGS_LOADED, {**self._settings_source(), "trigger": "start"})
            self._record_policy(policy, "start")
            digest_key = _digest_key(settings)
            identity = Identity(
                settings.users.auth,
                users,
                settings.limits.login_failures,
                self._clock,
                hmac.digest(_directory_key(settings), b"unknown people", "sha256"),
                secrets.token_bytes,
            )
            limits = settings.limits.classifier
            pool = self._pool = ClassifierPool(
                PoolSettings(
                    processes=limits.processes,
                    deadline_s=limits.timeout_ms / 1000,
                    memory_bytes=limits.memory_mb << 20,
                    # A session waits for one text at a time: so many can wait at most, and none is refused for its company.
                    max_per_key=settings.limits.max_sessions_per_user + 1,
                    max_queued=settings.limits.max_sessions * 2,
                )
            )
            await pool.start()
            judge = self._judge = Judge(pool, policy, cache_bytes=limits.cache_bytes)
            server = self._server = Server(
                settings, self._entrances(), identity, judge, turn, self._counters, self._clock, digest_key
            )
            server.listen()
            control = Control(Exporter(self._counters, judge, pool, __version__), self._counters.lag, self)
            admin = await control.start(settings.admin.address.host, settings.admin.address.port)
            self._remember_files()
            self._tasks.spawn(watch_loop(self._counters.lag, self._clock), name="loop lag")
            self._tasks.spawn(self._watch(), name="files")
            watch = LedgerWatch(
                turn,
                self._counters,
                settings.audit.directory,
                self._clock.monotonic_ns,
                heartbeat_s=settings.audit.heartbeat_s,
                compresses=settings.audit.compression is Compression.GZIP,
            )
            self._tasks.spawn(watch.run(), name="audit ledger")
            for number, action in (
                (signal.SIGTERM, self._stop.set),
                (signal.SIGINT, self._stop.set),
                (signal.SIGHUP, self.reload),
                (signal.SIGUSR1, self._ledger.rotate),
            ):
                loop.add_signal_handler(number, action)
            addresses = [
                f"{entrance.listener.name} {_address(entrance)} → {entrance.target.name}"
                for entrance in server.entrances
            ]
            on_ready([*addresses, f"metrics and health http://{admin[0]}:{admin[1]}"])
            await self._stop.wait()
            await server.drain()
            await self._tasks.cancel_all(timeout_s=5)
            await pool.close()
            await control.stop()
            await turn.close()
        except BaseException:
            if self._pool is not None:
                await self._pool.close()
            self._ledger.close("the proxy could not start or failed")
            raise
        self._record(EventType.PROXY_STOP, {"reason": "asked to stop"})
        self._ledger.close("the proxy was stopped")
        return self._exit_code

    def _crashed(self, name: str, error: BaseException) -> None:
        """A part that must run does not: a proxy that half works is worse than none."""
        _log.critical("%s has failed (%s); stopping", name, type(error).__name__)
        self._exit_code = 1
        self._stop.set()

    def _entrances(self) -> list[Entrance]:
        entrances = []
        for listener in self._settings.listeners:
            target = self._settings.target(listener.target)
            try:
                entrances.append(
                    Entrance(
                        listener,
                        target,
                        _ENGINES[listener.protocol.value],
                        ListenerMaterial(listener.tls),
                        target_context(target.tls),
                    )
                )
            except TLSMaterialError as error:
                raise StartError(f"listener {listener.name}: {error}") from error
        return entrances

    # ---- reload -------------------------------------------------------------------------------------------------

    def reload(self) -> None:
        """Read policies, users and certificates again. What is invalid leaves the old in force, and says so in the trail."""
        self._remember_files()
        self._check_settings()
        self._reload_policy()
        self._reload_users()
        self._reload_certificates()

    def _settings_source(self) -> dict[str, object]:
        return {"file": str(self._path), "sha256": self._settings_sha256}

    def _check_settings(self) -> None:
        """Settings take effect at a start only. Say so if they changed, and say now if the next start would fail."""
        checked = check_settings(self._path)
        if checked.value is None:
            errors = [str(problem) for problem in checked.problems if not problem.is_warning]
            _log.error("the settings file has errors, the running settings stay: %s", "; ".join(errors[:10]))
            self._record(
                EventType.SETTINGS_REJECTED, {**self._settings_source(), "errors": errors[:50], "trigger": "change"}
            )
        elif _digest(self._path) != self._settings_sha256:
            _log.warning("the settings file has changed; the changes take effect at the next start")

    def _reload_policy(self) -> None:
        if self._judge is None or self._server is None:
            return
        try:
            policy = self._load_policy()
        except (ConfigError, OSError) as error:
            self._counters.policy_rejections += 1
            _log.error("policy not loaded, the old one stays: %s", error)
            self._record(EventType.POLICY_REJECTED, {"errors": str(error).splitlines()[:50], "trigger": "change"})
            return
        previous = self._judge.policy.sha256
        self._counters.policy_reloads += 1
        self._judge.replace_policy(policy)
        self._server.policy_changed()
        self._record_policy(policy, "change", previous)

    def _reload_users(self) -> None:
        if self._server is None or self._settings.users.file is None:
            return
        try:
            users = _load_users(self._settings)
            self._server.identity.reload(users)
        except (ConfigError, UsersError, OSError) as error:
            _log.error("users not loaded, the old ones stay: %s", error)
            self._record(EventType.USERS_REJECTED, {"errors": str(error).splitlines()[:50], "trigger": "change"})
            return
        self._record(EventType.USERS_LOADED, {"file": str(self._settings.users.file), "trigger": "change"})
        self._server.users_changed()

    def _reload_certificates(self) -> None:
        for entrance in self._server.entrances if self._server is not None else ():
            if entrance.material.current is None:
                continue
            try:
                before = entrance.material.current.fingerprint
                entrance.material.reload()
                after = entrance.material.current.fingerprint
            except TLSMaterialError as error:
                _log.error("certificate of %s not loaded, the old one stays: %s", entrance.listener.name, error)
                self._record(
                    EventType.CERTIFICATE_REJECTED,
                    {"listener": entrance.listener.name, "error": str(error), "trigger": "change"},
                )
                continue
            if before != after:
                self._record(
                    EventType.CERTIFICATE_LOADED,
                    {"listener": entrance.listener.name, "sha256": after, "previous": before, "trigger": "change"},
                )

    def _load_policy(self) -> Policy:
        checked = load_policy(self._settings.policies.files)
        if checked.policy is None:
            raise StartError("no policy")
        self._warnings = tuple(str(problem) for problem in checked.warnings)
        for warning in self._warnings:
            _log.warning("%s", warning)
        return checked.policy

    def _record_policy(self, policy: Policy, trigger: str, previous: str | None = None) -> None:
        self._counters.policy_sha256 = policy.sha256
        fields: dict[str, object] = {
            "files": [_policy_name(path) for path in self._settings.policies.files],
            "sha256": policy.sha256,
            "trigger": trigger,
        }
        if previous is not None:
            fields["previous"] = previous
        if self._warnings:
            fields["warnings"] = list(self._warnings)
        self._record(EventType.POLICY_LOADED, fields)

    def _record(self, event: EventType, fields: dict[str, object]) -> None:
        if self._turn is None:
            return
        try:
            self._turn.append(event, members(fields))
        except AuditDown:
            self._ledger.refused_while_down += 1

    # ---- timers -------------------------------------------------------------------------------------------------

    def _watched_files(self) -> list[Path]:
        files = list(self._settings.policies.files)
        if self._settings.users.file is not None:
            files.append(self._settings.users.file)
        for listener in self._settings.listeners:
            files += [path for path in (listener.tls.certificate, listener.tls.key) if path is not None]
        return files

    def _remember_files(self) -> None:
        self._stamps = {path: _stamp(path) for path in self._watched_files()}

    async def _watch(self) -> None:
        """Reload when a file has changed."""
        waited_s = 0.0
        changed_before = False
        while True:
            await asyncio.sleep(_WATCH_STEP_S)
            waited_s += _WATCH_STEP_S
            if waited_s < _WATCH_S:
                continue
            waited_s = 0.0
            changed = any(_stamp(path) != stamp for path, stamp in self._stamps.items())
            if changed and changed_before:  # unchanged for a moment: whoever writes it has finished
                self.reload()
                changed = False
            changed_before = changed


def _digest(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return ""


def _load_users(settings: Settings) -> Users:
    return load_users(settings.users.file) if settings.users.file is not None else Users(version=1)


def _policy_name(path: Path) -> str:
    return BUILTIN + path.stem if path.parent == SHIPPED_POLICIES else str(path)


def _stamp(path: Path) -> tuple[int, int]:
    try:
        found = path.stat()
    except OSError:
        return (0, 0)
    return (found.st_mtime_ns, found.st_ino)


def _address(entrance: Entrance) -> str:
    if entrance.socket is None:
        return "-"
    host, port = entrance.socket.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _directory_key(settings: Settings) -> bytes:
    """A secret that lives beside the ledger: digests of equal values stay equal for as long as it does."""
    path = settings.audit.directory / _DIGEST_KEY
    try:
        key = path.read_bytes()
    except FileNotFoundError:
        key = secrets.token_bytes(32)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(key)
    if len(key) != 32:
        raise StartError(f"{path} is damaged: move it away, and a new key will be made")
    return key


def _digest_key(settings: Settings) -> bytes | None:
    """How bound parameters are recorded, as Session wants it."""
    match settings.audit.parameters:
        case Parameters.VALUES:
            return None
        case Parameters.OFF:
            return b""
        case Parameters.DIGEST:
            return hashlib.sha256(b"parameters" + _directory_key(settings)).digest()


def serve(settings_path: Path, on_ready: Callable[[list[str]], None]) -> int:
    """Run the proxy until it is stopped. Raises ConfigError or DbproxyError if it cannot start."""
    settings = load_settings(settings_path)

    async def main() -> int:
        return await App(settings_path, settings).run(on_ready)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main())


__all__ = ["App", "DbproxyError", "serve"]
