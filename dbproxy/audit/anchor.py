"""Anchors: where checkpoints are kept outside of the ledger. A file, a syslog daemon, a web server. Blocking; each runs in a thread of anchor_sender.py.

An anchor is only asked to keep: nothing is read back here. Counterpart: anchor_lines.py, which says what is kept; verify_seals.py, which compares.
"""

from __future__ import annotations

import http.client
import os
import socket
import ssl
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

from config.secret import SecretError
from dbproxy.audit.anchor_lines import short_line
from dbproxy.audit.checkpoint import Seal
from dbproxy.audit.segment import sync_directory, write_all
from dbproxy.errors import DbproxyError

TIMEOUT_S = 5.0
"""For each step of one attempt."""
UDP_MAX_BYTES = 2048
"""What a receiver of syslog over UDP should take (RFC 5426, section 3.2)."""
SYSLOG_MAX_BYTES = 8192
"""What syslog daemons take by default over a stream or a local socket."""
_PRIORITY = 13 * 8 + 5
"""Facility "log audit", severity "notice" (RFC 5424, section 6.2.1)."""
_ANSWER_BYTES = 64 << 10


class AnchorFailed(DbproxyError):  # noqa: N818 - named for what happened
    """A checkpoint was not kept, or it is not known. Its text is for operators."""


class Anchor(Protocol):
    """Keeps checkpoints. name: for events and logs, without secrets."""

    name: str

    def keep(self, seal: Seal) -> None:
        """Returns when the checkpoint is kept. Raises AnchorFailed. May be called again with the same one."""


class FileAnchor:
    """Appends each checkpoint to a file and syncs it. The file is opened each time, so that it may be rotated or a mount may come back."""

    def __init__(self, path: Path) -> None:
        self.name = f"file:{path}"
        self.path = path

    def keep(self, seal: Seal) -> None:
        try:
            fd = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                size = os.fstat(fd).st_size
                is_torn = size > 0 and os.pread(fd, 1, size - 1) != b"\n"
                write_all(fd, (b"\n" if is_torn else b"") + seal.line + b"\n")
                os.fsync(fd)
                if size == 0:
                    sync_directory(self.path.parent)
            finally:
                os.close(fd)
        except OSError as error:
            raise AnchorFailed(error.strerror or str(error)) from error


class SyslogAnchor:
    """Sends each checkpoint as one RFC 5424 message. Over UDP and local sockets nobody confirms that it was kept; over TCP only that it was sent."""

    def __init__(self, address: str) -> None:
        """address: unix:/dev/log, udp:HOST:PORT or tcp:HOST:PORT."""
        self.name = f"syslog:{address}"
        self._kind, _, rest = address.partition(":")
        self._path = rest
        host, _, port = rest.rpartition(":")
        self._host = host.removeprefix("[").removesuffix("]")
        self._port = int(port) if self._kind != "unix" else 0

    def keep(self, seal: Seal) -> None:
        message = format_syslog(seal, UDP_MAX_BYTES if self._kind == "udp" else SYSLOG_MAX_BYTES)
        try:
            if self._kind == "unix":
                self._send_local(message)
            elif self._kind == "tcp":
                with socket.create_connection((self._host, self._port), TIMEOUT_S) as stream:
                    stream.sendall(b"%d %b" % (len(message), message))  # octet counting, RFC 6587
            else:
                family, type_, protocol, _, to = socket.getaddrinfo(self._host, self._port, type=socket.SOCK_DGRAM)[0]
                with socket.socket(family, type_, protocol) as datagrams:
                    datagrams.settimeout(TIMEOUT_S)
                    datagrams.connect(to)
                    datagrams.send(message)
        except OSError as error:
            raise AnchorFailed(error.strerror or str(error)) from error

    def _send_local(self, message: bytes) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as datagrams:
            datagrams.settimeout(TIMEOUT_S)
            datagrams.connect(self._path)
            datagrams.send(message)


def format_syslog(seal: Seal, max_bytes: int) -> bytes:
    """An RFC 5424 message with the full line, or the short one where that does not fit."""
    node = "".join(letter if "!" <= letter <= "~" else "_" for letter in seal.node) or "-"
    kind = seal.type.value.replace(b".", b"-")
    head = b"<%d>1 %b %b dbproxy - %b - " % (_PRIORITY, seal.at.encode(), node.encode(), kind)
    line = seal.line
    return head + (line if len(head) + len(line) <= max_bytes else short_line(seal))


class HttpAnchor:
    """Posts each checkpoint as a JSON object. Any 2xx answer counts as kept; redirects are not followed, proxies of the environment not used."""

    def __init__(self, url: str, *, read_token: Callable[[], bytes] | None = None, ca: Path | None = None) -> None:
        """read_token: called for each attempt, so that a changed token is picked up. ca: PEM file; the system's authorities when None.

        Raises OSError, ssl.SSLError if ca cannot be loaded.
        """
        parts = urlsplit(url)
        self.name = f"http:{parts.scheme}://{parts.netloc}{parts.path}"
        self._host = parts.hostname or ""
        self._port = parts.port
        self._target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        self._context = ssl.create_default_context(cafile=ca) if parts.scheme == "https" else None
        self._read_token = read_token

    def keep(self, seal: Seal) -> None:
        headers = {"Content-Type": "application/json", "User-Agent": "dbproxy"}
        try:
            if self._read_token is not None:
                headers["Authorization"] = f"Bearer {self._read_token().decode('latin-1')}"
            with closing(self._connect()) as connection:
                connection.request("POST", self._target, seal.line, headers)
                answer = connection.getresponse()
                status = answer.status
                with suppress(http.client.HTTPException):
                    answer.read(_ANSWER_BYTES)
        except (OSError, http.client.HTTPException, ValueError, SecretError) as error:
            raise AnchorFailed(getattr(error, "strerror", None) or str(error) or type(error).__name__) from error
        if not 200 <= status < 300:
            raise AnchorFailed(f"answered {status}")

    def _connect(self) -> http.client.HTTPConnection:
        if self._context is None:
            return http.client.HTTPConnection(self._host, self._port, timeout=TIMEOUT_S)
        return http.client.HTTPSConnection(self._host, self._port, timeout=TIMEOUT_S, context=self._context)
