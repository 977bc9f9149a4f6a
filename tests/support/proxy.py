"""The real proxy as a subprocess, with settings, users, certificates and ledger in a folder of its own.

with running_proxy(tmp_path, server, policy="observe") as proxy, proxy.connect("alice", database) as connection:
    ...
proxy.records("statement.intent")
"""

from __future__ import annotations

import base64
import contextlib
import gzip
import hashlib
import hmac
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
import yaml
from support import canaries
from support.servers import PASSWORDS, PostgresServer
from support.usage import children, command_line, cpu_s, memory_kib

from dbproxy.embedded.certificates import CertificateAuthority

START_TIMEOUT_S = 30
STOP_TIMEOUT_S = 30
PEOPLE_PASSWORDS = {"alice": "alice-pw", "bob": "bob-pw", "carol": "carol-pw"}
PEOPLE_GROUPS = {"alice": ["dba"], "bob": ["dba", "dba-leads"], "carol": []}
# caching_sha2_password verifiers of the same passwords, made once with `dbproxy user add`.
SHA2_VERIFIERS = {
    "alice": "$A$005$fM47zC.jOT1mDbXdaLX6fPNUtVbTZwmybq4H49SNQCoaQa0CAZZg9X4f/4Zr2I8",
    "bob": "$A$005$/qrMwG4OXNaKlHVLBbJYq03zt7UbctadqV87C04KaSo0A6vKM.LGzKHNk0SI.z7",
    "carol": "$A$005$AaN5AbMSSNbA8/9lUllG5mmio.4q6E.9CvRjz9i..6HY8tgBeUW3MOTzpgRSK7A",
}
NATIVE_PEOPLE = {"alice"}
# What a target must be willing to do for each account of support.servers.
ACCOUNT_AUTH = {"md5_user": ["md5"], "clear_user": ["password"], "trust_user": ["trust"], "cert_user": ["cert"]}
_ROOT = Path(os.environ.get("DBPROXY_TREE") or Path(__file__).resolve().parents[2])
"""Where the packages are that are run: these, or a compiled build of them."""


