"""The proxy as the integration tests run it: starts, records, reloads, ends."""

from __future__ import annotations

from collections.abc import Callable

import psycopg
import pytest
from support.bar import reload_policy
from support.proxy import Proxy
from support.servers import PASSWORDS, Database, PostgresServer

pytestmark = pytest.mark.workers(1)

ALLOW = """
version: 1
defaults: {action: allow, on_unparsable: block, on_dynamic: block, on_error: block}
rules:
  - {name: no-customers, match: {table: ["public.customers"]}, action: block, severity: high}
"""


def test_statement_through_the_proxy_is_recorded_before_and_after(observe_proxy: Proxy, database: Database) -> None:
    with observe_proxy.connect(database=database.name) as connection:
        assert connection.execute("select count(*) from orders").fetchone() == (1000,)
    intent = observe_proxy.wait_for_record(
        lambda each: each["type"] == "statement.intent" and each.get("sql") == "select count(*) from orders"
    )
    outcome = observe_proxy.wait_for_record(
        lambda each: (
            each["type"] == "statement.outcome"
            and (each["session"], each["statement"]) == (intent["session"], intent["statement"])
        )
    )
    assert intent["seq"] < outcome["seq"]
    assert (intent["person"], intent["database"]) == ("alice", database.name)
    assert database.statements() == ["select count(*) from orders"]


def test_policy_given_as_text_blocks_and_a_reload_changes_it(
    make_proxy: Callable[..., Proxy], database: Database
) -> None:
    proxy = make_proxy(policy=ALLOW, database=database.name)
    with proxy.connect() as connection:
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match='blocked by rule "no-customers"'):
            connection.execute("select count(*) from customers")
        reload_policy(proxy, ALLOW.replace("customers", "nothing"))
        assert connection.execute("select count(*) from customers").fetchone() == (200,)


def test_proxy_answers_health_and_metrics_and_ends_on_sigterm(
    make_proxy: Callable[..., Proxy], database: Database
) -> None:
    proxy = make_proxy(database=database.name)
    with proxy.connect() as connection:
        connection.execute("select 1")
    assert proxy.get("/healthz")[0] == 200
    assert "# TYPE dbproxy" in proxy.get("/metrics")[1]
    assert proxy.stop() == 0
    assert [each["type"] for each in proxy.records()][-3:] == ["proxy.stop", "checkpoint", "segment.end"]


@pytest.mark.parametrize("user", ["alice", "bob", "carol", "alice+app", "alice%app"])
def test_people_reach_the_server_as_their_account(observe_proxy: Proxy, database: Database, user: str) -> None:
    with observe_proxy.connect(user, database.name) as connection:
        assert connection.execute("select current_user").fetchone() == ("app",)


def test_proxy_reaches_a_server_with_tls_under_every_way_to_log_in(
    make_proxy: Callable[..., Proxy], postgres_tls: PostgresServer, database_tls: Database
) -> None:
    accounts = tuple(PASSWORDS)
    proxy = make_proxy(postgres_tls, database=database_tls.name, accounts=accounts)
    for account in accounts:
        with proxy.connect(f"alice+{account}") as connection:
            user, has_tls = connection.execute(
                "select current_user, ssl from pg_stat_ssl where pid = pg_backend_pid()"
            ).fetchone() or ("", False)
        assert (user, has_tls) == (account, True)
