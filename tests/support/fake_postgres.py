"""A scripted PostgreSQL server and a raw client, both asyncio, for what a real peer would never do.

FakePostgres logs clients in by any method, wrongly where a `Fault` says so, then answers with the model backend or a
script. RawClient logs in like a driver and then sends whatever bytes a test wants. SCRAM is scramp's (the oracle), not ours.
Every wait has a timeout, so a test that hangs fails instead.
"""

from __future__ import annotations

import asyncio
import hashlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from enum import Enum
from typing import Self

from scramp import ScramClient, ScramException, ScramMechanism
from support import pg_bytes as pg
from support.pg_model import Backend

TIMEOUT_S = 10.0
SSL_REQUEST = 80877103
GSSENC_REQUEST = 80877104
CANCEL_REQUEST = 80877102


class Auth(Enum):
    """How the fake server asks for proof."""

    TRUST = "trust"
    CLEARTEXT = "password"
    MD5 = "md5"
    SCRAM = "scram-sha-256"


class Fault(Enum):
    """What the fake server does wrong during login."""

    NONE = "none"
    WRONG_SIGNATURE = "the SCRAM server signature is not the right one"
    NO_FINAL = "AuthenticationOk without the SCRAM server's final message"
    HUGE_ITERATIONS = "10^9 SCRAM iterations"
    ONE_ITERATION = "a single SCRAM iteration"
    EMPTY_SALT = "an empty SCRAM salt"
    OTHER_NONCE = "a nonce that does not begin with the client's"
    TLS_REFUSED = "N to SSLRequest"
    TLS_ERROR = "an ErrorResponse to SSLRequest"
    TLS_EXTRA_BYTES = "bytes behind the S"
    TLS_SILENCE = "nothing at all to SSLRequest"
    ROW_BEFORE_LOGIN = "a DataRow before authentication"
    CLOSES_AT_STARTUP = "closes the connection at start-up"
    SILENT_AT_STARTUP = "nothing at all to the start-up packet"
    TRICKLES_AT_STARTUP = "answers the start-up packet with a byte a second"
    SILENT_AT_PROOF = "nothing at all to the last SCRAM message"


