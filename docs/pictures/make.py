"""Draw docs/pictures/drop-table.svg: a real psql session through a real dbproxy in front of a real PostgreSQL.

Run from the repository's root, after `make install`, on a machine with psql: .venv/bin/python docs/pictures/make.py
The stage is the demo's. Nothing in the picture is written by hand but what alice types.
"""
# ruff: noqa: INP001  # a script, no package

from __future__ import annotations

import os
import pty
import re
import select
import subprocess
import sys
import termios
import time
from pathlib import Path

from rich.console import Console
from rich.text import Text

from dbproxy.demo.client import Psql, find_client
from dbproxy.demo.stage import Stage, dbproxy_command, open_stage

PICTURE = Path(__file__).with_name("drop-table.svg")
TYPED = (
    "SELECT id, item, amount FROM orders WHERE id = 42;",
    "DROP TABLE customers CASCADE;",
    "SELECT count(*) AS customers FROM customers;",
    r"\q",
)
TAIL = ("audit", "tail", "--type", "statement")
WIDTH = 118
TIMEOUT_S = 30
_PROMPT = b"shop=> "


def main() -> None:
    """Play the session and write the picture."""
    with open_stage(lambda what: print(what, file=sys.stderr)) as stage:  # noqa: T201 - progress for a person
        client = find_client()
        if not isinstance(client, Psql):
            sys.exit("the picture shows psql; install it")
        session = _play(client, stage)
        tail = subprocess.run(  # noqa: S603 - our own program, no shell
            [*dbproxy_command(), *TAIL],
            cwd=stage.folder,
            capture_output=True,
            text=True,
            check=True,
            timeout=TIMEOUT_S,
        ).stdout
    console = Console(record=True, width=WIDTH, file=Path(os.devnull).open("w"))  # noqa: SIM115 - lives as long as we do
    _draw(console, f'$ psql "{_address(stage)}"')
    for line in session.splitlines():
        _draw(console, line)
    _draw(console, f"$ dbproxy {' '.join(TAIL)}")
    for line in tail.splitlines():
        _draw(console, line.rstrip())
    svg = console.export_svg(title="alice at the production database, through dbproxy")
    # The font that rich names would be fetched from another site; every viewer has a monospaced one.
    svg = re.sub(r"@font-face\s*\{.*?\}\s*", "", svg, flags=re.DOTALL)
    PICTURE.write_text("\n".join(line.rstrip() for line in svg.splitlines()) + "\n")


def _address(stage: Stage) -> str:
    alice = stage.alice
    return f"host=localhost port={alice.port} user={alice.user} dbname={alice.database} sslmode=verify-full sslrootcert={alice.ca.name}"


def _play(client: Psql, stage: Stage) -> str:
    """What the terminal showed, from psql's start to its end."""
    master, slave = pty.openpty()
    attributes = termios.tcgetattr(slave)
    attributes[1] &= ~termios.OPOST  # no carriage returns
    termios.tcsetattr(slave, termios.TCSANOW, attributes)
    process = subprocess.Popen(  # noqa: S603 - a program found on this machine, no shell
        # -n: no line editor, so that the terminal itself echoes; -q: no greeting with versions
        [str(client._program), "-X", "-n", "-q", _address(stage)],  # noqa: SLF001 - the demo has no use for it
        cwd=stage.folder,
        env={"PATH": os.environ["PATH"], "PGPASSWORD": stage.alice.password, "PAGER": "cat", "LC_ALL": "C.UTF-8"},
        stdin=slave,
        stdout=slave,
        stderr=slave,
    )
    os.close(slave)
    shown = _read_until_prompt(master, b"")
    for line in TYPED:
        os.write(master, line.encode() + b"\n")
        shown = _read_until_prompt(master, shown) if line != TYPED[-1] else shown + line.encode()
    process.wait(TIMEOUT_S)
    os.close(master)
    return shown.decode().replace("\r", "")


def _read_until_prompt(master: int, shown: bytes) -> bytes:
    wanted = shown.count(_PROMPT) + 1
    deadline = time.monotonic() + TIMEOUT_S
    while shown.count(_PROMPT) < wanted or not shown.endswith(_PROMPT):
        if not select.select([master], [], [], max(0.0, deadline - time.monotonic()))[0]:
            sys.exit(f"psql gave no prompt:\n{shown.decode(errors='replace')}")
        shown += os.read(master, 65536)
    return shown


def _draw(console: Console, line: str) -> None:
    """One line in the colours of the demo."""
    style = ""
    if line.startswith(("ERROR", "DETAIL", "HINT")) or " block " in line:
        style = "bold red"
    elif line.startswith("NOTICE"):
        style = "yellow"
    elif line.startswith(("$ ", "shop=> ")):
        prompt, _, typed = line.partition(" ")
        console.print(Text.assemble((prompt + " ", "green"), (typed, "bold")))
        return
    console.print(Text(line, style=style))


if __name__ == "__main__":
    main()
