"""Run asyncpg's own test suite twice, direct and through the proxy, and compare test by test.

    make suite-asyncpg CHECKOUT=/path/to/a/checkout/of/MagicStack/asyncpg

The checkout must stand at a release tag (v0.31.0 is what this was written with): that release of asyncpg is installed
into reports/ for the run, because the tests belong to it. Nothing is written into the checkout. Each way has a fresh
server of its own; the proxy runs under the policy `observe`. Reports go to reports/suites/asyncpg-*.xml.
Ends with status 0 if every difference is one that EXPLAINED tells the reason for.
With --default a third run goes through the shipped policy `default`, to count and list what it refuses.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from support.junit import Result, compare, read_results, say_comparison
from support.own_roles import proxy_with_own_roles
from support.proxy import Proxy
from support.servers import PostgresServer, newest_postgres, postgres_with_tls

ROOT = Path(__file__).resolve().parents[2]
# Test -> why it may differ through a proxy.
EXPLAINED: dict[str, str] = {
    "tests.test_execute.TestExecuteMany.test_executemany_server_failure_during_writes": (
        "a race that direct runs lose as well: the client must hear of an error before it has written 4 MB; "
        "the sockets of a proxy hold more bytes on the way than one connection does"
    ),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("checkout", type=Path, help="a checkout of MagicStack/asyncpg at a release tag")
    parser.add_argument("--tls", action="store_true", help="TLS on both legs, on the newest server built with it")
    parser.add_argument("--default", action="store_true", help="also count what the policy `default` refuses")
    parser.add_argument("--only", default="", help="run only tests whose name matches (pytest -k)")
    options = parser.parse_args()
    version = _version(options.checkout)
    reports = ROOT / "reports" / "suites"
    reports.mkdir(parents=True, exist_ok=True)
    library = _library(version, reports)
    outcomes: dict[str, dict[str, Result]] = {}
    for way in ("direct", "proxied", *(["default"] if options.default else [])):
        report = reports / f"asyncpg-{way}{'-tls' if options.tls else ''}.xml"
        # The servers' own account must be able to read the certificates.
        with tempfile.TemporaryDirectory(prefix="asyncpg-suite-") as name:
            folder = Path(name)
            folder.chmod(0o755)
            (folder / "server").mkdir()
            starting = postgres_with_tls(folder / "server") if options.tls else newest_postgres(print)
            with starting as server:
                print(f"{way}: asyncpg {version} on PostgreSQL {server.version}", flush=True)
                if way == "direct":
                    environment = _environment(server, server.port, server.ca)
                    _run(options, folder, library, environment, report)
                else:
                    policy = "observe" if way == "proxied" else way
                    with proxy_with_own_roles(folder / "proxy", server, policy=policy) as proxy:
                        _run(
                            options,
                            folder,
                            library,
                            _environment(server, proxy.port, proxy.ca if options.tls else None),
                            report,
                        )
                        if way == "default":
                            _say_refused(proxy)
        outcomes[way] = read_results(report)
    differences = compare(outcomes["direct"], outcomes["proxied"])
    return say_comparison(outcomes["direct"], outcomes["proxied"], differences, EXPLAINED)


def _say_refused(proxy: Proxy) -> None:
    """What the policy refused, by rule and by statement."""
    records = proxy.records("statement.refused")
    print(
        f"policy default refused {len(records)} of {len(proxy.records('statement.intent')) + len(records)} statements"
    )
    texts = Counter(
        (
            str(each.get("message")).split(" (request")[0],
            " ".join(str(each.get("sql", each.get("command"))).split())[:100],
        )
        for each in records
    )
    for (message, text), number in texts.most_common():
        print(f"{number:5} {message}: {text}")


def _version(checkout: Path) -> str:
    text = (checkout / "asyncpg" / "_version.py").read_text()
    found = re.search(r"__version__[^=]*= '([^']+)'", text)
    if found is None or "dev" in found.group(1):
        raise SystemExit(f"{checkout} is not at a release tag of asyncpg")
    return found.group(1)


def _library(version: str, reports: Path) -> Path:
    target = reports / f"asyncpg-{version}"
    if not (target / "asyncpg").is_dir():
        subprocess.run(
            [
                sys.executable,
                "-m",
                "pip",
                "install",
                "-q",
                "--disable-pip-version-check",
                "--no-deps",
                "--target",
                str(target),
                f"asyncpg=={version}",
                "distro",
            ],
            check=True,
        )
    return target


def _environment(server: PostgresServer, port: int, ca: Path | None) -> dict[str, str]:
    tls = {"PGSSLMODE": "verify-full", "PGSSLROOTCERT": str(ca)} if ca else {"PGSSLMODE": "disable"}
    return {
        "PGHOST": "localhost",
        "PGPORT": str(port),
        "PGUSER": server.superuser,
        "PGPASSWORD": server.password,
        "PGDATABASE": "postgres",
        **tls,
    }


def _run(
    options: argparse.Namespace, folder: Path, library: Path, environment: Mapping[str, str], report: Path
) -> None:
    # A link to the tests alone: beside them in the checkout lies an asyncpg without its compiled part.
    work = folder / "work"
    work.mkdir()
    (work / "tests").symlink_to(options.checkout.resolve() / "tests")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "tests",
        "-q",
        "-p",
        "no:cacheprovider",
        "-c",
        "/dev/null",
        "--rootdir",
        str(work),
        f"--junitxml={report}",
    ]
    command += ["-k", options.only] if options.only else []
    plain = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    with report.with_suffix(".log").open("w") as log:
        subprocess.run(
            command,
            cwd=work,
            env={**plain, **environment, "PYTHONPATH": str(library), "PYTHONDONTWRITEBYTECODE": "1"},
            stdout=log,
            stderr=subprocess.STDOUT,
            check=False,
            timeout=1800,
        )


if __name__ == "__main__":
    sys.exit(main())
