"""The server's lexical rules."""

import pytest

from classifiers.effects import LexingState
from classifiers.lexer_postgres import lex
from classifiers.tokens import NUMBER, OP, QUOTED, STRING, WORD, Unreadable

STATE = LexingState()


def shown(text, state=STATE, version=0):
    return [
        token.text or token.value for token in lex(text if isinstance(text, bytes) else text.encode(), state, version)
    ]


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("a /*/**/ b --*/ c", ["A", "C"]),
        ("a /* /* */ b */ c", ["A", "C"]),
        ("a--b\rc", ["A", "C"]),
        ("'a'\n 'b'", ["ab"]),
        ("'a' --x\n 'b'", ["ab"]),
        ("'a' 'b'", ["a", "b"]),
        ("E'\\'x'", ["'x"]),
        ("E'\\x41\\102\\u0043'", ["ABC"]),
        ("'a\\'", ["a\\"]),
        ("$a$ $b$ $$ $a$", [" $b$ $$ "]),
        ("a$b$c", ["A$B$C"]),
        ('U&"\\0061b"', ["ab"]),
        ("U&\"!0061\" UESCAPE '!'", ["a"]),
        ("U&'d\\0061t\\+000061'", ["data"]),
        ("@1.", ["@", "1."]),
        ("1..2", ["1", "..", "2"]),
        ("a.5", ["A", ".5"]),
        ("1.5e-3", ["1.5e-3"]),
        ("0x1F 1_000", ["0x1F", "1_000"]),
        ("a=-1", ["A", "=", "-", "1"]),
        ("a@-1", ["A", "@-", "1"]),
        ("a*/*x*/b", ["A", "*", "B"]),
        ("a<--b", ["A", "<"]),
        ("a::int:=b", ["A", "::", "INT", ":=", "B"]),
        ("n'x' b'01' x'ff'", ["x", "01", "ff"]),
        ("SELECT\x0bv\x0bFROM\x0cs", ["SELECT", "V", "FROM", "S"]),
        ("$1", ["$1"]),
        ("1$$x$$", ["1", "x"]),
    ],
)
def test_tokens_are_those_of_the_server(text, tokens):
    assert shown(text) == tokens


@pytest.mark.parametrize(
    "text",
    ["'a", '"a', '""', "$a$ b", "/* a", "1a", "1e", "$1a", "0x1G", "1_", "1.5.5", "a\\b", "{", "U&'\\00'", "E'a\\'",
     "SELECT \0", "U&\"a\" UESCAPE 'ab'", "U&\"!0061\"/**/UESCAPE '!'", "U&'!0061' /* /* */ */ -- x\n uescape/**/'!'", "~" * 64],
)  # fmt: skip
def test_what_the_server_refuses_is_unreadable(text):
    with pytest.raises(Unreadable):
        lex(text.encode(), STATE)


def test_backslashes_follow_standard_conforming_strings():
    text = b"'a\\' , v FROM secrets -- '"
    assert shown(text, LexingState(standard_conforming_strings=True))[2:] == ["V", "FROM", "SECRETS"]
    assert shown(text, LexingState(standard_conforming_strings=False)) == ["a' , v FROM secrets -- "]
    with pytest.raises(Unreadable):
        lex(text, LexingState(standard_conforming_strings=None))
    assert shown(b"'a' , b", LexingState(standard_conforming_strings=None)) == ["a", ",", "B"]


def test_names_fold_and_are_cut_as_the_server_does():
    assert [t.value for t in lex('Ab "Cd" ÉCOLE'.encode(), STATE)] == ["ab", "Cd", "École"]
    assert lex(b"a" * 70, STATE)[0].value == "a" * 63
    assert lex(b'"' + b"A" * 70 + b'"', STATE)[0].value == "A" * 63
    with pytest.raises(Unreadable):
        lex(("é" * 40).encode(), STATE)


def test_a_unicode_space_is_part_of_a_name():
    assert [t.kind for t in lex("a\u00a0b".encode(), STATE)] == [WORD]


def test_offsets_are_bytes():
    text = "SELECT 'é', \"ü\" || x".encode()
    assert [text[t.start : t.end].decode() for t in lex(text, STATE)] == ["SELECT", "'é'", ",", '"ü"', "||", "x"]


@pytest.mark.parametrize(
    "encoding", ["SJIS", "BIG5", "GBK", "UHC", "GB18030", "JOHAB", "SHIFT_JIS_2004", "MULE_INTERNAL", "nonsense"]
)
def test_encodings_that_hide_quotes_are_read_only_as_ascii(encoding):
    state = LexingState(encoding=encoding)
    assert shown(b"SELECT 1", state) == ["SELECT", "1"]
    with pytest.raises(Unreadable):
        lex(b"SELECT '\x95\x5c' , v -- '", state)


def test_bytes_that_are_not_valid_in_the_encoding_are_unreadable():
    with pytest.raises(Unreadable):
        lex(b"SELECT '\xff'", STATE)
    assert lex(b"SELECT '\xff'", LexingState(encoding="LATIN1"))[1].value == "ÿ"


def test_newer_number_forms_are_unreadable_for_an_older_server():
    assert shown("1_0", version=160000) == ["1_0"]
    for text in (b"1_0", b"0x1"):
        with pytest.raises(Unreadable):
            lex(text, STATE, 150004)


def test_quoted_words_never_equal_keywords():
    assert [(t.kind, t.text) for t in lex(b"\"SELECT\" 'SELECT' 1 +", STATE)] == [
        (QUOTED, ""),
        (STRING, ""),
        (NUMBER, "1"),
        (OP, "+"),
    ]
