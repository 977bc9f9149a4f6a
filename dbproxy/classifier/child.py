"""The processes in which hostile SQL is parsed: one template that imports and warms up once, and the children it forks.

    proxy ──control socket──▶ template ──fork──▶ child ◀──its own socket──▶ proxy

The template never sees a statement. It forks a child in some milliseconds, hands it the socket that came with the order, reaps it and
kills it when told: only a parent can name a process without racing against a reused number. A child reads one request, answers, and
waits for the next. It can open nothing (no file, no socket, no process), has a bounded memory and life, and dies with the template,
which dies with the proxy. Nothing here knows a policy, a session or a secret.

Control, proxy to template: fixed 8 bytes, order ("F" fork, "K" kill), 3 spare, child number u32; "F" carries the child's socket.
Control, template to proxy: one JSON object a line: {"ready": true}, {"failed": why}, {"started": number, "pid": pid},
{"ended": number, "status": wait status}.
Counterparts: processes.py starts and uses this; frames.py is the language of requests.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import logging
import os
import pkgutil
import resource
import select
import signal
import socket
import struct
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple

import orjson

from classifiers.effects import LexingState, Report
from dbproxy.classifier.frames import (
    FRAME,
    MAX_ANSWER_BYTES,
    OUT_OF_MEMORY,
    SCRUB,
    Spans,
    report_fields,
    unparsable,
    whole,
)

ORDER = struct.Struct("!c3xI")
FORK, KILL = b"F", b"K"


class Reader(NamedTuple):
    """What a child can do with a text. classify: see classifiers.classify; scrub: see classifiers.redact.find_secret_spans."""

    classify: Callable[[str, bytes, LexingState, int], Report]
    scrub: Callable[[str, bytes, LexingState], Spans]


_WARM_UP = (
    b"SELECT a.x, count(*) FROM s.t a LEFT JOIN u USING (id) WHERE a.y = $1 AND b IN (1, 'x') GROUP BY 1 ORDER BY 2 LIMIT 5",
    b"WITH c AS (SELECT 1) INSERT INTO t (a, b) SELECT * FROM c RETURNING a",
    b"UPDATE t SET a = a + 1 WHERE id = 7",
    b"DELETE FROM t WHERE id = 7",
    b"CREATE TABLE t (id int PRIMARY KEY, v text DEFAULT 'x')",
    b"ALTER TABLE t ADD COLUMN w numeric(10, 2)",
    b"DROP TABLE t; SELECT '",
    b"SET search_path TO a, b",
)
_ENCODINGS = [
    "ascii",
    "big5",
    "cp932",
    "euc_jp",
    "euc_kr",
    "gb18030",
    "gbk",
    "iso8859_15",
    "johab",
    "koi8_r",
    "koi8_u",
    "latin_1",
    "shift_jis",
    "utf_8",
    "utf_16_le",
]
_ENCODINGS += [f"cp{n}" for n in (866, 874, *range(1250, 1259))] + [f"iso8859_{n}" for n in range(2, 11)]
_LAZY_PACKAGES = ("sqlglot.optimizer",)
"""What the parser imports only when it meets some rare construct."""
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_NO_NEW_PRIVS = 1, 4, 38  # linux/prctl.h


class ChildLimits(NamedTuple):
    """What a child may use. memory_bytes: address space; cpu_s: processor time in its whole life."""

    memory_bytes: int
    cpu_s: int


def main(
    control_fd: int, proxy_pid: int, classify: str, scrub: str, dialects: str, memory_bytes: int, cpu_s: int
) -> None:
    """Run as the template until the proxy closes the control socket.

    classify, scrub: "module:function" for the two fields of Reader; dialects: comma-separated, each is warmed up.
    """
    _die_with_parent(proxy_pid)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(
            number, signal.SIG_IGN
        )  # a stop sent to the whole group must not take the classifier from a draining proxy
    control = socket.socket(fileno=control_fd)
    # sqlglot logs whole statements, passwords included, at WARNING.
    logging.disable(logging.CRITICAL)
    try:
        reader = _load(classify, scrub, dialects.split(","))
    except BaseException as error:  # noqa: BLE001 - the proxy is to be told why, whatever it is
        _tell(control, {"failed": f"{type(error).__name__}: {error}"[:300]})
        return
    gc.collect()
    gc.freeze()  # what is here now is never freed: children share its pages and their collector skips it
    _tell(control, {"ready": True})
    _serve_orders(control, reader, ChildLimits(memory_bytes, cpu_s))


def _load(classify: str, scrub: str, dialects: list[str]) -> Reader:
    """Import all that a child may ever need, since a child can open no file, and run it once."""
    for encoding in _ENCODINGS:
        importlib.import_module(f"encodings.{encoding}")
    _import_all(classify.partition(":")[0].partition(".")[0])
    for name in _LAZY_PACKAGES:
        if name.partition(".")[0] in sys.modules:
            _import_all(name)
    reader = Reader(_find(classify), _find(scrub))
    for dialect in dialects:
        for text in _WARM_UP * 3:
            reader.scrub(dialect, text, LexingState())
            report_fields(reader.classify(dialect, text, LexingState(), 0))
    return reader


def _import_all(name: str) -> None:
    package = importlib.import_module(name)
    for info in pkgutil.walk_packages(getattr(package, "__path__", ()), name + "."):
        importlib.import_module(info.name)


def _find(name: str) -> Any:
    module, _, function = name.partition(":")
    return getattr(importlib.import_module(module), function)


def _serve_orders(control: socket.socket, reader: Reader, limits: ChildLimits) -> None:
    wake_read, wake_write = os.pipe()
    os.set_blocking(wake_write, False)
    signal.signal(signal.SIGCHLD, lambda _signal, _frame: None)
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    children: dict[int, int] = {}  # pid → number
    poller = select.poll()
    poller.register(control, select.POLLIN)
    poller.register(wake_read, select.POLLIN)
    while True:
        ready = {fd for fd, _ in poller.poll()}
        if wake_read in ready:
            os.read(wake_read, 4096)
        _reap(control, children)
        if control.fileno() not in ready:
            continue
        message, fds = _receive_order(control)
        if not message:
            break
        order, number = ORDER.unpack(message)
        if order == FORK:
            with socket.socket(fileno=fds[0]) as channel:
                pid = os.fork()
                if pid == 0:
                    _become_child(channel, control, (wake_read, wake_write), reader, limits)
            children[pid] = number
            _tell(control, {"started": number, "pid": pid})
        else:
            for pid, known in children.items():
                if known == number:
                    os.kill(pid, signal.SIGKILL)
    for pid in children:
        os.kill(pid, signal.SIGKILL)
    for pid in children:
        os.waitpid(pid, 0)  # in a container nobody else might


def _receive_order(control: socket.socket) -> tuple[bytes, list[int]]:
    """One whole order and the descriptors that came with it; b"" when the proxy has gone."""
    message, fds, _, _ = socket.recv_fds(control, ORDER.size, 1)
    while message and len(message) < ORDER.size:
        more, more_fds, _, _ = socket.recv_fds(control, ORDER.size - len(message), 1)
        fds += more_fds
        message = message + more if more else b""
    return message, fds


def _reap(control: socket.socket, children: dict[int, int]) -> None:
    """Collect every child that has ended and report it. A pid is forgotten here, before its number can be used again."""
    while children:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return
        _tell(control, {"ended": children.pop(pid), "status": os.waitstatus_to_exitcode(status)})


def _tell(control: socket.socket, event: dict[str, Any]) -> None:
    with suppress(OSError):  # the proxy has gone: the next read says so
        control.sendall(orjson.dumps(event) + b"\n")


def _become_child(
    channel: socket.socket, control: socket.socket, wake: tuple[int, int], reader: Reader, limits: ChildLimits
) -> None:
    """The forked process's whole life; does not return."""
    status = 1
    try:
        _die_with_parent(os.getppid())
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        control.close()
        for fd in wake:
            os.close(fd)
        _confine(limits)
        _serve_requests(channel, reader)
        status = 0
    except BaseException:  # noqa: BLE001, S110 - nobody may be told: the text of the error may hold the statement. The proxy sees EOF.
        pass
    finally:
        os._exit(status)


