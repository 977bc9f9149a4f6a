from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.document import MAX_BYTES, parse_document, render_path
from config.errors import ConfigError


def failure(data: bytes) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse_document(data, "f.yaml")
    return [str(problem) for problem in caught.value.problems]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", "f.yaml:1:1: the file is empty"),
        (b"---\n", "f.yaml:1:1: the file is empty"),
        (b"a: 1\nb: \xff\n", "f.yaml:2:4: the file is not UTF-8 text"),
        ("a: 1".encode("utf-16"), "f.yaml:1:1: the file is not UTF-8 text"),
        (b"a: \x07", "f.yaml:1:4: a control character is not allowed here"),
        (b"a: 1\n---\nb: 1", "f.yaml:2:1: only one YAML document per file"),
        (b"a: b: c", "f.yaml:1:5: not valid YAML: mapping values are not allowed here"),
        (
            b"a:\n\t- b",
            "f.yaml:2:1: not valid YAML: while scanning for the next token, found character '\\t' that cannot start any token",
        ),
        (b"a: &x [*x]", "f.yaml:1:8: alias 'x' stands inside its own anchor"),
        (b"a: *x", "f.yaml:1:4: alias 'x' stands before its anchor"),
        (b"[" * 100, "f.yaml:1:34: nested more than 32 levels deep"),
        (b"#" * (MAX_BYTES + 1), f"f.yaml: the file is larger than {MAX_BYTES} bytes"),
    ],
)
def test_a_file_that_cannot_be_read_says_where(data: bytes, expected: str) -> None:
    assert failure(data) == [expected]


def test_aliases_that_blow_up_are_refused_quickly() -> None:
    lines = ["a0: &a0 [x,x,x,x,x,x,x,x,x,x]", *(f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 30))]
    assert failure("\n".join(lines).encode()) == ["f.yaml:6:5: more than 200000 values, aliases included"]


def test_aliases_cannot_nest_deeper_than_text() -> None:
    lines = ["a0: &a0 [x]", *(f"a{n}: &a{n} [*a{n - 1}]" for n in range(1, 2000))]
    assert failure("\n".join(lines).encode()) == ["f.yaml:32:12: nested more than 32 levels deep"]


def test_problems_of_form_do_not_stop_the_rest() -> None:
    document = parse_document(b"a: 1\na: 2\nb: !!str x\n? [k]\n: v\n! c: d\n", "f.yaml")
    assert [str(problem) for problem in document.problems] == [
        "f.yaml:2:1: a: this key is already set on line 1",
        "f.yaml:3:4: b: tags are not supported; remove the word that begins with an exclamation mark",
        "f.yaml:4:3: a key must be plain text",
        "f.yaml:6:1: tags are not supported; remove the word that begins with an exclamation mark",
    ]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("off", "off"),
        ("no", "no"),
        ("12:30", "12:30"),
        ("0600", "0600"),
        ("0x10", "0x10"),
        ("1e5", "1e5"),
        (".inf", ".inf"),
        ("2030-01-31", "2030-01-31"),
        ("1_000", "1_000"),
        ("=", "="),
        ("true", True),
        ("False", False),
        ("~", None),
        ("", None),
        ("-7", -7),
        ("7.50", 7.5),
        ("9" * 30, "9" * 30),
        ("'7'", "7"),
        ('"true"', "true"),
        ("|\n  two\n  lines", "two\nlines"),
    ],
)
def test_plain_scalars_mean_what_they_look_like(text: str, value: object) -> None:
    plain = parse_document(f"k: {text}".encode(), "f").root.plain()
    assert plain == {"k": value}
    assert isinstance(plain, dict)
    assert type(plain["k"]) is type(value)


def test_places_are_those_of_keys_and_values() -> None:
    document = parse_document("top:\n  - é: 1\n    second: two\n".encode(), "f.yaml")
    assert document.place(("top", 0, "second")) == (3, 13)
    assert document.place(("top", 0, "second"), is_key=True) == (3, 5)
    assert document.place(("top", 0, "missing", "deeper")) == (2, 5)
    assert document.place(("top", 7)) == (2, 3)


def test_a_byte_order_mark_is_no_content() -> None:
    assert parse_document(b"\xef\xbb\xbfa: 1", "f").root.plain() == {"a": 1}


def test_paths_read_as_people_write_them() -> None:
    assert render_path(("rules", 3, "match", "table")) == "rules[3].match.table"
    assert render_path(("lists", "a b")) == "lists['a b']"
    assert render_path(()) == ""


@given(
    st.binary(max_size=200)
    | st.text(max_size=200).map(str.encode)
    | st.text("ab:-[]{}&*!|>'\"\n #,?", max_size=60).map(str.encode)
)
def test_arbitrary_bytes_give_a_document_or_a_config_error(data: bytes) -> None:
    with contextlib.suppress(ConfigError):
        parse_document(data, "f").root.plain()
