"""Fixtures for every test: real servers, started when first asked for and once per run.

ENGINES names the database engines that a run must have (comma-separated, default all): an engine that is
named and missing fails the run, one that is not named is left out and the summary says so.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import hypothesis
import pytest
from support import canaries
from support.figures import report
from support.my_servers import MySQLServer, running_mariadb, running_mysql
from support.own_roles import proxy_with_own_roles
from support.proxy import Proxy, running_proxy
from support.requirements import go_without
from support.servers import Database, PostgresServer, fresh_database, newest_postgres, postgres_with_tls
from support.two_ways import TwoWays

from dbproxy.embedded.errors import EmbeddedServerError

KNOWN_ENGINES = ("postgres", "mariadb")
UNIT = "not integration and not bench and not slow"
"""What `make unit` asks for."""
# Thousands of cases, or processes and sockets of their own: part of `make test`, not of `make unit`, which stays under 10 s.
SLOW = {
    "classifiers/test_denial_of_service.py",
    "classifiers/test_fuzz_postgres.py",
    "classifiers/test_limits.py",
    "classifiers/test_properties_postgres.py",
    "classifiers/test_recorded_tools.py",
    "dbproxy/audit/test_compress.py",
    "dbproxy/audit/test_compressor.py",
    "dbproxy/audit/test_ledger.py",
    "dbproxy/audit/test_slots.py",
    "dbproxy/audit/test_verify.py",
    "dbproxy/audit/test_verify_proof.py",
    "dbproxy/audit/test_verify_witness.py",
    "dbproxy/cli/test_classify.py",
    "dbproxy/cli/test_settings_commands.py",
    "dbproxy/policy/test_decide_reference.py",
    "dbproxy/store/test_contract.py",
    "dbproxy/store/test_sqlite.py",
    "dbproxy/test_classifier_pool.py",
    "dbproxy/test_control.py",
    "dbproxy/test_runs.py",
    "dbproxy/test_supervisor.py",
    "dbproxy/test_siblings.py",
    "dbproxy/test_turn.py",
    "dbproxy/test_wheel.py",
    "protocol/mysql/test_fuzz.py",
    "protocol/postgres/test_fuzz.py",
    "protocol/postgres/test_fuzz_counts.py",
    "protocol/postgres/test_relay_model.py",
    "test_docs.py",
}
# A machine that is busy with other things is no finding, so examples have no deadline of their own.
hypothesis.settings.register_profile("unit", max_examples=40, deadline=None)
hypothesis.settings.register_profile("all", max_examples=400, deadline=None)
_USED = pytest.StashKey[list[str]]()
_NUMBERS = itertools.count(1)
_STARTED = time.perf_counter()


def _engines() -> tuple[str, ...]:
    return tuple(name.strip() for name in os.environ.get("ENGINES", ",".join(KNOWN_ENGINES)).split(",") if name.strip())


def pytest_configure(config: pytest.Config) -> None:
    unknown = sorted(set(_engines()) - set(KNOWN_ENGINES))
    if unknown:
        raise pytest.UsageError(f"ENGINES names {', '.join(unknown)}; known: {', '.join(KNOWN_ENGINES)}")
    config.stash[_USED] = []
    _keep_bytecode(config)
    hypothesis.settings.load_profile("unit" if _is_unit(config) else "all")


def _is_unit(config: pytest.Config) -> bool:
    return bool(config.option.markexpr == UNIT)


def _keep_bytecode(config: pytest.Config) -> None:
    """A run starts a thousand Python processes: where Python is told to write no bytecode, they keep theirs aside.

    Otherwise each of them would compile all of the proxy anew.
    """
    if os.environ.pop("PYTHONDONTWRITEBYTECODE", ""):
        aside = os.environ.setdefault("PYTHONPYCACHEPREFIX", str(config.rootpath / ".pytest_cache" / "bytecode"))
        sys.dont_write_bytecode, sys.pycache_prefix = False, aside


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """The unit part does not even import what it leaves out."""
    tests = config.rootpath / "tests"
    if not _is_unit(config) or not collection_path.is_relative_to(tests):
        return None
    inside = collection_path.relative_to(tests)
    return inside.as_posix() in SLOW or inside.parts[:1] in (("integration",), ("bench",), ("suites",)) or None


def pytest_collection_finish() -> None:
    """Thousands of tests and what they import stay until the end: the garbage collector need not look at them again and again."""
    gc.collect()
    gc.freeze()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    tests = config.rootpath / "tests"
    for item in items:
        inside = item.path.relative_to(tests) if item.path.is_relative_to(tests) else Path()
        if inside.parts[:1] == ("integration",):
            item.add_marker(pytest.mark.integration)
        elif inside.parts[:1] == ("bench",):
            item.add_marker(pytest.mark.bench)
        elif inside.as_posix() in SLOW:
            item.add_marker(pytest.mark.slow)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    left_out = [name for name in KNOWN_ENGINES if name not in _engines()]
    if config.stash[_USED] or left_out:
        terminalreporter.section("database servers")
    for line in config.stash[_USED]:
        terminalreporter.line(line)
    if _is_unit(config):
        used = sum(os.times()[:4])
        took_s = time.perf_counter() - _STARTED
        terminalreporter.line(
            f"unit part: {took_s:.1f} s, of the processors {used:.1f} s; at most 10 s on a quiet machine"
        )
    if left_out:
        terminalreporter.line(f"left out by ENGINES={os.environ.get('ENGINES', '')}: {', '.join(left_out)}")


def pytest_sessionfinish() -> None:
    """The figure of support.canaries; each leak has failed its own test already."""
    looked = canaries.looked
    if looked["proxies"]:
        report(
            "B10.suite",
            "secrets in what the proxies of a whole run wrote",
            count=looked["searches"],
            failures=looked["leaks"],
            proxies=looked["proxies"],
            places=looked["places"],
        )


def _require(engine: str) -> None:
    if engine not in _engines():
        pytest.skip(f"ENGINES leaves out {engine}")


def _missing(error: EmbeddedServerError) -> NoReturn:
    go_without(str(error))


@pytest.fixture(scope="session")
def postgres(request: pytest.FixtureRequest) -> Iterator[PostgresServer]:
    """The newest PostgreSQL to be had, with log_statement=all; not necessarily with TLS."""
    _require("postgres")
    used = request.config.stash[_USED]
    try:
        with newest_postgres(used.append) as server:
            used.append(f"PostgreSQL {server.version}: {server.source}")
            yield server
    except EmbeddedServerError as error:
        _missing(error)


@pytest.fixture(scope="session")
def postgres_tls(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    """A PostgreSQL with TLS on and accounts for every way to log in."""
    _require("postgres")
    try:
        with postgres_with_tls(tmp_path_factory.mktemp("postgres-tls")) as server:
            request.config.stash[_USED].append(f"PostgreSQL {server.version} with TLS: {server.source}")
            yield server
    except EmbeddedServerError as error:
        _missing(error)


@pytest.fixture(scope="session")
def mariadb(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MySQLServer]:
    """The system's MariaDB with TLS and the general log on."""
    _require("mariadb")
    try:
        with running_mariadb(tmp_path_factory.mktemp("mariadb")) as server:
            request.config.stash[_USED].append(f"MariaDB {server.version}: {server.source}")
            yield server
    except EmbeddedServerError as error:
        _missing(error)