@dataclass
class Proxy:
    """A running proxy. folder holds everything it reads and writes."""

    folder: Path
    process: subprocess.Popen[bytes] = field(repr=False)
    host: str
    port: int
    admin: tuple[str, int]
    ca: Path
    default_database: str = "postgres"

    @property
    def ledger(self) -> Path:
        return self.folder / "ledger"

    @property
    def settings_path(self) -> Path:
        return self.folder / "dbproxy.yaml"

    @property
    def stderr(self) -> str:
        return (self.folder / "stderr.log").read_text(errors="replace")

    # ------------------------------------------------------------------ clients

    def address(self, user: str = "alice", database: str | None = None) -> dict[str, Any]:
        """Keyword arguments for psycopg. user may be `person+account`."""
        person = user.replace("%", "+").split("+")[0]
        password = PEOPLE_PASSWORDS.get(person) or PASSWORDS.get(person, "")
        return {
            "host": self.host,
            "port": self.port,
            "user": user,
            "password": password,
            "dbname": database or self.default_database,
        }

    def environment(self, user: str = "alice", database: str | None = None) -> dict[str, str]:
        """PG* variables for psql, pg_dump and pgbench, with the proxy's certificate verified."""
        address = self.address(user, database)
        names = {"host": "PGHOST", "port": "PGPORT", "user": "PGUSER", "password": "PGPASSWORD", "dbname": "PGDATABASE"}
        return {
            **{names[key]: str(value) for key, value in address.items()},
            "PGSSLMODE": "verify-full",
            "PGSSLROOTCERT": str(self.ca),
        }

    @contextlib.contextmanager
    def connect(
        self, user: str = "alice", database: str | None = None, **options: Any
    ) -> Iterator[psycopg.Connection[Any]]:
        """A connection through the proxy in autocommit mode, over verified TLS unless options say otherwise."""
        defaults = {"connect_timeout": 20, "sslmode": "verify-full", "sslrootcert": str(self.ca)}
        with contextlib.closing(
            psycopg.connect(autocommit=True, **{**self.address(user, database), **defaults, **options})
        ) as connection:
            yield connection

    # ------------------------------------------------------------------ its processes

    def processes(self, role: str) -> list[int]:
        """Process numbers of `control` or of every `worker`, a worker's in the order of slots."""
        found = []
        for pid in children(self.process.pid):
            words = command_line(pid)
            if "dbproxy.process" in words and words[words.index("dbproxy.process") + 1] == role:
                found.append((int(words[words.index("dbproxy.process") + 2]), pid))
        return [pid for _, pid in sorted(found)]

    @property
    def pids(self) -> list[int]:
        """The supervisor, control, and every worker; not what parses SQL."""
        return [self.process.pid, *self.processes("control"), *self.processes("worker")]

    def memory_kib(self, field: str = "VmRSS") -> int:
        """Resident memory of all of them, or the sum of their peaks with VmHWM."""
        return sum(memory_kib(pid, field) for pid in self.pids)

    def forget_peak(self) -> int:
        """Begin to measure VmHWM anew. Returns what is resident now."""
        for pid in self.pids:
            Path(f"/proc/{pid}/clear_refs").write_text("5")  # proc(5): 5 resets VmHWM
        return self.memory_kib()

    def cpu_s(self) -> float:
        """Processor time that they have used."""
        return sum(cpu_s(pid) for pid in self.pids)

    # ------------------------------------------------------------------ what it recorded and says of itself

    def records(self, *types: str) -> list[dict[str, Any]]:
        """Every complete record of the ledger so far, of the given types if any, by time; each chain's in their order."""
        records = [record for each in self._segments("audit-*").values() for record in each]
        records.sort(key=lambda record: record["at"])  # stable: where two of a chain have one time, they stay in order
        return [record for record in records if not types or record["type"] in types]

    def records_of(self, slot: int) -> list[dict[str, Any]]:
        """The records of one chain."""
        return [record for each in self._segments(f"audit-{slot}-*").values() for record in each]

    def _segments(self, pattern: str) -> dict[str, list[dict[str, Any]]]:
        """By name, in order."""
        found: dict[str, list[dict[str, Any]]] = {}
        for path in sorted(self.ledger.glob(f"{pattern}.jsonl*")):
            if path.suffix == ".part":  # a compressed copy that is not whole
                continue
            with contextlib.suppress(FileNotFoundError):  # compressed at this moment: the other form is there too
                data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
                lines = data.split(b"\n")[:-1]
                found[path.name.removesuffix(".gz")] = [json.loads(line) for line in lines if line.strip()]
        return found

    def wait_for_record(self, is_it: Callable[[dict[str, Any]], bool], timeout_s: float = 10) -> dict[str, Any]:
        """The first record for which is_it holds, waiting for it to appear."""
        deadline = time.monotonic() + timeout_s
        while True:
            for record in self.records():
                if is_it(record):
                    return record
            if time.monotonic() > deadline:
                raise AssertionError(
                    f"no such record within {timeout_s} s; types: {[each['type'] for each in self.records()]}"
                )
            time.sleep(0.05)

    def wait_for_next(self, type_: str, count: int) -> dict[str, Any]:
        """The record that follows the first count records of that type, waiting for it to appear."""
        deadline = time.monotonic() + 10
        while len(found := self.records(type_)) <= count:
            assert time.monotonic() < deadline, f"no further {type_} within 10 s"
            time.sleep(0.02)
        return found[count]

    def get(self, path: str) -> tuple[int, str]:
        """GET from the admin listener. Returns status and body."""
        return _get(self.admin, path)

    def metric(self, name: str, **labels: str) -> float:
        """The sum of the samples of a metric whose labels include labels; 0 if there are none."""
        from prometheus_client.parser import text_string_to_metric_families

        samples = [
            sample for family in text_string_to_metric_families(self.get("/metrics")[1]) for sample in family.samples
        ]
        return sum(each.value for each in samples if each.name == name and labels.items() <= each.labels.items())

    # ------------------------------------------------------------------ control

    def write_policy(self, text: str) -> None:
        """Replace the policy file, whole at once. Takes effect at reload()."""
        path = self.folder / "policy.yaml"
        new = path.with_suffix(".new")
        _write(new, text)
        new.replace(path)

    def reload(self) -> None:
        """SIGHUP. Returns at once: wait for the record `policy.loaded` or `policy.rejected`."""
        self.process.send_signal(signal.SIGHUP)

    def stop(self) -> int:
        """SIGTERM, wait for the end. Returns the exit status; does nothing if it has ended."""
        if self.process.poll() is None:
            self.process.terminate()
        try:
            return self.process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(
                f"the proxy did not end within {STOP_TIMEOUT_S} s of SIGTERM; its messages:\n{self.stderr}"
            ) from None

    def kill(self) -> None:
        """SIGKILL, and wait for the end."""
        self.process.kill()
        self.process.wait(10)


