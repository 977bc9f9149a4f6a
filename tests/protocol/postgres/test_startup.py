"""Start-up packets: bytes in, values out; SECURITY_BAR A1 and B8 as tables."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from support import pg_bytes as pg

from protocol.errors import MalformedMessage, ProtocolError
from protocol.login import LoginRefused
from protocol.postgres.startup import (
    CancelRequest,
    GSSENCRequest,
    SSLRequest,
    StartupMessage,
    packet_size,
    parse_options,
    parse_packet,
    startup_settings,
)


def parse(packet: bytes) -> StartupMessage:
    found = parse_packet(packet[4:])
    assert isinstance(found, StartupMessage)
    return found


def parse_pairs(*pairs: tuple[str, str]) -> StartupMessage:
    return parse(pg.startup([("user", "alice"), *pairs]))


@pytest.mark.parametrize("length", [0, 3, 4, 7, 10_001, 2**31 - 1, 2**31, 2**32 - 1])
def test_impossible_packet_length_is_refused_before_the_body_is_read(length: int) -> None:
    with pytest.raises(MalformedMessage):
        packet_size(length.to_bytes(4, "big"))


@pytest.mark.parametrize("length", [8, 10_000])
def test_packet_length_at_the_limits_is_accepted(length: int) -> None:
    assert packet_size(length.to_bytes(4, "big")) == length


def test_requests_are_told_apart() -> None:
    assert parse_packet(pg.ssl_request()[4:]) == SSLRequest()
    assert parse_packet(pg.gssenc_request()[4:]) == GSSENCRequest()
    assert parse_packet(pg.cancel_request(7, b"abcd")[4:]) == CancelRequest(7, b"abcd")


@pytest.mark.parametrize("size", [4, 32, 256])
def test_cancel_secret_sizes_that_exist(size: int) -> None:
    assert parse_packet(pg.cancel_request(7, b"s" * size)[4:]) == CancelRequest(7, b"s" * size)


@pytest.mark.parametrize(
    "body",
    [
        pg.ssl_request()[4:] + b"x",
        pg.gssenc_request()[4:] + b"x",
        pg.cancel_request(7, b"")[4:],
        pg.cancel_request(7, b"abc")[4:],
        pg.cancel_request(7, b"s" * 257)[4:],
        pg.cancel_request(7, b"")[4:8],
    ],
)
def test_requests_of_wrong_size_are_refused(body: bytes) -> None:
    with pytest.raises(MalformedMessage):
        parse_packet(body)


def test_startup_message_gives_login_database_and_the_rest_in_order() -> None:
    found = parse_pairs(("database", "shop"), ("b", "2"), ("a", "1"))
    assert found.startup.login == "alice"
    assert found.startup.database == "shop"
    assert found.startup.parameters == (("b", "2"), ("a", "1"))
    assert found.startup.version == (3, 0)
    assert not found.needs_negotiation


@pytest.mark.parametrize(
    "tail",
    [
        b"",
        b"user\0alice\0",
        b"user\0alice\0\0x",
        b"user\0alice\0\0\0",
        b"user\0alice",
        b"user\0alice\0database\0\0",
        b"user\0alice\0\0v\0\0",
        b"user\0alice\0\0v\0x\0y\0\0",
        b"user\0",
    ],
)
def test_parameters_without_exact_terminators_are_refused(tail: bytes) -> None:
    with pytest.raises(MalformedMessage):
        parse_packet(b"\0\x03\0\0" + tail)


@pytest.mark.parametrize(
    ("pairs", "code"),
    [
        ([], "28000"),
        ([("user", "")], "28000"),
        ([("database", "shop")], "28000"),
        ([("user", "alice"), ("user", "bob")], "42601"),
        ([("user", "alice"), ("USER", "bob")], "42601"),
        ([("user", "alice"), ("search_path", "a"), ("search_path", "b")], "42601"),
        ([("user", "alice"), ("search_path", "a"), ("Search_Path", "b")], "42601"),
        ([("user", "alice"), ("options", "-c a=1"), ("options", "-c b=1")], "42601"),
        ([("user", "alice"), ("_pq_.x", "a"), ("_pq_.x", "b")], "42601"),
        ([("user", "alice"), ("options", "-c =1")], "42601"),
        ([("user", "alice"), ("options", "-c =")], "42601"),
        ([("user", "alice"), ("options", "-c")], "42601"),
        ([("user", "alice"), ("options", "-c a")], "42601"),
        ([("user", "alice"), ("options", "--")], "42601"),
        ([("user", "alice"), ("options", "--a")], "42601"),
        ([("user", "alice"), ("options", "-ea=1")], "42601"),
        ([("user", "alice"), ("options", "-W 10")], "42601"),
        ([("user", "alice"), ("options", "-c a=1 stray")], "42601"),
        ([("user", "alice"), ("options", "-c a=1 -c a=2")], "42601"),
        ([("user", "alice"), ("options", "-c a=1 -c A=2")], "42601"),
        ([("user", "alice"), ("options", "-c sp\\ ace=2")], "42704"),
        ([("user", "alice"), ("a b", "1")], "42704"),
        ([("user", "alice"), ("wor\u212a_mem", "1")], "42704"),
        ([("user", "alice"), *((f"x.p{n}", "1") for n in range(1000))], "42601"),
    ],
)
def test_startup_is_refused(pairs: list[tuple[str, str]], code: str) -> None:
    with pytest.raises(LoginRefused) as caught:
        parse(pg.startup(pairs))
    assert caught.value.code == code  # type: ignore[attr-defined] # CodedRefused


@pytest.mark.parametrize("value", ["database", "true", "1", "on", "yes", "TRUE", "x", ""])
def test_replication_is_noticed(value: str) -> None:
    assert parse_pairs(("replication", value)).replication == value


@pytest.mark.parametrize("value", ["false", "off", "no", "0", "F"])
def test_replication_switched_off_is_no_replication(value: str) -> None:
    found = parse_pairs(("replication", value))
    assert found.replication is None
    assert startup_settings(found.startup) == ()


@pytest.mark.parametrize(
    ("minor", "options", "version", "negotiates"),
    [
        (0, (), (3, 0), False),
        (1, (), (3, 1), False),
        (2, (), (3, 2), False),
        (3, (), (3, 2), True),
        (9999, (), (3, 2), True),
        (0, ("_pq_.x",), (3, 0), True),
        (2, ("_pq_.x", "_pq_.y"), (3, 2), True),
    ],
)
def test_version_is_negotiated(
    minor: int, options: tuple[str, ...], version: tuple[int, int], negotiates: bool
) -> None:
    found = parse(pg.startup([("user", "alice"), *((name, "1") for name in options)], minor=minor))
    assert found.startup.version == version
    assert found.unknown_options == options
    assert found.needs_negotiation is negotiates
    assert found.startup.parameters == ()


@pytest.mark.parametrize("major", [0, 1, 2, 4, 1234])
def test_other_major_versions_are_refused_by_name(major: int) -> None:
    with pytest.raises(LoginRefused, match=f"unsupported frontend protocol {major}.0"):
        parse_packet(pg.startup([("user", "alice")], major=major)[4:])


def test_bytes_that_are_not_utf_8_are_refused_except_in_application_name() -> None:
    with pytest.raises(LoginRefused):
        parse_packet(b"\0\x03\0\0user\0al\xe9\0\0")
    found = parse_packet(b"\0\x03\0\0user\0alice\0application_name\0caf\xe9\0\0")
    assert isinstance(found, StartupMessage)
    assert found.startup.parameters == (("application_name", "caf\\xe9"),)


@pytest.mark.parametrize(
    ("text", "settings"),
    [
        ("", []),
        ("   ", []),
        ("-c a=1", [("a", "1")]),
        ("-ca=1", [("a", "1")]),
        ("--a=1", [("a", "1")]),
        ("  -c\ta=1\n--work-mem=4MB ", [("a", "1"), ("work_mem", "4MB")]),
        ("-c search_path=a,\\ b", [("search_path", "a, b")]),
        ("-c a=\\\\", [("a", "\\")]),
        ("-c a=x\\", [("a", "x")]),
        ("-c a=\\-b", [("a", "-b")]),
        ("-c a=b=c", [("a", "b=c")]),
        ("-c a=", [("a", "")]),
        ("-c -x=1", [("_x", "1")]),
        ("-c session_authorization=bob", [("session_authorization", "bob")]),
        ("-c a='q r'", None),
    ],
)
def test_options_are_split_as_the_server_does(text: str, settings: list[tuple[str, str]] | None) -> None:
    if settings is None:
        with pytest.raises(LoginRefused):
            parse_options(text)
    else:
        assert parse_options(text) == settings


def test_settings_are_options_first_and_parameters_override_them() -> None:
    found = parse_pairs(
        ("search_path", "public"),
        ("options", "-c Search_Path=evil -c statement_timeout=5 --lock-timeout=1"),
        ("application_name", "psql"),
    )
    assert startup_settings(found.startup) == (
        ("statement_timeout", "5"),
        ("lock_timeout", "1"),
        ("search_path", "public"),
        ("application_name", "psql"),
    )


def test_special_parameters_are_not_settings() -> None:
    found = parse_pairs(("database", "shop"), ("replication", "database"), ("_pq_.x", "1"), ("options", ""))
    assert startup_settings(found.startup) == ()


NAMES = st.from_regex(r"[a-z_][a-z0-9_]{0,10}", fullmatch=True).filter(
    lambda name: name not in ("user", "database", "options", "replication")
)


@given(st.dictionaries(NAMES, st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)))
def test_well_formed_parameters_come_out_as_they_went_in(pairs: dict[str, str]) -> None:
    found = parse(pg.startup([("user", "alice"), *pairs.items()]))
    assert found.startup.parameters == tuple(pairs.items())
    assert startup_settings(found.startup) == tuple(pairs.items())


@given(st.dictionaries(NAMES, st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)))
def test_escaped_options_come_out_as_they_went_in(pairs: dict[str, str]) -> None:
    escaped = " ".join(f"-c {name}={''.join(chr(92) + char for char in value)}" for name, value in pairs.items())
    assert parse_options(escaped) == list(pairs.items())


@given(st.binary(min_size=4, max_size=300), st.sampled_from([b"", b"\0\x03\0\0", b"\0\x03\0\x02user\0a\0"]))
@example(b"options\0-c \xe9=1\0\0", b"\0\x03\0\0user\0a\0")
@example(b"options\0\\\0\0", b"\0\x03\0\0user\0a\0")
def test_random_packets_only_give_protocol_errors_and_refusals(rest: bytes, start: bytes) -> None:
    with contextlib.suppress(ProtocolError, LoginRefused):
        parse_packet(start + rest)
