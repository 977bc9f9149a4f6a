"""DESIGN §4 "lexing depends on state": no switch of quoting or encoding, however made, hides what a text does.

Each hidden text reads the protected table if the server reads it in one way, and is harmless in the other. Whatever
the proxy thinks, the server must never be seen to have returned a row of it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
from support import pg_bytes as pg
from support.bar import POLICY
from support.figures import record
from support.proxy import Proxy
from support.raw_client import RawClient, logged_in, rows
from support.servers import Database

pytestmark = pytest.mark.workers(1)

SYNC = pg.sync()
# With standard_conforming_strings off the string ends at the second quote from the right.
HIDDEN_OFF = b"select 'a\\', $$ ', value from secrets --$$"
# With it on the string ends at the backslash's quote.
HIDDEN_ON = b"select 'a\\', value from secrets --'"
OFF = "standard_conforming_strings"


def simple(text: str | bytes) -> bytes:
    return pg.query(text)


def extended(text: str | bytes) -> bytes:
    return pg.parse("", text) + pg.bind() + pg.execute() + SYNC


def in_group(text: str | bytes) -> bytes:
    return pg.parse("", text) + pg.bind() + pg.execute()


SWITCHES: dict[str, list[bytes]] = {
    "SET": [simple(f"set {OFF} = off")],
    "SET in the extended protocol": [extended(f"set {OFF} = off")],
    "SET in the group of what follows": [in_group(f"set {OFF} = off")],
    "set_config": [simple(f"select set_config('{OFF}', 'off', false)")],
    "set_config in the group of what follows": [in_group(f"select set_config('{OFF}', 'off', false)")],
    "set_config of a name put together": [
        simple("select set_config('standard_' || 'conforming_strings', 'of' || 'f', false)")
    ],
    "set_config in the group, name put together": [
        in_group("select set_config(n, 'off', false) from (values ('standard_conforming_strings')) x(n)")
    ],
    "SET LOCAL": [simple("begin"), simple(f"set local {OFF} = off")],
    "SET then a rollback to a savepoint": [
        simple("begin"),
        simple(f"set {OFF} = off"),
        simple("savepoint s"),
        simple(f"set {OFF} = on"),
        simple("rollback to s"),
    ],
    "SET rolled back": [simple(f"set {OFF} = off"), simple("begin"), simple(f"set {OFF} = on"), simple("rollback")],
    "several in one Query": [simple(f"select 1; set {OFF} = off; select 2")],
    "UPDATE of pg_settings": [simple(f"update pg_settings set setting = 'off' where name = '{OFF}'")],
    "SET with odd spelling": [simple(f"/**/SeT/**/sEsSiOn/**/\"{OFF}\"/**/TO/**/'of'\n'f'")],
    "reset of a start-up setting": [simple(f"set {OFF} = on"), simple(f"reset {OFF}")],
    "reset all": [simple(f"set {OFF} = on"), simple("reset all")],
    "discard all": [simple(f"set {OFF} = on"), simple("discard all")],
}
START_OFF = {"reset of a start-up setting", "reset all", "discard all"}


def leaks(
    proxy: Proxy, database: Database, frames: list[bytes], parameters: list[tuple[str, str]], *, one_write: bool
) -> bool:
    """Whether any row of the protected table came out of this conversation."""
    client = RawClient.open(proxy.host, proxy.port, 20)
    try:
        client.login(proxy.address(database=database.name), parameters)
        everything = [*frames, SYNC]
        if one_write:
            client.send(b"".join(everything))
        count = sum(kind in "QS" for kind, _ in pg.split(b"".join(everything)))
        if not one_write:
            messages = []
            for frame in everything:
                client.send(frame)
                readies = sum(kind in "QS" for kind, _ in pg.split(frame))
                messages += client.ready(readies) if readies else []
        else:
            messages = client.ready(count)
        return any(b"classified" in (value or b"") for row in rows(messages) for value in row)
    finally:
        client.close()


@pytest.mark.parametrize("version", ["newest", "older"])
def test_switching_how_strings_are_read_hides_nothing(
    request: pytest.FixtureRequest, strict_proxy: Proxy, older_proxy: Proxy, version: str
) -> None:
    database: Database = request.getfixturevalue("vault" if version == "newest" else "vault_tls")
    proxy = strict_proxy if version == "newest" else older_proxy
    found = []
    count = 0
    for (name, frames), send, hidden, one_write in itertools.product(
        SWITCHES.items(), (simple, extended), (HIDDEN_OFF, HIDDEN_ON), (True, False)
    ):
        parameters = [(OFF, "off")] if name in START_OFF else []
        count += 1
        if leaks(proxy, database, [*frames, send(hidden)], parameters, one_write=one_write):
            found.append((name, send.__name__, hidden, one_write))
    record(
        f"D.lexing.postgres{database.server.major}",
        "protected rows read by a text whose quoting was switched",
        count=count,
        failures=len(found),
        which=[str(each) for each in found],
    )


# In these the second byte of a character may be a backslash or a quote's neighbour; the server converts before it lexes.
ENCODED: dict[str, list[bytes]] = {
    "SJIS": [b"select E'\x83\x5c', value from secrets --'", b"select E'\x83\x5c\x5c', $$', value from secrets --$$"],
    "BIG5": [b"select E'\xa5\x5c', value from secrets --'", b"select E'\xa5\x5c\x5c', $$', value from secrets --$$"],
    "GBK": [b"select E'\xbf\x5c', value from secrets --'", b"select E'\xbf\x5c\x5c', $$', value from secrets --$$"],
    "GB18030": [b"select E'\x81\x5c', value from secrets --'", b"select E'\xbf\x5c', value from secrets --'"],
    "UHC": [b"select E'\x81\x5c', value from secrets --'"],
    "JOHAB": [b"select E'\x88\x5c', value from secrets --'"],
    "LATIN1": [b"select E'\xe9\x5c', $$', value from secrets --$$", b"select '\xe9' , value from secr\x65ts"],
}


@pytest.mark.parametrize("is_startup", [True, False], ids=["at start-up", "later"])
def test_multibyte_encodings_hide_no_quotes(strict_proxy: Proxy, vault: Database, is_startup: bool) -> None:
    found = []
    count = 0
    for encoding, texts in ENCODED.items():
        for text, send, one_write in itertools.product(texts, (simple, extended), (True, False)):
            for off in (False, True):
                count += 1
                hidden = text.replace(b"E'", b"'", 1) if off else text
                parameters = [(OFF, "off")] if off else []
                frames = [send(hidden)]
                if is_startup:
                    parameters.append(("client_encoding", encoding))
                else:
                    frames.insert(0, simple(f"set client_encoding to '{encoding}'"))
                if leaks(strict_proxy, vault, frames, parameters, one_write=one_write):
                    found.append((encoding, hidden, send.__name__, one_write))
    record(
        f"D.encoding.{'startup' if is_startup else 'later'}",
        "protected rows read by a text that another encoding splits otherwise",
        count=count,
        failures=len(found),
        which=[str(each) for each in found],
    )


def test_the_hidden_texts_do_read_the_table(vault: Database) -> None:
    """The premise: sent to the server itself, each of them finds its rows in the state that it is made for."""
    for value, hidden in (("off", HIDDEN_OFF), ("on", HIDDEN_ON)):
        with logged_in(vault.server.address(vault.name), [(OFF, value)]) as client:
            assert any(b"classified" in (field or b"") for row in rows(client.query(hidden)) for field in row)
    hits = 0
    for encoding, texts in ENCODED.items():
        for text in texts:
            with logged_in(vault.server.address(vault.name), [("client_encoding", encoding)]) as client:
                hits += any(b"classified" in (field or b"") for row in rows(client.query(text)) for field in row)
    assert hits >= 6


def test_switching_hides_nothing_where_opaque_code_is_allowed(
    make_proxy: Callable[..., Proxy], vault: Database
) -> None:
    """As above, with a policy that lets every switch through."""
    proxy = make_proxy(policy=POLICY.replace("on_dynamic: block", "unsafe_on_dynamic: allow"), database=vault.name)
    vault.execute(
        "set role app; create function turn() returns void language plpgsql as "
        "$$ begin perform set_config('standard_conforming_strings', 'off', false); end $$"
    )
    opaque = {
        "function": [simple("select turn()")],
        "function in the group": [in_group("select turn()")],
        "DO": [simple("do $$ begin set standard_conforming_strings = off; end $$")],
        "DO in the group": [in_group("do $$ begin set standard_conforming_strings = off; end $$")],
    }
    found = []
    count = 0
    for (name, frames), send, hidden, one_write in itertools.product(
        {**SWITCHES, **opaque}.items(), (simple, extended), (HIDDEN_OFF, HIDDEN_ON), (True, False)
    ):
        count += 1
        parameters = [(OFF, "off")] if name in START_OFF else []
        if leaks(proxy, vault, [*frames, send(hidden)], parameters, one_write=one_write):
            found.append((name, send.__name__, hidden, one_write))
    record(
        "D.lexing.opaque",
        "protected rows read by a text whose quoting was switched by opaque code",
        count=count,
        failures=len(found),
        which=[str(each) for each in found],
    )
