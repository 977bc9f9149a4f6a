"""Login names and the spellings that are one person."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dbproxy.identity.names import canonical, fits_server, is_same_login, split_login


@pytest.mark.parametrize(
    ("login", "parts"),
    [
        ("alice", ("alice", None)),
        ("alice+reporting", ("alice", "reporting")),
        ("alice%reporting", ("alice", "reporting")),
        ("alice reporting", ("alice", "reporting")),
        ("alice+a+b", ("alice", "a+b")),
        ("alice+", ("alice", "")),
        ("+reporting", ("", "reporting")),
        ("", ("", None)),
    ],
)
def test_login_is_split_at_the_first_separator(login: str, parts: tuple[str, str | None]) -> None:
    assert split_login(login) == parts


@pytest.mark.parametrize("variant", ["alice", "Alice", "ALICE", "ａｌｉｃｅ", "ⓐlice", "alıce".replace("ı", "i")])
def test_variants_are_one_person(variant: str) -> None:
    assert canonical(variant) == "alice"


@given(st.text(max_size=20))
def test_canonical_form_is_stable_and_blind_to_normal_forms(name: str) -> None:
    once = canonical(name)
    for form in ("NFC", "NFD", "NFKC", "NFKD"):
        assert canonical(unicodedata.normalize(form, name)) == once


def test_same_login_ignores_how_the_separator_is_spelt() -> None:
    assert is_same_login("alice reporting", "alice+reporting")
    assert is_same_login("alice", "alice")
    assert not is_same_login("alice", "Alice")


def test_names_the_server_would_cut_do_not_fit() -> None:
    assert fits_server("x" * 63)
    assert not fits_server("x" * 64)
    assert not fits_server("é" * 32)
    assert not fits_server("")
    assert not fits_server("a\0b")
