"""SECURITY_BAR B10, over the whole suite: no secret of a test's proxy may be in anything that the proxy wrote or says of itself.

support.proxy looks when a proxy ends, so the test that leaked is the test that fails. What is looked for: passwords of people
and accounts, their verifiers, private keys; each as it is, in hex and in base64. Where: every file in the proxy's folder but
those that hold the secrets, its metrics, the command lines of its processes.
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

PASSWORD_FILES = {".password", ".secret"}
HOLDS_SECRETS = {*PASSWORD_FILES, ".yaml"}
_KEY = re.compile(rb"\A-----BEGIN [A-Z ]*PRIVATE KEY-----\s+(\S+)")
_VERIFIER = re.compile(r"SCRAM-SHA-256\$\d+:[^$\s]+\$([A-Za-z0-9+/=]+):([A-Za-z0-9+/=]+)")
_MYSQL_VERIFIER = re.compile(r"\$A\$0[0-9A-F]{2}\$([\x21-\x7e]{20})([\x21-\x7e]{43})|\*([0-9A-F]{40})\b")
"""caching_sha2_password's salt and digest; mysql_native_password's digest, which is as good as the password to who sees a login."""
_SHORTEST = 5  # what is shorter is found in anything

looked: dict[str, int] = {"proxies": 0, "places": 0, "searches": 0, "leaks": 0}
"""What the whole run has looked at, for the report at its end."""


def forms(secret: bytes) -> Iterator[bytes]:
    """The ways in which a secret may stand in an output."""
    yield secret
    yield secret.hex().encode()
    yield base64.b64encode(secret[: len(secret) // 3 * 3])


def secrets_in(folder: Path) -> dict[str, bytes]:
    """Private keys, password files and verifiers in a folder, by a name that may be shown."""
    found: dict[str, bytes] = {}
    for path in _files(folder):
        if path.suffix in PASSWORD_FILES:
            found[path.name] = path.read_bytes().strip()
        elif path.suffix == ".yaml":
            text = path.read_text(errors="replace")
            for kind, pattern in (("verifier", _VERIFIER), ("MySQL verifier", _MYSQL_VERIFIER)):
                for number, parts in enumerate(pattern.findall(text)):
                    found |= {f"{path.name} {kind} {number}.{part}": key.encode() for part, key in enumerate(parts)}
        elif key := _KEY.search(path.read_bytes()):
            found[path.name] = key[1]
    return found


def mysql_keys(password: bytes) -> Iterator[tuple[str, bytes]]:
    """What MySQL's methods work with in memory, each as good as the password: by a name that may be shown."""
    yield "caching_sha2_password key", hashlib.sha256(hashlib.sha256(password).digest()).digest()
    yield "mysql_native_password key", hashlib.sha1(password, usedforsecurity=False).digest()


def outputs_of(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Everything that a proxy wrote, as (name, contents)."""
    for path in _files(folder):
        if path.suffix in HOLDS_SECRETS:
            continue
        data = path.read_bytes().rstrip(b"\0")  # room that the ledger keeps free is megabytes of zeros
        if not _KEY.search(data):
            yield str(path.relative_to(folder)), data


def command_lines(session_id: int) -> Iterator[tuple[str, bytes]]:
    """The command lines of all processes of a process session."""
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and os.getsid(int(entry.name)) == session_id:
                yield f"command line of process {entry.name}", (entry / "cmdline").read_bytes()
        except OSError:
            continue  # it has ended meanwhile


def leaks(secrets: Mapping[str, bytes], outputs: Iterable[tuple[str, bytes]]) -> list[str]:
    """Which secret stands where, without showing it."""
    wanted = [
        (name, form)
        for name, secret in secrets.items()
        if len(secret) >= _SHORTEST
        for form in dict.fromkeys(forms(secret))
        if len(form) >= _SHORTEST
    ]
    found = []
    for place, data in outputs:
        looked["places"] += 1
        looked["searches"] += len(wanted)
        found += [f"{name} in {place} at byte {data.index(form)}" for name, form in wanted if form in data]
    looked["leaks"] += len(found)
    return found


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())
