"""Snapshots on their way from control to the workers: files in the state directory, only the proxy's own user may read them.

    state/catalogue/<target and database, hashed>-<content, hashed>.json

A file is written whole and then never changed. The last two of a database are kept: a worker may just be reading the older one.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from dbproxy.catalogue.model import Snapshot, SnapshotError, decode_snapshot, encode_snapshot

FOLDER = "catalogue"
_KEPT = 2


def write_snapshot(state: Path, target: str, snapshot: Snapshot) -> str:
    """Returns the file's name. Raises OSError."""
    folder = state / FOLDER
    folder.mkdir(mode=0o700, exist_ok=True)
    data = encode_snapshot(snapshot)
    name = f"{_prefix(target, snapshot.database)}-{hashlib.sha256(data).hexdigest()[:32]}.json"
    temporary = folder / f"{name}.new"
    temporary.unlink(missing_ok=True)
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(data)
    temporary.rename(folder / name)
    for old in _files(folder, target, snapshot.database)[_KEPT:]:
        old.unlink(missing_ok=True)
    return name


def read_snapshot(state: Path, name: str) -> Snapshot:
    """Raises OSError, and SnapshotError if the file is not what its name says."""
    if "/" in name:
        raise SnapshotError("not a name of a snapshot's file")
    data = (state / FOLDER / name).read_bytes()
    if hashlib.sha256(data).hexdigest()[:32] != name.removesuffix(".json").rpartition("-")[2]:
        raise SnapshotError("the file was changed")
    return decode_snapshot(data)


def read_latest(state: Path, target: str, database: str) -> Snapshot | None:
    """The newest that is there and can be read."""
    for path in _files(state / FOLDER, target, database):
        try:
            return read_snapshot(state, path.name)
        except (OSError, SnapshotError):
            continue
    return None


def _prefix(target: str, database: str) -> str:
    return hashlib.sha256(f"{target}\0{database}".encode("utf-8", "surrogateescape")).hexdigest()[:32]


def _files(folder: Path, target: str, database: str) -> list[Path]:
    """Of that database, the newest first."""
    found = folder.glob(f"{_prefix(target, database)}-*.json") if folder.is_dir() else ()
    return sorted(found, key=lambda path: path.stat().st_mtime_ns, reverse=True)
