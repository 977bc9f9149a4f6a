"""`dbproxy audit verify | tail | schema`: reading a ledger's files. None of them needs a running proxy."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import orjson
import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn
from rich.text import Text

from config.errors import ConfigError
from config.load import load_settings
from dbproxy.audit.schema import read_schema
from dbproxy.audit.segment import parse_segment_name
from dbproxy.audit.tail import DAMAGED, Filter, Record, Tail, clean, describe
from dbproxy.audit.verify import ChainResult, Result, Status, verify_directory, verify_files
from dbproxy.cli.options import SettingsOption, settings_path

app = typer.Typer(no_args_is_help=True, help="Check and read the audit ledger.")

_PROGRESS_FROM_BYTES = 64 << 20
_SETTLE_S = 0.5
_POLL_S = 0.2

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command()
def verify(
    paths: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[DIR | FILES]", help="A ledger's directory, or some of its segments.", show_default=False
        ),
    ] = None,
    settings: SettingsOption = None,
    as_json: Json = False,
) -> None:
    """Check a ledger offline: form, hashes, links, numbering, and that every intent has its outcome.

    Exit codes: 0 everything fits together; 1 something was changed, removed or added; 2 the end is torn or missing; 3 it cannot be read.
    The chain is not signed: 0 does not prove that the whole log was not replaced, nor that no records were cut off after the last one.
    """
    if not paths:
        paths = [_directory(None, settings)]
    with _progress(paths) as progress:
        task = progress.add_task("verifying", total=None)

        def show(done: int, total: int) -> None:
            progress.update(task, completed=done, total=total)

        if len(paths) == 1 and parse_segment_name(paths[0].name) is None:
            result = verify_directory(paths[0], progress=show, settle_s=_SETTLE_S)
        else:
            result = verify_files(paths, progress=show, settle_s=_SETTLE_S)
    if as_json:
        typer.echo(orjson.dumps(_as_json(result), option=orjson.OPT_INDENT_2))
    else:
        _print_result(result)
    raise typer.Exit(result.exit_code)


@app.command()
def tail(
    directory: Annotated[
        Path | None, typer.Argument(metavar="[DIR]", help="The ledger's directory.", show_default=False)
    ] = None,
    settings: SettingsOption = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what is written from now on.")] = False,
    count: Annotated[
        int, typer.Option("--lines", "-n", min=0, help="How many of the last records to begin with.")
    ] = 10,
    session: Annotated[str, typer.Option(help="Only this session.")] = "",
    type_: Annotated[
        str, typer.Option("--type", help="Only this type, or all that begin with it: `login`, `statement.refused`.")
    ] = "",
    person: Annotated[str, typer.Option(help="Only this person.")] = "",
    full: Annotated[bool, typer.Option(help="Do not shorten long statements.")] = False,
    as_json: Json = False,
) -> None:
    """Show the newest records, one line each; --json prints them as they are stored."""
    reader = Tail(_directory(directory, settings), Filter(session, type_, person))
    console = Console(highlight=False, soft_wrap=True)
    max_text = 1 << 30 if full else 200
    try:
        _show(console, reader.read_last(count), as_json=as_json, max_text=max_text)
        while follow:
            time.sleep(_POLL_S)
            _show(console, reader.read_new(), as_json=as_json, max_text=max_text)
    except KeyboardInterrupt:
        raise typer.Exit(0) from None
    except OSError as error:
        raise _unreadable(f"cannot read the ledger: {error}") from error


@app.command()
def schema() -> None:
    """Print the JSON Schema of a record (dbproxy.audit/1)."""
    typer.echo(read_schema(), nl=False)


def _directory(directory: Path | None, settings: Path | None) -> Path:
    if directory is not None:
        return directory
    path = settings_path(settings)
    if settings is None and not path.exists():
        raise _unreadable(f"give the ledger's directory, or --settings FILE; there is no {path} here")
    try:
        return load_settings(path).audit.directory
    except ConfigError as error:
        raise _unreadable(str(error)) from error


def _unreadable(message: str) -> typer.Exit:
    typer.echo(f"error: {message}", err=True)
    return typer.Exit(int(Status.UNREADABLE))


def _progress(paths: list[Path]) -> Progress:
    """A bar on standard error, shown only when there is much to do and someone to see it."""
    console = Console(stderr=True)
    size = 0
    with suppress(OSError):  # what cannot be read is the verifier's to report
        size = sum(
            file.stat().st_size for path in paths for file in (path.glob("*.jsonl") if path.is_dir() else [path])
        )
    return Progress(
        "{task.description}",
        BarColumn(),
        DownloadColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=size < _PROGRESS_FROM_BYTES or not console.is_terminal,
    )


_COLOURS = {
    Status.OK: "bold green",
    Status.TAMPERED: "bold red",
    Status.TRUNCATED: "bold yellow",
    Status.UNREADABLE: "bold red",
}


def _print_result(result: Result) -> None:
    console = Console(highlight=False, soft_wrap=True)
    records = sum(chain.records for chain in result.chains)
    segments = sum(chain.segments for chain in result.chains)
    text = Text()
    text.append(f"{result.status.name:10}", _COLOURS[result.status])
    if result.problem is None:
        text.append(f" {records:,} records in {segments:,} segments fit together")
    else:
        problem = result.problem
        place = f", line {problem.line}, record {problem.seq}" if problem.line else ""
        text.append(f" {clean(problem.file, 500)}{place}: {clean(problem.what, 500)}")
    console.print(text)
    for chain in result.chains:
        console.print(Text(_chain_line(chain)))
        for note in chain.notes:
            console.print(Text(f"    note: {clean(note, 500)}"))
    if result.status is Status.OK:
        console.print(Text(f"proven: {result.proof}"))


def _chain_line(chain: ChainResult) -> str:
    if chain.records == 0:
        return f"  slot {chain.slot}: no good record"
    good = "" if chain.problem is None else "good up to there: "
    return (
        f"  slot {chain.slot}: {good}records {chain.first_seq}-{chain.last_seq}, {chain.first_at} to {chain.last_at}; "
        f"{chain.intents} intents, {chain.outcomes} outcomes ({chain.unknown_outcomes} unknown), {chain.open_intents} still open; "
        f"{'closed in good order' if chain.is_closed else 'not closed: running, or ended by a crash'}; last hash {chain.last_hash}"
    )


def _as_json(result: Result) -> dict[str, object]:
    fields = asdict(result)
    fields["status"] = result.status.name.lower()
    fields["exit_code"] = result.exit_code
    for holder in (fields, *fields["chains"]):
        if holder["problem"] is not None:
            holder["problem"]["status"] = holder["problem"]["status"].name.lower()
    return fields


def _show(console: Console, records: list[Record], *, as_json: bool, max_text: int) -> None:
    if as_json:
        for record in records:
            typer.echo(record.line if record.type != DAMAGED else orjson.dumps(record.fields) + b"\n", nl=False)
        return
    for record in records:
        console.print(Text.assemble(*describe(record, max_text=max_text)))
