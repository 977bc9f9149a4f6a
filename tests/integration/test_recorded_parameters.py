"""What the audit trail keeps of bound parameters, as `audit.parameters` says."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from support.proxy import Proxy
from support.servers import Database

pytestmark = pytest.mark.workers(1)


@pytest.mark.parametrize(("kept", "shown"), [("values", {"value": "41"}), ("digest", {}), ("off", None)])
def test_parameters_are_recorded_as_the_settings_say(
    make_proxy: Callable[..., Proxy], database: Database, kept: str, shown: dict[str, str] | None
) -> None:
    proxy = make_proxy(database=database.name, change=lambda settings: settings["audit"].update(parameters=kept))
    with proxy.connect("alice", database.name) as connection:
        connection.execute("SELECT %s::int + %s::int", (41, None))
    found = [record for record in proxy.records("statement.intent") if "$1" in record.get("sql", "")]
    if shown is None:
        assert [record["parameter_count"] for record in found] == [2]
        assert "parameters" not in found[0]
        return
    first, second = found[0]["parameters"]
    assert {key: first[key] for key in ("value",) if key in first} == shown
    assert ("digest" in first) == (kept == "digest")
    assert second["size"] is None
