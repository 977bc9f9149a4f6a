"""The unprivileged account a server runs under, because PostgreSQL refuses to run as root.

Nothing is created: only accounts that exist are used.
"""

from __future__ import annotations

import os
import pwd
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dbproxy.embedded.errors import EmbeddedServerError

RUN_AS = "DBPROXY_RUN_AS"
_DEFAULT_ACCOUNTS = ("postgres", "nobody")


@dataclass(frozen=True, slots=True)
class Account:
    """Who runs the server. is_other: not the account of this process, so files must be handed over to it."""

    name: str
    uid: int
    gid: int
    is_other: bool

    def own(self, path: Path) -> None:
        """Make this account the owner of path. Raises EmbeddedServerError where that is not permitted."""
        if not self.is_other:
            return
        try:
            os.chown(path, self.uid, self.gid)
        except OSError as error:
            raise EmbeddedServerError(_refused(self.name, error)) from error

    def spawn(
        self, command: Sequence[str | Path], *, environment: Mapping[str, str], **options: Any
    ) -> subprocess.Popen[bytes]:
        """Start command under this account in a session of its own, so that Ctrl+C in the terminal does not reach it.

        options: as for subprocess.Popen. Raises OSError if the program cannot be run, EmbeddedServerError if the
        account cannot be taken.
        """
        words = [str(word) for word in command]
        switch: dict[str, Any] = {"user": self.uid, "group": self.gid, "extra_groups": []} if self.is_other else {}
        try:
            return subprocess.Popen(  # noqa: S603  # the command is ours: paths found on this machine, no shell
                words, env=dict(environment), start_new_session=True, **switch, **options
            )
        except subprocess.SubprocessError as error:
            raise EmbeddedServerError(_refused(self.name, error)) from error
        except PermissionError as error:
            # Popen names the program where execve was refused, and something else where switching accounts was.
            if self.is_other and error.filename != words[0]:
                raise EmbeddedServerError(_refused(self.name, error)) from error
            raise

    def run(
        self,
        command: Sequence[str | Path],
        *,
        environment: Mapping[str, str],
        cwd: Path = Path("/"),
        timeout_s: float = 120,
    ) -> tuple[int, str]:
        """Run command to its end. Returns the exit status and all it printed. Raises OSError as spawn does."""
        with self.spawn(
            command,
            environment=environment,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        ) as process:
            try:
                printed, _ = process.communicate(timeout=timeout_s)
            except BaseException:
                process.kill()
                raise
        return process.returncode, printed.decode(errors="replace")


def find_account(environment: Mapping[str, str] | None = None) -> Account:
    """The account for a server: our own, unless we are root; then $DBPROXY_RUN_AS, else postgres, else nobody."""
    uid = os.geteuid()
    if uid != 0:
        return Account(_name_of(uid), uid, os.getegid(), is_other=False)
    asked = (os.environ if environment is None else environment).get(RUN_AS)
    names = (asked,) if asked else _DEFAULT_ACCOUNTS
    for name in names:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        if entry.pw_uid == 0:
            raise EmbeddedServerError(f"{RUN_AS}={name} is root; PostgreSQL needs an account without privileges")
        return Account(name, entry.pw_uid, entry.pw_gid, is_other=True)
    raise EmbeddedServerError(
        f"PostgreSQL does not run as root, and there is no account {' or '.join(names)} on this machine: "
        f"set {RUN_AS} to an unprivileged account, or start again as an ordinary user"
    )


def _name_of(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:  # a container may run under a number without a name
        return str(uid)


def _refused(name: str, error: Exception) -> str:
    return (
        f"PostgreSQL does not run as root, and this root may not switch to the account {name} ({error}): "
        "start again as an ordinary user"
    )
