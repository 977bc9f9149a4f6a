"""A stand-in for classifiers.classify that does on command what hostile text might make a parser do.

Runs inside the classifier processes: PoolSettings(classify="toy_classifier:classify", scrub="toy_classifier:scrub",
import_paths=(<this folder>,)).
"""

from __future__ import annotations

import os
import signal
import socket
import time

from classifiers.effects import Effect, Kind, LexingState, Report


def _read(name: str = "t", *, functions: tuple[str, ...] = ()) -> Report:
    return Report(effects=(Effect(Kind.DML_READ, name, "read"),), command="SELECT", functions=functions)


def _attempt(act: object) -> str:
    try:
        act()  # type: ignore[operator]  # a table of callables
    except OSError as error:
        return type(error).__name__
    return "worked"


def _channel() -> int:
    """The descriptor of the only socket that a child has."""
    return next(fd for fd in range(256) if _attempt(lambda fd=fd: socket.socket(fileno=fd).detach()) == "worked")


def classify(dialect: str, text: bytes, state: LexingState, server_version: int) -> Report:
    word, _, rest = text.partition(b" ")
    match word:
        case b"spin":
            while True:
                pass
        case b"nap":
            time.sleep(float(rest))
        case b"die":
            os.kill(os.getpid(), signal.SIGSEGV)
        case b"hoard":
            return _read(functions=(str(len(bytearray(1 << 34))),))
        case b"recurse":
            return classify(dialect, text, state, server_version)
        case b"raise":
            raise ValueError("secret hunter2 in " + text.decode())
        case b"large":
            return _read("x" * 2_000_000)
        case b"babble":
            os.write(_channel(), b"\xff" * 64)
            time.sleep(60)
        case b"lie":
            body = b'{"effects": []}'
            os.write(_channel(), len(body).to_bytes(4, "big") + int(rest).to_bytes(4, "big") + body)
            time.sleep(60)
        case b"escape":
            return _read(
                functions=(
                    "open " + _attempt(lambda: open("/etc/hostname").close()),
                    "socket " + _attempt(lambda: socket.socket().close()),
                    "write " + _attempt(lambda: open("/tmp/dbproxy-escape", "w").close()),
                )
            )
        case b"look":
            names = sorted(os.environ)
            fds = [fd for fd in range(256) if _attempt(lambda fd=fd: os.fstat(fd)) == "worked"]
            return _read(
                functions=("env " + " ".join(names), f"fds {len(fds)}", f"pid {os.getpid()}", f"parent {os.getppid()}")
            )
        case b"state":
            return _read(
                functions=(dialect, str(state.standard_conforming_strings), state.encoding, str(server_version))
            )
        case _:
            pass
    return _read(text.decode("utf-8", "replace"))


def scrub(dialect: str, text: bytes, state: LexingState) -> tuple[tuple[int, int], ...]:
    """The words "hunter2" and, on command, no answer."""
    if b"scrub-spin" in text:
        while True:
            pass
    if b"scrub-raise" in text:
        raise ValueError
    at = text.find(b"hunter2")
    return () if at < 0 else ((at, at + 7),)
