from __future__ import annotations

import pytest

from classifiers.effects import NameCase
from dbproxy.policy.globs import NamePattern, compile_glob, loosen, readings


@pytest.mark.parametrize(
    ("pattern", "text", "expected"),
    [
        ("prod", "prod", True),
        ("prod", "Prod", False),
        ("prod*", "prod-eu", True),
        ("p?od", "prod", True),
        ("p?od", "pod", False),
        ("a.c", "abc", False),
        ("*", "", True),
        ("***a***", "a" * 40, True),
        ("[ab]", "a", False),
        ("*", "two\nlines", True),
    ],
)
def test_only_star_and_question_mark_are_special_in_globs(pattern: str, text: str, expected: bool) -> None:
    assert bool(compile_glob(pattern)(text)) is expected


PUBLIC = ("public",)


@pytest.mark.parametrize(
    ("pattern", "name", "path", "may", "must"),
    [
        ("customers", "customers", PUBLIC, True, True),
        ("customers", "app.customers", PUBLIC, True, True),
        ("*.customers", "customers", None, True, True),
        ("app.customers", "app.customers", None, True, True),
        ("app.customers", "hr.customers", None, False, False),
        ("app.customers", "customers", None, True, False),
        ("app.customers", "customers", ("app",), True, True),
        ("app.customers", "customers", ("app", "public"), True, False),
        ("app.customers", "customers", PUBLIC, False, False),
        ("app.customers", "customers", (), False, False),
        ("app.customers", "customers", ("$user", "public"), True, False),
        ("app.*", "orders", None, True, False),
        ("app.*", "public.orders", ("app",), False, False),
        ("App.Customers", "app.customers", None, True, True),
        ('app."Customers"', "app.Customers", None, True, True),
        ('app."Customers"', "app.customers", None, False, False),
        ('app."we""ird*"', 'app."we""ird*"', None, True, True),
        ('app."*"', "app.x", None, False, False),
        ("pg_catalog.pg_authid", "pg_authid", PUBLIC, True, False),
        ("pg_catalog.pg_authid", "pg_authid", None, True, False),
        ("pg_catalog.*", "orders", None, False, False),
        ("pg_catalog.*", "orders", PUBLIC, False, False),
        ("*.pg_authid", "pg_authid", PUBLIC, True, True),
        # three parts: database.schema.table, or a dot inside a name
        ("app.customers", "shop.app.customers", None, True, True),
        ("app.*", "app.x.customers", None, True, False),
        ("app.*", 'app."x.customers"', None, True, True),
        ("x.customers", 'app."x.customers"', None, False, False),
        ('app."x.customers"', 'app."x.customers"', None, True, True),
        ('"app.customers"', '"app.customers"', ("public",), True, True),
        ("app.customers", '"app.customers"', ("app",), False, False),
        ('app."a""b"', 'app."a""b"', None, True, True),
        ("app.customers", "app.*", ("public",), True, False),
        ("*.customers", "app.*", ("public",), True, False),
        ("app.*", "app.*", ("public",), True, True),
        ("other.customers", "app.*", ("public",), False, False),
        ("ÄPFEL", "äpfel", None, False, False),
    ],
)
def test_names_match_as_postgresql_reads_them(
    pattern: str, name: str, path: tuple[str, ...] | None, may: bool, must: bool
) -> None:
    compiled = NamePattern(pattern)
    assert (compiled.may_match(name, path), compiled.must_match(name, path)) == (may, must)


def test_functions_of_the_catalogue_are_found_without_their_schema() -> None:
    pattern = NamePattern("pg_catalog.lo_import", is_function=True)
    assert pattern.may_match("lo_import", ("public",))
    assert not NamePattern("pg_catalog.lo_import").may_match("lo_import", ("public",))


@pytest.mark.parametrize("text", ["", "a b", "a.", ".a", "a..b", '"a', 'a"b"', '""', "a.b.c", "a.b.c.d"])
def test_what_is_no_name_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        NamePattern(text)


def test_readings_of_a_long_name_stay_few() -> None:
    assert len(readings(".".join("abcdefghij"))) < 60
    assert readings('"half.open') == [(None, '"half.open')]


@pytest.mark.parametrize(
    ("pattern", "name", "may"),
    [
        # pattern, name, whether it may be meant: as written, kept, ignored, unknown
        ("*.customers", "CUSTOMERS", (False, True, True, True)),
        ("*.Customers", "Customers", (False, True, True, True)),
        ('*."Customers"', "customers", (False, False, True, True)),
        ('*."Customers"', "Customers", (True, True, True, True)),
        ("shop.customers", "SHOP.Customers", (False, True, True, True)),
        ("shop.customers", "Other.Customers", (False, False, False, False)),
        ("shop.c*", "Shop.CARDS", (False, True, True, True)),
        ("*.été", "ETE", (False, True, True, True)),
        ("*.kunden", "\u212aunden", (False, True, True, True)),
        ('*."A.b"', '"a.B"', (False, False, True, True)),
        ("*.orders", "customers", (False, False, False, False)),
    ],
)
def test_what_a_server_may_take_for_the_same_name_is_the_same_for_a_rule_that_restricts(
    pattern: str, name: str, may: tuple[bool, ...]
) -> None:
    compiled = NamePattern(pattern)
    assert tuple(compiled.may_be(name, ("shop",), case) for case in NameCase) == may


def test_names_are_looked_up_in_schemas_of_any_case() -> None:
    pattern = NamePattern("shop.customers")
    assert pattern.may_be("customers", ("SHOP",), NameCase.IGNORED)
    assert pattern.must_be("CUSTOMERS", ("SHOP",), NameCase.IGNORED)
    assert not pattern.may_be("customers", ("other",), NameCase.IGNORED)


@pytest.mark.parametrize(
    ("pattern", "name", "must"),
    [
        ("*.customers", "CUSTOMERS", (False, False, True, False)),
        ("*.customers", "customers", (True, True, True, True)),
        ('*."Customers"', "CUSTOMERS", (False, False, True, False)),
        ("*.été", "ete", (False, False, False, False)),
    ],
)
def test_a_rule_that_allows_needs_the_name_itself(pattern: str, name: str, must: tuple[bool, ...]) -> None:
    compiled = NamePattern(pattern)
    assert tuple(compiled.must_be(name, None, case) for case in NameCase) == must


def test_loose_names_have_no_new_separators() -> None:
    """What stands for a dot, a quote or a wildcard in patterns must not appear by folding."""
    for number in range(0x80, 0x11_0000):
        if not 0xD800 <= number < 0xE000:
            assert not set(loosen(chr(number))) & set('."*?'), hex(number)