@pytest.fixture(scope="session", params=["mariadb", *(["mysql"] if os.environ.get("MYSQLD") else [])])
def mysql_server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MySQLServer]:
    """MariaDB, and MySQL where $MYSQLD names its server program."""
    if request.param == "mariadb":
        yield request.getfixturevalue("mariadb")
        return
    with running_mysql(tmp_path_factory.mktemp("mysql")) as server:
        request.config.stash[_USED].append(f"MySQL {server.version}: {server.source}")
        yield server


@pytest.fixture
def database(postgres: PostgresServer) -> Iterator[Database]:
    """A fresh database with the sample shop on the newest PostgreSQL."""
    with fresh_database(postgres, f"test_{next(_NUMBERS)}") as fresh:
        yield fresh


@pytest.fixture
def database_tls(postgres_tls: PostgresServer) -> Iterator[Database]:
    """A fresh database with the sample shop on the PostgreSQL with TLS."""
    with fresh_database(postgres_tls, f"test_{next(_NUMBERS)}") as fresh:
        yield fresh


@pytest.fixture
def make_proxy(
    request: pytest.FixtureRequest, tmp_path: Path, postgres: PostgresServer
) -> Iterator[Callable[..., Proxy]]:
    """Start proxies, by default in front of the newest server; arguments as for support.proxy.running_proxy.

    The marker `workers` says for a module or a test how many workers they have, where more than one shows nothing more.
    """
    marker = request.node.get_closest_marker("workers")
    workers = marker.args[0] if marker is not None else None
    with contextlib.ExitStack() as stack:

        def make(server: PostgresServer = postgres, **options: Any) -> Proxy:
            folder = tmp_path / f"proxy-{next(_NUMBERS)}"
            return stack.enter_context(running_proxy(folder, server, **{"workers": workers, **options}))

        yield make


@pytest.fixture(scope="session")
def observe_proxy(postgres: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    """One proxy for the whole run, in front of the newest server, that records everything and refuses nothing."""
    with running_proxy(tmp_path_factory.mktemp("observe"), postgres, policy="observe") as proxy:
        yield proxy


@pytest.fixture(scope="session")
def two_ways(postgres: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TwoWays]:
    """The newest server, direct and through a proxy under `observe`, without TLS."""
    with proxy_with_own_roles(tmp_path_factory.mktemp("two-ways"), postgres, change=_without_banner) as proxy:
        yield TwoWays(postgres, proxy, has_tls=False)


@pytest.fixture(scope="session")
def two_ways_tls(postgres_tls: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TwoWays]:
    """The server with TLS, direct and through a proxy under `observe`, verified TLS on every leg."""
    with proxy_with_own_roles(tmp_path_factory.mktemp("two-ways"), postgres_tls, change=_without_banner) as proxy:
        yield TwoWays(postgres_tls, proxy, has_tls=True)


def _without_banner(settings: dict[str, Any]) -> None:
    settings["session"] = {"banner": ""}  # the only thing that is meant to be seen


@pytest.fixture(scope="session")
def project_root() -> Path:
    return Path(__file__).resolve().parent.parent
