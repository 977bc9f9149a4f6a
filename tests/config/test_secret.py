from __future__ import annotations

from pathlib import Path

import pytest
from support.settings_files import write

from config.secret import SecretError, SecretRef


@pytest.mark.parametrize(
    "text",
    ["hunter2", "", "${env:}", "${vault:x}", "${env:A} ", "x${env:A}", "$env:A", "${env:A}${env:B}", "${file:a}b}"],
)
def test_what_is_no_reference_is_refused_without_repeating_it(text: str) -> None:
    with pytest.raises(ValueError, match=r"\$\{env:NAME\}") as caught:
        SecretRef.parse(text)
    assert not text or text not in str(caught.value)


def test_environment_variables_are_read_when_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    reference = SecretRef.parse("${env:DBPROXY_TEST_SECRET}")
    for value in ("", None):
        monkeypatch.delenv("DBPROXY_TEST_SECRET", raising=False)
        if value is not None:
            monkeypatch.setenv("DBPROXY_TEST_SECRET", value)
        with pytest.raises(SecretError, match="not set or empty"):
            reference.resolve()
    monkeypatch.setenv("DBPROXY_TEST_SECRET", "sésame")
    assert reference.resolve() == "sésame".encode()


def test_files_are_read_when_needed_and_lose_one_newline(tmp_path: Path) -> None:
    path = write(tmp_path / "s", "a b\n\n")
    reference = SecretRef.parse("${file:s}", tmp_path)
    assert reference.resolve() == b"a b\n"
    write(path, "rotated\r\n")
    assert reference.resolve() == b"rotated"


@pytest.mark.parametrize(
    ("content", "mode", "problem"),
    [
        ("", 0o600, "the file is empty"),
        ("\n", 0o600, "the file is empty"),
        ("x" * 5000, 0o600, "the file is too large"),
        ("x", 0o604, "others may read or change the file; run chmod 600"),
        ("x", 0o620, "others may read or change the file; run chmod 600"),
    ],
)
def test_a_secret_file_that_cannot_be_right_is_refused(tmp_path: Path, content: str, mode: int, problem: str) -> None:
    path = write(tmp_path / "s", content, mode)
    with pytest.raises(SecretError) as caught:
        SecretRef.parse(f"${{file:{path}}}").resolve()
    assert str(caught.value) == f"${{file:{path}}}: {problem}"


def test_a_secret_is_a_place_not_a_value(tmp_path: Path) -> None:
    write(tmp_path / "s", "canary")
    one, two = SecretRef.parse("${file:s}", tmp_path), SecretRef.parse("${file:s}", tmp_path)
    assert one == two
    assert len({one, two}) == 1
    one.resolve()
    assert "canary" not in repr(one) + str(one)
    assert one != SecretRef.parse("${env:s}")
