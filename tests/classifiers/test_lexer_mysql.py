"""The servers' lexical rules."""

import pytest

from classifiers.effects import LexingState
from classifiers.lexer_mysql import lex
from classifiers.tokens import Unreadable

MYSQL, MARIADB = 90_704, 101_118


def shown(text, version=0, **state):
    data = text if isinstance(text, bytes) else text.encode()
    return [token.text or token.value for token in lex(data, LexingState(**state), version).tokens]


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("1.FROM", ["1.", "FROM"]),
        ("1e0FROM", ["1e0", "FROM"]),
        (".1FROM", [".1", "FROM"]),
        ("1a 0x 0xZ 0b2", ["1A", "0X", "0XZ", "0B2"]),
        ("0x41 0b01 x'41' b'01' n'v'", ["0x41", "0b01", "x'41'", "b'01'", "v"]),
        ("t.1a t.select", ["t", ".", "1a", "t", ".", "select"]),
        ("a--b", ["A", "-", "-", "B"]),
        ("a-- b\nc", ["A", "C"]),
        ("a--\tb\rc\nd", ["A", "D"]),
        ("a--", ["A"]),
        ("a#b\nc", ["A", "C"]),
        ("a/*b*/c", ["A", "C"]),
        ("a /* /* */ b", ["A", "B"]),
        ("'a''b' 'a\\'b' 'a\\nb' '\\%'", ["a'b", "a'b", "a\nb", "\\%"]),
        ('"a" "b""c"', ["a", 'b"c']),
        ("`a``b`", ["a`b"]),
        ("@x @'y' @@z u@localhost", ["@", "@", "@@", "U", "@"]),
        ("a<=>b:=c->>d", ["A", "<=>", "B", ":=", "C", "->>", "D"]),
        ("/*!50000 a*/ b", ["A", "B"]),
        ("/*!99999 a*/ b", ["B"]),
        ("/*!a*/", ["A"]),
        ("\\N", ["NULL"]),
        ("a\0", ["A"]),
    ],
)
def test_tokens_are_those_of_the_servers(text, tokens):
    assert shown(text) == tokens


@pytest.mark.parametrize(
    "text", ["'a", "`a", "``", "/*a", "/*!a", "x'4'", "x'4z'", "1.e", "a\0b", "@ a", "/*! /*! a */ */", "FROM.a", "\u00a0", "a\u3000b", "$\x01"]
)  # fmt: skip
def test_what_servers_refuse_or_read_apart_is_unreadable(text):
    with pytest.raises(Unreadable):
        lex(text.encode(), LexingState())


def test_modes_decide_what_quotes_and_backslashes_mean():
    text = "'a\\' , v FROM secrets -- '"
    assert shown(text) == ["a' , v FROM secrets -- "]
    assert shown(text, no_backslash_escapes=True)[-1] == "SECRETS"
    assert [token.kind for token in lex(b'"v"', LexingState(ansi_quotes=True)).tokens] != [
        token.kind for token in lex(b'"v"', LexingState()).tokens
    ]
    with pytest.raises(Unreadable):
        lex(text.encode(), LexingState(no_backslash_escapes=None))
    with pytest.raises(Unreadable):
        lex(b'SELECT "v"', LexingState(ansi_quotes=None))
    assert shown("'a' , v", no_backslash_escapes=None, ansi_quotes=None) == ["a", ",", "V"]


def test_executable_comments_follow_the_target():
    assert shown("1 /*!50701 ,2*/", MYSQL) == ["1", ",", "2"]
    assert shown("1 /*!50701 ,2*/", MARIADB) == ["1"]
    assert shown("1 /*M!50701 ,2*/", MYSQL) == ["1"]
    assert shown("1 /*M!50701 ,2*/", MARIADB) == ["1", ",", "2"]
    assert shown("1 /*!90704 ,2*/", MYSQL) == ["1", ",", "2"]
    assert shown("1 /*!90705 ,2*/", MYSQL) == ["1"]
    assert shown("1 /*!101100,2*/", MARIADB) == ["1", ",", "2"]
    for text, version in (("1 /*!50701 ,2*/", 0), ("1 /*M! ,2*/", 0), ("1 /*!101100,2*/", MYSQL)):
        with pytest.raises(Unreadable):
            lex(text.encode(), LexingState(), version)


@pytest.mark.parametrize(
    ("charset", "data"),
    [("GBK", b"'\xbf\x5c' , v -- '"), ("SJIS", b"'\x83\x5c' , v -- '"), ("BIG5", b"'\xa5\x5c' , v -- '")],
)
def test_the_second_byte_of_a_character_is_no_backslash(charset, data):
    assert shown(data, encoding=charset)[1:] == [",", "V"]
    with pytest.raises(Unreadable):
        lex(data, LexingState(encoding="UNKNOWN"))


def test_offsets_are_bytes():
    for charset in ("UTF8MB4", "GBK"):
        data = "SELECT '中', `中` + x".encode("gbk" if charset == "GBK" else "utf-8")
        tokens = lex(data, LexingState(encoding=charset)).tokens
        assert [data[t.start : t.end].decode("gbk" if charset == "GBK" else "utf-8") for t in tokens] == [
            "SELECT",
            "'中'",
            ",",
            "`中`",
            "+",
            "x",
        ]
        assert tokens[1].value == "中"


def test_long_lists_are_cut_and_what_is_behind_them_is_seen():
    ones = ",".join(["1"] * 50_000)
    tokens = lex(f"SELECT 1 FROM t WHERE a IN ({ones}) AND b IN (SELECT v FROM secrets)".encode(), LexingState()).tokens
    assert len(tokens) < 200
    assert tokens[-2].text == "SECRETS"
