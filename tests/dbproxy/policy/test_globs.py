from __future__ import annotations

import pytest

from dbproxy.policy.globs import NamePattern, compile_glob, readings


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