def _confine(limits: ChildLimits) -> None:
    """Take away all that reading a text does not need."""
    resource.setrlimit(resource.RLIMIT_AS, (limits.memory_bytes, limits.memory_bytes))
    resource.setrlimit(resource.RLIMIT_CPU, (limits.cpu_s, limits.cpu_s))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core file would hold statements
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, 0))  # nothing can be opened; what is open stays usable
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    _prctl(_PR_SET_DUMPABLE, 0)


def _serve_requests(channel: socket.socket, reader: Reader) -> None:
    """Answer requests until the proxy closes the channel. The first frame, without a body, says that the child is there."""
    gc.disable()
    channel.sendall(FRAME.pack(0, 0))
    served = 0
    while head := _read_exactly(channel, FRAME.size):
        length, sequence = FRAME.unpack(head)
        body = _read_exactly(channel, length)
        answer = _answer(reader, body)
        channel.sendall(FRAME.pack(len(answer), sequence) + answer)
        served += 1
        # Trees are cyclic, so the collector is needed; it runs after the answer, when the proxy does not wait for us.
        if served % 64 == 0 or length > 4096:
            gc.collect()


def _answer(reader: Reader, body: bytes) -> bytes:
    """The encoded report for a request."""
    header, _, text = body.partition(b"\n")
    request = orjson.loads(header)
    dialect, state = request["dialect"], LexingState(**request["state"])
    if request["operation"] == SCRUB:
        return orjson.dumps(report_fields(unparsable("", reader.scrub(dialect, text, state))))
    try:
        answer = orjson.dumps(report_fields(reader.classify(dialect, text, state, request["server"])))
        if len(answer) <= MAX_ANSWER_BYTES:
            return answer
        reason = "its description is too large"
    except MemoryError:
        reason = OUT_OF_MEMORY
    except RecursionError:
        reason = "it is nested too deep"
    except Exception as error:  # noqa: BLE001 - whatever the parser does, the answer is a refusal; the text of the error stays here
        reason = f"the classifier failed with {type(error).__name__}"[:200]
    try:
        spans = reader.scrub(dialect, text, state)
    except Exception:  # noqa: BLE001 - then all of it is kept back
        spans = whole(text)
    return orjson.dumps(report_fields(unparsable(reason, spans)))


def _read_exactly(channel: socket.socket, size: int) -> bytes:
    """Exactly that many bytes, or b"" if the proxy has closed the channel."""
    data = channel.recv(size, socket.MSG_WAITALL)
    while data and len(data) < size:
        more = channel.recv(size - len(data), socket.MSG_WAITALL)
        data = data + more if more else b""
    return data


def _die_with_parent(parent_pid: int) -> None:
    """Ask the kernel for SIGKILL when the parent ends. Elsewhere than on Linux the closed socket has to do."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:
        os._exit(1)  # it ended before we asked


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        _libc.prctl(option, value, 0, 0, 0)


_libc = ctypes.CDLL(None)
