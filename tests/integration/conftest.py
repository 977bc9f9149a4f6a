"""Fixtures of the integration tests: one proxy with something to refuse, and a database with something to protect."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.bar import OPEN_POLICY, POLICY, prepare
from support.proxy import Proxy, running_proxy
from support.servers import Database, PostgresServer


@pytest.fixture(scope="session")
def strict_proxy(postgres: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    """One proxy for the whole run, in front of the newest server, with the policy of support.bar."""
    with running_proxy(tmp_path_factory.mktemp("strict"), postgres, policy=POLICY) as proxy:
        yield proxy


@pytest.fixture(scope="session")
def open_proxy(postgres: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    """As strict_proxy, with the policy that lets opaque code pass."""
    with running_proxy(tmp_path_factory.mktemp("open"), postgres, policy=OPEN_POLICY, workers=1) as proxy:
        yield proxy


@pytest.fixture(scope="session")
def default_proxy(postgres: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    """As strict_proxy, with the shipped policy."""
    with running_proxy(tmp_path_factory.mktemp("default"), postgres, policy="default", workers=1) as proxy:
        yield proxy


@pytest.fixture
def vault(database: Database) -> Database:
    """A fresh database with the tables `secrets`, which support.bar's policy protects, and `notes`."""
    return prepare(database)


@pytest.fixture
def vault_tls(database_tls: Database) -> Database:
    """As vault, on the older server with TLS."""
    return prepare(database_tls)


@pytest.fixture(scope="session")
def older_proxy(postgres_tls: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    """As strict_proxy, in front of the server with TLS, which is the system's older version where there are two."""
    with running_proxy(tmp_path_factory.mktemp("older"), postgres_tls, policy=POLICY) as proxy:
        yield proxy
