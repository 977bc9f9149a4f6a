"""`dbproxy demo`: the tour of the product on a throw-away database."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console

from dbproxy.demo.tour import run_demo


def demo(
    once: Annotated[
        bool, typer.Option("--once", help="End after the tour; status 0 only if every step did what it says.")
    ] = False,
    mysql: Annotated[
        bool, typer.Option("--mysql", help="On MariaDB, whose programs must be on this machine, instead of PostgreSQL.")
    ] = False,
) -> None:
    """Play the story on a throw-away database with a sample shop, checking every step; then stay up until Ctrl+C."""
    raise typer.Exit(run_demo(Console(highlight=False), once=once, is_mysql=mysql))
