"""The working folder of a throw-away server: found, guarded, and removed, also after a crash of its owner.

dbproxy-pg-XXXXXXXX/      ours, others may pass through but not list
    owner                 pid and start time of the process that made it
    server.log            ours; the server gets it as an open file
    data/                 the account's, 0700
    tls/                  the account's, 0700
    pg/                   the programs, only where the account cannot read the originals
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from dbproxy.embedded.account import Account
from dbproxy.embedded.errors import EmbeddedServerError

_PREFIX = "dbproxy-pg-"
_PROBE = "#!/bin/sh\nexit 0\n"
_ENVIRONMENT = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LC_ALL": "C"}


def make_folder(account: Account, *, executable: bool) -> Path:
    """Make a working folder that account can reach. executable: programs must be able to run from it.

    Raises EmbeddedServerError if no candidate will do, with the reason for each.
    """
    refused: list[str] = []
    for parent in _parents():
        try:
            folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
        except OSError as error:
            refused.append(f"{parent}: {error.strerror}")
            continue
        (folder / "owner").write_text(f"{os.getpid()} {_started(os.getpid())}\n")
        folder.chmod(0o711)
        problem = _probe(folder, account, executable=executable)
        if problem is None:
            return folder.resolve()
        remove_folder(folder)
        refused.append(f"{parent}: {problem}")
    raise EmbeddedServerError(
        f"no folder in which the account {account.name} can run PostgreSQL ({'; '.join(refused)}): "
        "set TMPDIR to a folder that it can reach, on a file system that is not mounted noexec"
    )


def remove_folder(folder: Path) -> None:
    """Remove a working folder. What cannot be removed stays for remove_stale."""
    shutil.rmtree(folder, ignore_errors=True)


def remove_stale() -> list[Path]:
    """Remove the folders whose owner has ended without cleaning up. Returns them.

    Their server ended with the owner (see server.py's watcher), so only files are left.
    """
    removed = []
    for parent in _parents():
        for folder in parent.glob(f"{_PREFIX}*"):
            # Anybody may put a name into /tmp: touch only real folders that are ours and whose owner is gone.
            with contextlib.suppress(OSError):
                status = folder.lstat()
                if stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid() and not _is_owned(folder):
                    remove_folder(folder)
                    removed.append(folder)
    return removed


def _parents() -> Iterator[Path]:
    seen = set()
    for name in (tempfile.gettempdir(), "/tmp", "/var/tmp", "/dev/shm", "/run", str(Path.home() / ".cache")):  # noqa: S108  # each is entered by mkdtemp
        parent = Path(name)
        if parent not in seen and parent.is_dir():
            seen.add(parent)
            yield parent


def _probe(folder: Path, account: Account, *, executable: bool) -> str | None:
    """What is wrong with folder for account, or None."""
    program = folder / "probe"
    program.write_text(_PROBE)
    program.chmod(0o755)
    command: list[str | Path] = [program] if executable else ["/bin/sh", program]
    try:
        status, printed = account.run(command, environment=_ENVIRONMENT, timeout_s=20)
    except OSError as error:
        return f"a program in it does not run as {account.name} ({error.strerror}); mounted noexec?"
    finally:
        program.unlink()
    return None if status == 0 else f"{account.name} cannot reach it ({printed.strip()})"


def _is_owned(folder: Path) -> bool:
    """Is the process that made folder still running? A folder that was made a moment ago may lack its owner file."""
    try:
        pid, started = (folder / "owner").read_text().split()
    except (OSError, ValueError):
        return (folder.stat().st_mode & 0o777) == 0o700
    try:
        return _started(int(pid)) == started
    except ValueError:
        return False


def _started(pid: int) -> str:
    """When pid started, in a form only good for comparing; `gone` if there is no such process."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        if Path("/proc/self/stat").exists():
            return "gone"
        try:  # no /proc (macOS): the number alone has to do
            os.kill(pid, 0)
        except ProcessLookupError:
            return "gone"
        except PermissionError:
            pass
        return "running"
    return text.rpartition(")")[2].split()[19]  # field 22 of proc(5) stat, starttime
