"""A disk that is slow, full or broken under a running proxy's audit ledger, without privileges.

disk = FaultyDisk(tmp_path)
make_proxy(environment=disk.environment)
disk.set(fdatasync={"sleep": 0.2})      disk.set(fdatasync={"errno": errno.EIO})      disk.set()
"""

from __future__ import annotations

import json
import os
from pathlib import Path

_FOLDER = Path(__file__).with_name("faulty_disk")


class FaultyDisk:
    """Takes effect at the proxy's next call. Names of calls: fdatasync, write, create."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "disk.json"
        self.set()

    @property
    def environment(self) -> dict[str, str]:
        path = os.environ.get("PYTHONPATH")
        return {
            "DBPROXY_TEST_DISK": str(self._file),
            "PYTHONPATH": f"{_FOLDER}{os.pathsep}{path}" if path else str(_FOLDER),
        }

    def set(self, **calls: dict[str, float]) -> None:
        new = self._file.with_suffix(".new")
        new.write_text(json.dumps(calls))
        new.replace(self._file)