@dataclass
class Session:
    """One connection at the fake server. secrets: every password or proof that it was sent."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    startup: dict[str, str] = field(default_factory=dict)
    is_tls: bool = False
    is_ready: bool = False
    secrets: list[bytes] = field(default_factory=list)
    received: list[tuple[str, bytes]] = field(default_factory=list)
    backend: Backend = field(default_factory=Backend)

    async def send(self, *frames: bytes) -> None:
        self.writer.write(b"".join(frames))
        await self.writer.drain()

    async def message(self) -> tuple[str, bytes]:
        kind, body = await read_message(self.reader)
        self.received.append((kind, body))
        return kind, body


Script = Callable[[Session, str, bytes], Awaitable[None]]


async def model_script(session: Session, kind: str, body: bytes) -> None:
    """Answer as the model backend does."""
    session.backend.receive(pg.frame(kind, body))
    await session.send(session.backend.take())


class FakePostgres:
    """A server on a free port of 127.0.0.1. Enter it with `async with`."""

    def __init__(
        self,
        *,
        auth: Auth = Auth.TRUST,
        password: str = "secret",
        tls: ssl.SSLContext | None = None,
        fault: Fault = Fault.NONE,
        script: Script = model_script,
        parameters: Sequence[tuple[str, str]] = (("server_version", "18.0"), ("client_encoding", "UTF8")),
        secret: bytes = b"\1\2\3\4",
    ) -> None:
        self.auth = auth
        self.password = password
        self.tls = tls
        self.fault = fault
        self.script = script
        self.parameters = tuple(parameters)
        self.secret = secret
        self.sessions: list[Session] = []
        self.cancels: list[tuple[int, bytes]] = []
        self.errors: list[BaseException] = []
        self.port = 0
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.wait_for(self._server.wait_closed(), TIMEOUT_S)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(self._serve(Session(reader, writer)))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, session: Session) -> None:
        try:
            if not await self._begin(session):
                return
            self.sessions.append(session)
            if not await self._authenticate(session):
                return
            await self._welcome(session)
            while not session.backend.is_dead:
                kind, body = await session.message()
                if kind == "X":
                    return
                await self.script(session, kind, body)
        except (asyncio.IncompleteReadError, ConnectionError, ssl.SSLError):
            pass  # the peer left, which is often the point of the test
        except (ScramException, AssertionError, ValueError) as fault:
            self.errors.append(fault)
        finally:
            session.writer.close()
            with suppress(ConnectionError, ssl.SSLError):
                await session.writer.wait_closed()

    async def _begin(self, session: Session) -> bool:
        """Start-up packets until a real one. False: the connection is over."""
        while True:
            size = int.from_bytes(await session.reader.readexactly(4), "big")
            packet = await session.reader.readexactly(size - 4)
            code = int.from_bytes(packet[:4], "big")
            if code == GSSENC_REQUEST:
                await session.send(b"N")
            elif code == SSL_REQUEST:
                if not await self._tls(session):
                    return False
            elif code == CANCEL_REQUEST:
                self.cancels.append((int.from_bytes(packet[4:8], "big"), packet[8:]))
                return False
            else:
                words = packet[4:].split(b"\0")
                names, values = words[0::2], words[1::2]
                session.startup = {n.decode(): v.decode() for n, v in zip(names, values, strict=False) if n}
                if self.fault is Fault.SILENT_AT_STARTUP:
                    await session.reader.read()
                return self.fault not in (Fault.CLOSES_AT_STARTUP, Fault.SILENT_AT_STARTUP)

    async def _tls(self, session: Session) -> bool:
        if self.fault is Fault.TLS_SILENCE:
            await session.reader.read()
            return False
        if self.fault is Fault.TLS_ERROR:
            await session.send(pg.error("08P01", "no TLS here", "FATAL"))
            return False
        if self.tls is None or self.fault is Fault.TLS_REFUSED:
            await session.send(b"N")
            return True
        if self.fault is Fault.TLS_EXTRA_BYTES:
            await session.send(b"S" + pg.authentication_ok() + pg.ready())
            return False
        await session.send(b"S")
        await session.writer.start_tls(self.tls)
        session.is_tls = True
        return True

    async def _authenticate(self, session: Session) -> bool:
        if self.fault is Fault.TRICKLES_AT_STARTUP:
            for byte in pg.authentication_cleartext() * 100:
                await session.send(bytes([byte]))
                await asyncio.sleep(1)
        if self.fault is Fault.ROW_BEFORE_LOGIN:
            await session.send(pg.data_row())
        is_right = True
        if self.auth is Auth.CLEARTEXT:
            await session.send(pg.authentication_cleartext())
            is_right = await self._password(session) == self.password.encode()
        elif self.auth is Auth.MD5:
            await session.send(pg.authentication_md5(b"salt"))
            is_right = await self._password(session) == md5_answer(session.startup["user"], self.password, b"salt")
        elif self.auth is Auth.SCRAM:
            is_right = await self._scram(session)
        if not is_right:
            await session.send(pg.error("28P01", "password authentication failed", "FATAL"))
            return False
        await session.send(pg.authentication_ok())
        return True

    async def _password(self, session: Session) -> bytes:
        kind, body = await session.message()
        assert kind == "p", f"{kind} instead of a password"
        session.secrets.append(body[:-1])
        return body[:-1]

    async def _scram(self, session: Session) -> bool:
        mechanism = ScramMechanism("SCRAM-SHA-256")
        salt, iterations = b"0123456789abcdef", 4096
        stored = mechanism.make_auth_info(self.password, iteration_count=iterations, salt=salt)
        server = mechanism.make_server(lambda _: stored)
        await session.send(pg.authentication_sasl(["SCRAM-SHA-256"]))
        kind, body = await session.message()
        assert kind == "p", f"{kind} instead of SASLInitialResponse"
        name, _, rest = body.partition(b"\0")
        assert name == b"SCRAM-SHA-256", f"unexpected mechanism {name!r}"
        server.set_client_first(rest[4:].decode())
        await session.send(pg.authentication_sasl_continue(self._server_first(server.get_server_first()).encode()))
        kind, body = await session.message()
        assert kind == "p", f"{kind} instead of SASLResponse"
        session.secrets.append(body)
        if self.fault is Fault.SILENT_AT_PROOF:
            await session.reader.read()
            return False
        try:
            server.set_client_final(body.decode())
        except ScramException:
            return False
        final = str(server.get_server_final())
        if self.fault is Fault.WRONG_SIGNATURE:
            final = "v=" + "A" * 43 + "="
        if self.fault is not Fault.NO_FINAL:
            await session.send(pg.authentication_sasl_final(final.encode()))
        return True

    def _server_first(self, message: str) -> str:
        parts = dict(part.split("=", 1) for part in message.split(","))
        if self.fault is Fault.HUGE_ITERATIONS:
            parts["i"] = "1000000000"
        elif self.fault is Fault.ONE_ITERATION:
            parts["i"] = "1"
        elif self.fault is Fault.EMPTY_SALT:
            parts["s"] = ""
        elif self.fault is Fault.OTHER_NONCE:
            parts["r"] = "another" + parts["r"]
        return ",".join(f"{key}={value}" for key, value in parts.items())

    async def _welcome(self, session: Session) -> None:
        reports = [pg.parameter_status(name, value) for name, value in self.parameters]
        await session.send(*reports, pg.backend_key_data(4242, self.secret), pg.ready())
        session.is_ready = True


# ------------------------------------------------------------------------------------------------------ raw client


class LoginError(Exception):
    """The server said no; fields are those of its ErrorResponse."""

    def __init__(self, fields: dict[str, str]) -> None:
        super().__init__(f"{fields.get('C')}: {fields.get('M')}")
        self.fields = fields


class RawClient:
    """A logged-in connection that sends any bytes. Made by `raw_client`."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.parameters: dict[str, str] = {}
        self.notices: list[dict[str, str]] = []
        self.process_id = 0
        self.secret = b""
        self.mechanisms: list[str] = []

    async def send(self, *data: bytes) -> None:
        self.writer.write(b"".join(data))
        await asyncio.wait_for(self.writer.drain(), TIMEOUT_S)

    async def message(self) -> tuple[str, bytes]:
        return await read_message(self.reader)

    async def until_ready(self, count: int = 1) -> list[tuple[str, bytes]]:
        """All messages up to and with the count-th ReadyForQuery."""
        found: list[tuple[str, bytes]] = []
        while count:
            found.append(await self.message())
            count -= found[-1][0] == "Z"
        return found

    async def ask(self, *frames: bytes, ready: int = 1) -> list[tuple[str, bytes]]:
        await self.send(*frames)
        return await self.until_ready(ready)

    async def until_closed(self) -> list[tuple[str, bytes]]:
        """All messages until the server closes; a reset counts as a close."""
        found: list[tuple[str, bytes]] = []
        with suppress(asyncio.IncompleteReadError, ConnectionError, ssl.SSLError):
            while True:
                found.append(await self.message())
        return found

    async def close(self) -> None:
        self.writer.close()
        with suppress(ConnectionError, ssl.SSLError):
            await asyncio.wait_for(self.writer.wait_closed(), TIMEOUT_S)

    def abort(self) -> None:
        """Vanish without a word."""
        self.writer.transport.abort()

    # ---- login

    async def start_tls(self, context: ssl.SSLContext, server_name: str | None = None) -> None:
        await self.send(pg.ssl_request())
        answer = await asyncio.wait_for(self.reader.readexactly(1), TIMEOUT_S)
        if answer != b"S":
            raise LoginError({"C": "", "M": f"server answered {answer!r} to SSLRequest"})
        await asyncio.wait_for(self.writer.start_tls(context, server_hostname=server_name), TIMEOUT_S)

    async def log_in(self, user: str, password: str, database: str, parameters: Sequence[tuple[str, str]] = ()) -> None:
        await self.send(pg.startup([("user", user), ("database", database), *parameters]))
        while True:
            kind, body = await self.message()
            if kind == "R":
                await self._prove(int.from_bytes(body[:4], "big"), body[4:], user, password)
            elif kind == "E":
                raise LoginError(pg.fields_of(body))
            elif kind == "N":
                self.notices.append(pg.fields_of(body))
            elif kind == "S":
                name, value, _ = body.split(b"\0")
                self.parameters[name.decode()] = value.decode()
            elif kind == "K":
                self.process_id, self.secret = int.from_bytes(body[:4], "big"), body[4:]
            elif kind == "Z":
                return
            elif kind != "v":
                raise ValueError(f"unexpected {kind} during login")

    async def _prove(self, code: int, data: bytes, user: str, password: str) -> None:
        if code == 3:
            await self.send(pg.password(password))
        elif code == 5:
            await self.send(pg.password(md5_answer(user, password, data)))
        elif code == 10:
            self.mechanisms = [name.decode() for name in data.split(b"\0") if name]
            await self._scram(password)
        elif code != 0:
            raise ValueError(f"unexpected authentication request {code}")

    async def _scram(self, password: str) -> None:
        client = ScramClient(self.mechanisms, "", password, channel_binding=self._channel_binding())
        first = client.get_client_first().encode()
        await self.send(pg.sasl_initial(client.mechanism_name, first))
        client.set_server_first((await self._sasl(11)).decode())
        await self.send(pg.sasl_response(client.get_client_final().encode()))
        client.set_server_final((await self._sasl(12)).decode())

    async def _sasl(self, code: int) -> bytes:
        kind, body = await self.message()
        if kind == "E":
            raise LoginError(pg.fields_of(body))
        if kind != "R" or int.from_bytes(body[:4], "big") != code:
            raise ValueError(f"unexpected {kind} during SCRAM")
        return body[4:]

    def _channel_binding(self) -> tuple[str, bytes] | None:
        tls = self.writer.get_extra_info("ssl_object")
        if tls is None or "SCRAM-SHA-256-PLUS" not in self.mechanisms:
            return None
        return "tls-server-end-point", hashlib.sha256(tls.getpeercert(binary_form=True)).digest()


