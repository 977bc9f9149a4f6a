"""Asking the running proxy from the command line: HTTP over the admin socket. Counterpart: admin.py."""

from __future__ import annotations

import http.client
from pathlib import Path
from typing import Any, cast

import orjson

from dbproxy import unix_socket
from dbproxy.errors import DbproxyError

_TIMEOUT_S = 35.0
"""More than the proxy gives itself for a request."""
_MAX_ANSWER_BYTES = 64 << 20


class NotRunningError(DbproxyError):
    """Nobody answers at the socket."""


class AdminError(DbproxyError):
    """The proxy says no. status: the HTTP status."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class AdminClient:
    """One proxy, found by its admin socket. Each call is a connection of its own."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def get(self, path: str) -> dict[str, Any]:
        """The answer to a question. Raises NotRunningError, AdminError."""
        return self._ask("GET", path, None)

    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Have something done. Raises NotRunningError, AdminError."""
        return self._ask("POST", path, orjson.dumps(body))

    def _ask(self, method: str, path: str, body: bytes | None) -> dict[str, Any]:
        connection = _Connection(self._path)
        headers = {"Content-Type": "application/json"} if body is not None else {}
        try:
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            answer = response.read(_MAX_ANSWER_BYTES)
        except TimeoutError:
            raise NotRunningError(f"the proxy does not answer at {self._path}") from None
        except FileNotFoundError:
            raise NotRunningError(f"no proxy is running: there is no {self._path}") from None
        except ConnectionRefusedError:
            raise NotRunningError(f"no proxy is running: nobody listens at {self._path}") from None
        except PermissionError:
            raise NotRunningError(
                f"{self._path} is closed to you: be the user that the proxy runs as, or root"
            ) from None
        except (OSError, http.client.HTTPException) as error:
            raise NotRunningError(f"no answer from {self._path}: {type(error).__name__}") from error
        finally:
            connection.close()
        try:
            value = orjson.loads(answer)
            if response.status == 200:
                return cast("dict[str, Any]", dict(value))
            text = str(value["error"])
        except (ValueError, KeyError, TypeError):
            raise NotRunningError(f"{self._path} is not a dbproxy's: HTTP status {response.status}") from None
        raise AdminError(response.status, text)


class _Connection(http.client.HTTPConnection):
    """HTTP over a unix socket; the Host header says localhost."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=_TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        self.sock = unix_socket.connect(self._path, timeout_s=_TIMEOUT_S)
