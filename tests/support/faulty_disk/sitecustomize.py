"""Loaded by the Python of a proxy under test, by its place on PYTHONPATH: makes the audit ledger's disk slow or broken, as a file says.

DBPROXY_TEST_DISK names the file; see support/faults.py. Only descriptors of files whose path has "/audit-" in it, and their directory's, are concerned.
"""

import contextlib
import json
import os
import time

_FILE = os.environ.get("DBPROXY_TEST_DISK")
_cache: tuple[int, dict[str, dict[str, float]]] = (0, {})


def _fault(name: str, path: str) -> None:
    global _cache
    if "/audit-" not in path:
        return
    try:
        stamp = os.stat(_FILE or "").st_mtime_ns
    except OSError:
        return
    if stamp != _cache[0]:
        with contextlib.suppress(OSError, ValueError), open(_FILE or "", encoding="utf-8") as file:
            _cache = (stamp, json.load(file))
    wanted = _cache[1].get(name)
    if wanted is None:
        return
    if wanted.get("sleep"):
        time.sleep(wanted["sleep"])
    if wanted.get("errno"):
        number = int(wanted["errno"])
        raise OSError(number, os.strerror(number))


def _path_of(fd: int) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    except OSError:
        return ""


if _FILE:
    _fdatasync, _write, _open = os.fdatasync, os.write, os.open

    def fdatasync(fd: int) -> None:
        _fault("fdatasync", _path_of(fd))
        _fdatasync(fd)

    def write(fd: int, data: bytes) -> int:
        _fault("write", _path_of(fd))
        return _write(fd, data)

    def open_(path, flags, mode=0o777, **more):  # type: ignore[no-untyped-def] # as os.open
        if flags & os.O_CREAT:
            _fault("create", str(path))
        return _open(path, flags, mode, **more)

    os.fdatasync, os.write, os.open = fdatasync, write, open_