@asynccontextmanager
async def raw_client(
    port: int,
    user: str,
    password: str = "",
    database: str = "postgres",
    *,
    host: str = "127.0.0.1",
    tls: ssl.SSLContext | None = None,
    parameters: Sequence[tuple[str, str]] = (),
    log_in: bool = True,
) -> AsyncIterator[RawClient]:
    """Connect, log in unless told otherwise, close at the end. Raises LoginError with the server's own words."""
    reader, writer = await asyncio.wait_for(asyncio.open_connection(host, port), TIMEOUT_S)
    client = RawClient(reader, writer)
    try:
        if tls is not None:
            await client.start_tls(tls, host if tls.check_hostname else None)
        if log_in:
            await asyncio.wait_for(client.log_in(user, password, database, parameters), TIMEOUT_S)
        yield client
    finally:
        await client.close()


async def read_message(reader: asyncio.StreamReader) -> tuple[str, bytes]:
    """One typed message as (type, body)."""
    header = await asyncio.wait_for(reader.readexactly(5), TIMEOUT_S)
    body = await asyncio.wait_for(reader.readexactly(int.from_bytes(header[1:], "big") - 4), TIMEOUT_S)
    return chr(header[0]), body


def md5_answer(user: str, password: str, salt: bytes) -> bytes:
    """The PasswordMessage for AuthenticationMD5Password."""
    inner = hashlib.md5(password.encode() + user.encode()).hexdigest().encode()
    return b"md5" + hashlib.md5(inner + salt).hexdigest().encode()
