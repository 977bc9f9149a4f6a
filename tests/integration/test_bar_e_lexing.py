"""SECURITY_BAR E2, E11, E12 on MariaDB: text that reads one way here and another way there must not get at what is forbidden.

Each text is first run on the server itself, in the same state: those that do there what is forbidden are the ones that count.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from random import Random
from typing import Any

import pymysql
import pytest
from pymysql.constants import CLIENT, COMMAND
from support.figures import record, scaled
from support.my_proxy import MySQLProxy, running_mysql_proxy
from support.my_servers import MySQLServer

pytestmark = pytest.mark.integration
POLICY = """
version: 1
defaults: {action: allow, unsafe_on_unparsable: allow, unsafe_on_dynamic: allow, on_error: block}
rules:
  - {name: no-secrets, match: {table: ["*.secrets"]}, action: block, severity: high}
  - {name: no-destruction, match: {flag: [ddl_destructive, truncate]}, action: block, severity: high}
"""
STRICT = POLICY.replace("unsafe_on_unparsable: allow, ", "on_unparsable: block, ")
"""Stored code may run, for one of the ways to change the mode is in a routine; what cannot be read is refused."""
CANARY = b"classified"
MODES = (
    "",
    "ANSI_QUOTES",
    "NO_BACKSLASH_ESCAPES",
    "PIPES_AS_CONCAT",
    "ANSI_QUOTES,NO_BACKSLASH_ESCAPES,PIPES_AS_CONCAT",
)
CHARSETS = ("gbk", "sjis", "big5", "cp932", "latin1", "utf8mb4", "gb2312", "euckr", "ujis", "eucjpms")
LEADS = (b"\xbf", b"\x83", b"\xa4", b"\x95", b"\xe5", b"\xf0\x9f", b"\x8f\xa2", b"\xff", b"\x81", b"\xfe")


@pytest.fixture(scope="module")
def proxy(mariadb: MySQLServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MySQLProxy]:
    mariadb.execute("create database if not exists test")
    mariadb.execute(
        "create or replace table secrets (id int, value text)",
        "insert into secrets values (1, 'classified-1')",
        "create or replace procedure set_mode(m varchar(200)) set session sql_mode = m",
        database="test",
    )
    with running_mysql_proxy(tmp_path_factory.mktemp("lexing"), mariadb, policy=STRICT) as running:
        yield running


def run(connection: Any, text: bytes) -> bytes:
    """Everything that comes back, errors included."""
    try:
        connection._execute_command(COMMAND.COM_QUERY, text)
        said = b""
        while True:
            packet = connection._read_packet()
            said += packet.get_all_data()
            if packet.is_ok_packet():
                more = pymysql.connections.OKPacketWrapper(packet).has_next
            else:
                more = _rest(connection)
                said += more[1]
                more = more[0]
            if not more:
                return said
    except pymysql.err.MySQLError as error:
        return f"error {error.args[0]}".encode()


def _rest(connection: Any) -> tuple[bool, bytes]:
    """(whether another result follows, the packets) of a result set after its first packet."""
    said, ends = b"", 0
    while True:
        packet = connection._read_packet()
        data = packet.get_all_data()
        said += data
        if data[:1] == b"\xfe" and len(data) == 5:
            ends += 1
            if ends == 2:
                return bool(data[3] & 8), said


@contextlib.contextmanager
def pair(proxy: MySQLProxy, **options: Any) -> Iterator[tuple[Any, Any]]:
    """A direct connection of the same account and one through the proxy, in the same state."""
    defaults = {"client_flag": CLIENT.MULTI_STATEMENTS}
    with (
        contextlib.closing(proxy.server.connect("test", "app", **{**defaults, **options})) as direct,
        proxy.connect(database="test", **{**defaults, **options}) as proxied,
    ):
        yield direct, proxied


def compare(direct: Any, proxied: Any, texts: Sequence[bytes]) -> tuple[int, int]:
    """(how many do what is forbidden when run directly, how many of all do it through the proxy)."""
    effective = failures = 0
    for text in texts:
        effective += CANARY in run(direct, text)
        failures += CANARY in run(proxied, text)
    return effective, failures


PAYLOADS = (
    b" union select value from secrets",
    b", (select group_concat(value) from secrets)",
    b" , value from secrets",
)
PIECES = (
    b"'", b"'", b'"', b'"', b"`", b"\\", b"\\'", b'\\"', b"''", b'""', b"\\\\", b"/*", b"*/", b"-- ", b"#", b"\n", b" ", b"a", b"||", b"||'x'",
)  # fmt: skip


def tricky(rng: Random, leads: Sequence[bytes] = ()) -> bytes:
    """A select whose strings end in different places in different readings, with something forbidden in one of them."""
    payload = rng.choice(PAYLOADS)
    end = rng.choice((b"-- ", b"#", b"/*", b"-- '", b'# "', b""))
    lead = rng.choice(leads) if leads else b""
    match rng.randrange(6):
        case 0:
            return b"select '" + lead + b"\\'" + payload + b" " + end + b" '"
        case 1:
            return b'select "' + lead + b'\\"' + payload + b" " + end + b' "'
        case 2:
            return b"select '" + lead + b"\\\\'" + payload + b" " + end
        case 3:
            return b'select 1 as "a' + lead + b'\\"' + payload + b" " + end + b'"'
        case 4:
            return b"select '" + lead + b"' '" + lead + b"\\'" + payload + b" -- '"
    junk = [*rng.choices((*PIECES, *(lead + each for each in (b"\\", b"'", b""))), k=rng.randrange(1, 6))]
    return b"select " + rng.choice((b"'", b'"')) + b"".join(junk) + payload + b" " + end + rng.choice((b"", b"'", b'"'))


def settle(proxy: MySQLProxy, direct: Any, proxied: Any, way: int, mode: str) -> None:
    """Bring both connections into this mode, in one of the ways there are."""
    texts = (
        f"set sql_mode = '{mode}'",
        f"set @@session.sql_mode = concat('{mode}', '')",
        f"call set_mode('{mode}')",
        f"prepare p from \"set sql_mode = '{mode}'\"; execute p; deallocate prepare p",
        f"set @m = '{mode}', sql_mode = @m",
    )
    for connection in (direct, proxied):
        run(connection, b"set sql_mode = ''")
        run(connection, texts[way % len(texts)].encode())


def test_the_sql_mode_in_force_decides_where_strings_end(proxy: MySQLProxy) -> None:
    count = scaled(500, 5000)
    rng = Random(11)
    tried = effective = failures = settled = 0
    with pair(proxy) as (direct, proxied):
        while tried < count:
            mode = rng.choice(MODES)
            settle(proxy, direct, proxied, rng.randrange(5), mode)
            shown = [run(each, b"select @@sql_mode") for each in (direct, proxied)]
            settled += shown[0] == shown[1]
            texts = [tricky(rng) for _ in range(10)]
            if rng.random() < 0.3:  # the change and what it changes in one
                texts = [f"set sql_mode = '{rng.choice(MODES)}'; ".encode() + text for text in texts]
            here = compare(direct, proxied, texts)
            tried, effective, failures = tried + len(texts), effective + here[0], failures + here[1]
    for option in ("sql_mode", "init_connect"):
        for mode in MODES[1:3]:
            value = mode if option == "sql_mode" else f'set sql_mode="{mode}"'
            before = proxy.server.fetch(f"select @@global.{option}")[0][0]
            proxy.server.execute(f"set global {option} = '{value}'")
            try:
                with pair(proxy, sql_mode=None) as (direct, proxied):
                    texts = [tricky(rng) for _ in range(25)]
                    here = compare(direct, proxied, texts)
                    tried, effective, failures = tried + len(texts), effective + here[0], failures + here[1]
            finally:
                proxy.server.execute(f"set global {option} = '{before}'")
    assert settled > tried / 40
    assert effective > tried / 20
    record("E11", "strings that end elsewhere for the server and let something forbidden pass", count=tried, failures=failures, effective=effective)  # fmt: skip


def test_the_character_set_in_force_decides_where_strings_end(proxy: MySQLProxy) -> None:
    count = scaled(500, 5000)
    rng = Random(12)
    tried = effective = failures = 0
    ways = (
        "set names {}",
        "set character_set_client = {}",
        "set @@character_set_client = '{}'",
        "set character set {}",
    )
    while tried < count:
        charset = rng.choice(CHARSETS)
        at_login = rng.random() < 0.3
        options = {"charset": charset} if at_login and charset in ("gbk", "sjis", "big5", "latin1", "gb2312") else {}
        with pair(proxy, **options) as (direct, proxied):
            for _ in range(3):
                if not options:
                    way = rng.choice(ways).format(rng.choice(CHARSETS)).encode()
                    for connection in (direct, proxied):
                        run(connection, way)
                texts = [tricky(rng, LEADS) for _ in range(10)]
                if rng.random() < 0.2:
                    texts = [b"set names " + rng.choice(CHARSETS).encode() + b"; " + text for text in texts]
                here = compare(direct, proxied, texts)
                tried, effective, failures = tried + len(texts), effective + here[0], failures + here[1]
                options = {}
    assert effective > tried / 20
    record("E12", "strings in other character sets that let something forbidden pass", count=tried, failures=failures, effective=effective)  # fmt: skip


def commented(rng: Random, version: int) -> str:
    """A DROP in a comment that servers of some versions run."""
    number = rng.choice(
        ("", "50000", "40000", "100000", "50699", "50700", "50799", "50800", "80000", "99999", "100100", "999999", "0", "00000", "5000", "1000000",
         *(f"{version + each}" for each in (-1, 0, 1)))
    )  # fmt: skip
    mark = rng.choice(("!", "M!", "m!", " !", "+", "*!")) + number
    gap = rng.choice((" ", "", "\n", "\t", "/**/", " /* x */ "))
    body = rng.choice(
        (
            "DROP TABLE victim",
            "drop/**/table victim",
            "DROP TABLE IF EXISTS victim",
            "TRUNCATE victim",
            "DROP TABLES victim",
        )
    )
    match rng.randrange(8):
        case 0:
            return f"/*{mark}{gap}{body}*/"
        case 1:
            return f"/*{mark}{gap}{body} */ ;"
        case 2:
            words = body.split(" ", 1)
            return f"{words[0]}{gap}/*{mark} {words[-1] if len(words) > 1 else ''}*/"
        case 3:
            return f"DR/*{mark}*/OP TABLE victim"
        case 4:
            return f"/*{mark}{gap}select 1 */; {body}"
        case 5:
            return f"select 1 /*{mark}{gap}; {body} */"
        case 6:
            return f"/*{mark} /*{rng.choice(('!', '!50000', ' '))} {body} */ */"
    return f"/*{mark}{gap}*/ {body} /* {rng.choice(('', '!', '*'))} */"


def test_what_the_server_runs_in_a_comment_is_judged(proxy: MySQLProxy) -> None:
    count = scaled(300, 3000)
    rng = Random(2)
    effective = failures = 0
    version = 101119
    proxy.server.execute("create or replace table victim (id int)", "insert into victim values (1)", database="test")
    with pair(proxy) as (direct, proxied), contextlib.closing(proxy.server.connect("test")) as watcher:
        for _ in range(count):
            text = commented(rng, version).encode()
            run(direct, text)
            effective += _restore(watcher)
            run(proxied, text)
            failures += _restore(watcher)
    assert effective > count / 10
    record(
        "E2",
        "tables dropped or emptied by what looks like a comment",
        count=count,
        failures=failures,
        effective=effective,
    )


def _restore(watcher: Any) -> bool:
    """Whether the table was dropped or emptied; it is there again with its row afterwards."""
    with watcher.cursor() as cursor:
        cursor.execute("show tables like 'victim'")
        if cursor.fetchall():
            cursor.execute("select count(*) from victim")
            if cursor.fetchone() == (1,):
                return False
        cursor.execute("create or replace table victim (id int)")
        cursor.execute("insert into victim values (1)")
        return True
