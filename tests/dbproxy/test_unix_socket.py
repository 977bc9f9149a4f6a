"""Unix sockets in a private directory: who gets in, long paths, what a dead process left behind."""

from __future__ import annotations

import os
import re
import stat
from contextlib import closing
from pathlib import Path

import pytest

from dbproxy.errors import StartError
from dbproxy.unix_socket import Peer, connect, listen, peer, private_directory


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    private_directory(tmp_path / "state")
    return tmp_path / "state"


def test_both_ends_know_each_other(directory: Path) -> None:
    me = Peer(os.getpid(), os.geteuid(), os.getegid())
    with (
        closing(listen(directory / "a.sock")) as listening,
        closing(connect(directory / "a.sock", timeout_s=5)) as client,
    ):
        server, _ = listening.accept()
        with closing(server):
            assert peer(server) == peer(client) == me
            assert me.is_trusted


@pytest.mark.parametrize(("uid", "is_trusted"), [(0, True), (os.geteuid(), True), (65_534, False), (1, False)])
def test_this_user_and_root_are_trusted(uid: int, is_trusted: bool) -> None:
    assert Peer(1, uid, 1).is_trusted is is_trusted


def test_modes_do_not_depend_on_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        private_directory(tmp_path / "state")
        with closing(listen(tmp_path / "state" / "a.sock")):
            assert stat.S_IMODE((tmp_path / "state").stat().st_mode) == 0o700
            assert stat.S_IMODE((tmp_path / "state" / "a.sock").stat().st_mode) == 0o600
        assert os.umask(0) == 0
    finally:
        os.umask(before)


def test_a_path_may_be_long(tmp_path: Path) -> None:
    directory = tmp_path / ("d" * 200) / ("e" * 200)
    private_directory(directory)
    descriptors = len(os.listdir("/proc/self/fd"))
    with closing(listen(directory / "a.sock")), closing(connect(directory / "a.sock")):
        pass
    assert len(os.listdir("/proc/self/fd")) == descriptors


def test_a_dead_socket_is_replaced_and_a_live_one_is_not(directory: Path) -> None:
    path = directory / "a.sock"
    listen(path).close()
    with pytest.raises(ConnectionRefusedError):
        connect(path)
    with closing(listen(path)):
        with pytest.raises(StartError, match=f"{re.escape(str(path))}: another dbproxy listens there already"):
            listen(path)
        connect(path).close()


def test_a_file_that_is_no_socket_stays(directory: Path) -> None:
    path = directory / "a.sock"
    path.write_text("precious")
    with pytest.raises(StartError, match="cannot listen there: Address already in use"):
        listen(path)
    assert path.read_text() == "precious"


def test_a_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(
        StartError, match=r"file/state: the state directory cannot be made: Not a directory; set state\.directory"
    ):
        private_directory(tmp_path / "file" / "state")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_a_directory_of_somebody_else_is_refused(directory: Path) -> None:
    os.chown(directory, 65_534, 65_534)
    with pytest.raises(StartError, match="belongs to another user"):
        private_directory(directory)