def settings_for(
    server: PostgresServer, folder: Path, *, policy: str, env: str, database: str, accounts: Sequence[str]
) -> dict[str, Any]:
    """Settings as a dict of plain values, to be changed by a test before it is written."""
    is_shipped = "\n" not in policy
    if not is_shipped:
        _write(folder / "policy.yaml", policy)
    entries = []
    for name in accounts:
        password = PASSWORDS[name]
        account: dict[str, Any] = {"name": name, "user": name}
        if password:
            _write(folder / f"{name}.password", password)
            account["password"] = f"${{file:{name}.password}}"
        entries.append(account)
    tls: dict[str, Any] = {"mode": "disable"}
    if server.ca is not None and server.client is not None:
        tls = {
            "mode": "verify-full",
            "ca": str(server.ca),
            "certificate": str(server.client.certificate),
            "key": str(server.client.key),
        }
    return {
        "version": 1,
        "listeners": [
            {
                "name": "main",
                "address": f"127.0.0.1:{_free_port()}",
                "target": "shop",
                "tls": {"mode": "allow", "certificate": "proxy.crt", "key": "proxy.key"},
            }
        ],
        "targets": [
            {
                "name": "shop",
                "host": server.host,
                "port": server.port,
                "env": env,
                "database": database,
                "tls": tls,
                "accept_auth": [
                    "scram-sha-256-plus",
                    "scram-sha-256",
                    *(auth for name in accounts for auth in ACCOUNT_AUTH.get(name, [])),
                ],
                "accounts": entries,
                "default_account": accounts[0],
            }
        ],
        "users": {"auth": "local", "file": "users.yaml"},
        "policies": {"files": [f"builtin:{policy}" if is_shipped else "policy.yaml"]},
        "audit": {"directory": "ledger"},
        "admin": {"address": f"127.0.0.1:{_free_port()}"},
    }


