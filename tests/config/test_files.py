from __future__ import annotations

import os
from pathlib import Path

import pytest
from support.settings_files import write

from config.errors import ConfigError
from config.files import read_trusted, write_private


def refusal(path: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        read_trusted(path, 100)
    (problem,) = caught.value.problems
    assert problem.file == str(path)
    return problem.text


@pytest.mark.parametrize(
    ("mode", "who"), [(0o620, "its group"), (0o602, "everyone"), (0o666, "everyone"), (0o660, "its group")]
)
def test_files_that_others_may_write_are_refused(tmp_path: Path, mode: int, who: str) -> None:
    assert refusal(write(tmp_path / "f", "x", mode)) == f"{who} may write to it; run chmod go-w"


@pytest.mark.parametrize("mode", [0o600, 0o644, 0o400, 0o755])
def test_files_that_only_we_may_write_are_read(tmp_path: Path, mode: int) -> None:
    assert read_trusted(write(tmp_path / "f", "abc", mode), 100) == b"abc"


def test_at_most_one_byte_more_than_allowed_is_read(tmp_path: Path) -> None:
    assert len(read_trusted(write(tmp_path / "f", "x" * 1000), 100)) == 101


def test_a_directory_that_everyone_may_write_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "f", "x")
    tmp_path.chmod(0o777)
    assert refusal(path) == f"everyone may write to its directory {tmp_path}; run chmod o-w"
    tmp_path.chmod(0o1777)  # as /tmp: the sticky bit keeps others from replacing our file
    assert read_trusted(path, 100) == b"x"


def test_links_are_judged_by_what_they_lead_to(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir()
    target, link = write(tmp_path / "open" / "f", "x"), tmp_path / "link"
    link.symlink_to(target)
    assert read_trusted(link, 100) == b"x"
    target.chmod(0o666)
    assert refusal(link).startswith("everyone may write to it")
    target.chmod(0o600)
    (tmp_path / "open").chmod(0o777)
    assert refusal(link) == f"everyone may write to its directory {tmp_path}/open; run chmod o-w"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
def test_files_and_links_of_others_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "f", "x")
    os.chown(path, 12345, 0)
    assert refusal(path) == "belongs to user 12345; it must belong to root or to the user that runs dbproxy"
    os.chown(path, 0, 0)
    link = tmp_path / "link"
    link.symlink_to(path)
    os.chown(link, 12345, 0, follow_symlinks=False)
    assert refusal(link) == "is a symbolic link of user 12345; it must belong to root or to the user that runs dbproxy"


def test_what_is_no_file_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe", 0o600)
    assert refusal(tmp_path / "pipe") == "not a regular file"
    assert refusal(tmp_path) == "not a regular file"
    assert refusal(tmp_path / "none") == "cannot be read: No such file or directory"
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    assert refusal(tmp_path / "loop") == "cannot be read: Too many levels of symbolic links"


def test_a_file_is_replaced_at_once_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "f", "old", 0o644)
    write_private(path, b"new")
    assert (path.read_bytes(), path.stat().st_mode & 0o777) == (b"new", 0o600)

    def fail(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space"):
        write_private(path, b"newer")
    assert path.read_bytes() == b"new"
    assert [each.name for each in tmp_path.iterdir()] == ["f"]