@contextlib.contextmanager
def running_proxy(
    folder: Path,
    server: PostgresServer,
    *,
    policy: str = "observe",
    env: str = "prod",
    database: str = "postgres",
    accounts: Sequence[str] = ("app",),
    workers: int | None = None,
    change: Callable[[dict[str, Any]], None] = lambda settings: None,
    environment: Mapping[str, str] | None = None,
    arguments: Sequence[str] = (),
    launcher: Sequence[str] = (),
    tree: Path = _ROOT,
    is_clean_end_expected: bool = True,
) -> Iterator[Proxy]:
    """Run `dbproxy serve` until the block ends.

    policy: `observe`, `default`, or the text of a policy file. accounts: of support.servers, the first one is the
    default. workers: processes that serve clients, None for as many as the product starts by itself; one is up in half the
    time. change: edits the settings dict before it is written. launcher: Python's options before `-m dbproxy`.
    tree: where the packages are that it runs.
    On leaving, the proxy must have ended with status 0 and without a traceback, unless is_clean_end_expected is False,
    and no secret may stand in anything that it wrote.
    """
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    ca = CertificateAuthority(folder)
    ca.issue("proxy", "localhost")
    settings = settings_for(server, folder, policy=policy, env=env, database=database, accounts=accounts)
    if workers is not None:
        settings["processes"] = {"workers": workers}
    change(settings)
    _write(folder / "users.yaml", yaml.safe_dump(_users(accounts, settings)))
    _write(folder / "dbproxy.yaml", yaml.safe_dump(settings, sort_keys=False))
    with (folder / "stderr.log").open("wb") as log, (folder / "stdout.log").open("wb") as out:
        # An unclosed socket or file of the proxy shows up in its messages, and fails the test below.
        process = subprocess.Popen(
            [
                sys.executable,
                "-W",
                "always::ResourceWarning",
                *launcher,
                "-m",
                "dbproxy",
                "serve",
                "--settings",
                str(folder / "dbproxy.yaml"),
                *arguments,
            ],
            cwd=tree,
            env={**os.environ, **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=log,
            start_new_session=True,
        )
    listener, admin = _split(settings["listeners"][0]["address"]), _split(settings["admin"]["address"])
    proxy = Proxy(folder, process, *listener, admin, ca.certificate, database)
    try:
        _wait_until_ready(proxy)
        yield proxy
        said = _said(proxy)
        status = proxy.stop()
        leaks = canaries.leaks(_secrets(folder, server), [*said, *canaries.outputs_of(folder)])
        assert not leaks, f"secrets in what the proxy wrote: {leaks}"
        if is_clean_end_expected:
            assert status == 0, f"the proxy ended with status {status}:\n{proxy.stderr}"
            assert not [sign for sign in ("Traceback", "ResourceWarning") if sign in proxy.stderr], proxy.stderr
    finally:
        if process.poll() is None:
            proxy.kill()


def _said(proxy: Proxy) -> list[tuple[str, bytes]]:
    """What a running proxy says of itself outside its folder; nothing if the test has ended it."""
    canaries.looked["proxies"] += 1
    if proxy.process.poll() is not None:
        return []
    said = list(canaries.command_lines(proxy.process.pid))
    with contextlib.suppress(OSError, http.client.HTTPException):
        said.append(("metrics", proxy.get("/metrics")[1].encode()))
    return said


def _secrets(folder: Path, server: PostgresServer) -> dict[str, bytes]:
    """Everything that this proxy knows or is told and must keep to itself, by a name that may be shown."""
    people = {f"{name}'s password": password.encode() for name, password in PEOPLE_PASSWORDS.items()}
    people |= {
        f"{name}'s {what}": key
        for name, password in PEOPLE_PASSWORDS.items()
        for what, key in canaries.mysql_keys(password.encode())
    }
    accounts = {f"{name}'s password": password.encode() for name, password in PASSWORDS.items()}
    own = {"superuser's password": server.password.encode()}
    if server.client is not None:
        own |= canaries.secrets_in(server.client.key.parent)
    return people | accounts | own | canaries.secrets_in(folder)


def _wait_until_ready(proxy: Proxy) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while True:
        if proxy.process.poll() is not None:
            raise AssertionError(
                f"the proxy ended with status {proxy.process.returncode} while starting:\n{proxy.stderr}"
            )
        with contextlib.suppress(OSError, http.client.HTTPException):
            if proxy.get("/readyz")[0] == 200:
                return
        if time.monotonic() > deadline:
            raise AssertionError(f"the proxy is not ready after {START_TIMEOUT_S} s:\n{proxy.stderr}")
        time.sleep(0.05)


def scram_verifier(password: str, iterations: int = 4096) -> str:
    """PostgreSQL's form of a SCRAM-SHA-256 verifier, made without the code under test."""
    salt = os.urandom(16)
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, iterations)
    client_key = hmac.digest(salted, b"Client Key", "sha256")
    stored, server = hashlib.sha256(client_key).digest(), hmac.digest(salted, b"Server Key", "sha256")
    text = [base64.b64encode(each).decode() for each in (salt, stored, server)]
    return f"SCRAM-SHA-256${iterations}:{text[0]}${text[1]}:{text[2]}"


def native_verifier(password: str) -> str:
    """MySQL's form of a mysql_native_password verifier, made without the code under test."""
    return "*" + hashlib.sha1(hashlib.sha1(password.encode()).digest()).hexdigest().upper()


def _users(accounts: Sequence[str], settings: Mapping[str, Any]) -> dict[str, Any]:
    native = NATIVE_PEOPLE if any(each.get("mysql_native_password") for each in settings["listeners"]) else set()
    people = [
        {
            "name": name,
            "groups": PEOPLE_GROUPS[name],
            "verifier": scram_verifier(password),
            "sha2_verifier": SHA2_VERIFIERS[name],
            **({"native_verifier": native_verifier(password)} if name in native else {}),
            "accounts": {target["name"]: list(accounts) for target in settings["targets"]},
            "default_account": accounts[0],
        }
        for name, password in PEOPLE_PASSWORDS.items()
    ]
    return {"version": 1, "people": people}


def _get(address: tuple[str, int], path: str) -> tuple[int, str]:
    with contextlib.closing(http.client.HTTPConnection(*address, timeout=5)) as connection:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read().decode()


def _write(path: Path, text: str) -> None:
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)


def _split(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host, int(port)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
