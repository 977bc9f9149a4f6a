"""`dbproxy audit …`: checking and reading a ledger's files, signing keys, pruning. None of them needs a running proxy."""

from __future__ import annotations

import secrets
import time
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import orjson
import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn
from rich.text import Text

from config.errors import ConfigError
from config.load import load_settings
from config.settings import Settings
from dbproxy.audit.proof_settings import high_water_path, signing_key_path
from dbproxy.audit.prune import plan_offline, prune_offline
from dbproxy.audit.schema import read_schema
from dbproxy.audit.segment import parse_segment_name
from dbproxy.audit.signing import (
    KeyUnusable,
    SigningKey,
    find_public_keys,
    load_public_key,
    load_signing_key,
    next_path,
    public_path,
    save_signing_key,
)
from dbproxy.audit.tail import DAMAGED, Filter, Record, Tail, clean, describe
from dbproxy.audit.verify import verify_directory, verify_files
from dbproxy.audit.verify_report import ChainResult, Level, Result, SealsResult, Status
from dbproxy.cli.exit import CANNOT
from dbproxy.cli.options import SettingsOption, settings_path
from dbproxy.errors import DbproxyError

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
    key: Annotated[
        list[Path] | None,
        typer.Option(
            "--key", help="Public key (PEM) that checkpoints must be signed with; repeatable.", show_default=False
        ),
    ] = None,
    anchor: Annotated[
        list[Path] | None,
        typer.Option(
            "--anchor",
            help="File with anchored checkpoints: an anchor file, or what a syslog daemon or web server kept; repeatable.",
            show_default=False,
        ),
    ] = None,
    as_of: Annotated[
        str, typer.Option("--as-of", help="When the files were copied from a running proxy: 2026-03-01T09:30:00Z.")
    ] = "",
    as_json: Json = False,
) -> None:
    """Check a ledger offline: form, hashes, links, numbering, intents with their outcomes, totals, and with keys and anchors who made it and that its end is there.

    Exit codes: 0 everything fits together, and keys and anchors that were given reach to the end; 1 something was changed, removed or added; 2 the end is
    torn or missing, as after a crash; 3 it cannot be read; 4 unanchored: keys or anchors were given, and the newest checkpoint they prove is neither a
    final one nor younger than 40 seconds. Without keys and anchors, 0 does not prove that the whole log was not replaced or cut off at its end.

    Without paths, the settings at hand name the ledger, the public keys beside the signing key, the anchor files, and the proxy's own note of its last
    checkpoint.
    """
    key_paths, anchors = list(key or ()), list(anchor or ())
    high_water = None
    if not paths:
        loaded = _load(settings)
        paths = [loaded.audit.directory]
        if not key_paths and loaded.audit.signing.enabled:
            key_paths = find_public_keys(signing_key_path(loaded))
        if not anchors:
            anchors = [each.file for each in loaded.audit.anchors if each.file is not None and each.file.exists()]
        high_water = high_water_path(loaded)
    try:
        keys = [load_public_key(path) for path in key_paths]
    except KeyUnusable as error:
        raise _unreadable(str(error)) from error
    as_of_ns = _parse_as_of(as_of) if as_of else None
    with _progress(paths) as progress:
        task = progress.add_task("verifying", total=None)

        def show(done: int, total: int) -> None:
            progress.update(task, completed=done, total=total)

        if len(paths) == 1 and parse_segment_name(paths[0].name) is None:
            result = verify_directory(
                paths[0],
                keys=keys,
                anchors=anchors,
                high_water=high_water if high_water is not None and high_water.exists() else None,
                progress=show,
                settle_s=_SETTLE_S,
                as_of_ns=as_of_ns,
            )
        else:
            result = verify_files(paths, keys=keys, anchors=anchors, progress=show, settle_s=_SETTLE_S)
    if as_json:
        typer.echo(orjson.dumps(_as_json(result), option=orjson.OPT_INDENT_2))
    else:
        _print_result(result)
    raise typer.Exit(result.exit_code)


@app.command()
def keygen(
    path: Annotated[
        Path, typer.Argument(metavar="FILE", help="Where the private key goes; FILE.pub is the public one.")
    ],
) -> None:
    """Make a key for signing checkpoints (Ed25519). `dbproxy serve` makes one itself if there is none."""
    new = SigningKey.generate()
    try:
        save_signing_key(new, path)
    except OSError as error:
        raise _cannot(f"{path}: {error.strerror}") from error
    typer.echo(
        f"key {new.id}: {path} (private, mode 0600), {public_path(path)} (public, for `dbproxy audit verify --key`)"
    )


@app.command("public-key")
def public_key(
    path: Annotated[
        Path | None,
        typer.Argument(
            metavar="[FILE]", help="A private key; that of the settings when not given.", show_default=False
        ),
    ] = None,
    settings: SettingsOption = None,
) -> None:
    """Print the public half of a signing key as PEM, its id on standard error."""
    try:
        found = load_signing_key(path or signing_key_path(_load(settings)))
    except FileNotFoundError as error:
        raise _cannot(
            f"there is no signing key {error.filename}; `dbproxy serve` makes it, or `dbproxy audit keygen`"
        ) from error
    except KeyUnusable as error:
        raise _cannot(str(error)) from error
    typer.echo(f"key {found.id}", err=True)
    typer.echo(found.public.pem(), nl=False)


@app.command("rotate-key")
def rotate_key(settings: SettingsOption = None) -> None:
    """Make the next signing key. The running proxy takes it with its next checkpoint, at the latest in 10 seconds; a stopped one after its next start.

    The old key signs the new one in the ledger, then its private half is gone; its public half stays as KEY.<id>.pub, for what it has signed.
    """
    path = signing_key_path(_load(settings))
    try:
        old = load_signing_key(path)
        new = SigningKey.generate()
        save_signing_key(new, next_path(path))
    except FileExistsError as error:
        raise _cannot(f"{next_path(path)} is there already: a rotation waits for the proxy") from error
    except FileNotFoundError as error:
        raise _cannot(f"there is no signing key {error.filename} to rotate") from error
    except KeyUnusable as error:
        raise _cannot(str(error)) from error
    except OSError as error:
        raise _cannot(f"{next_path(path)}: {error.strerror}") from error
    typer.echo(f"key {new.id} waits in {next_path(path)}; it takes over from {old.id} with the next checkpoint")


@app.command()
def prune(
    settings: SettingsOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    as_json: Json = False,
) -> None:
    """Delete old segments as audit.retention says, leaving a signed record of each. A running proxy does so itself; this is for one that is stopped.

    Only what a checkpoint covers goes, and never the newest segment of a slot.
    """
    loaded = _load(settings)
    try:
        plan = plan_offline(loaded, now_s=time.time())
        if plan.segments and not dry_run:
            prune_offline(loaded, plan, ledger_id=secrets.token_hex(16))
    except DbproxyError as error:
        raise _cannot(str(error)) from error
    except OSError as error:
        raise _cannot(f"{error.filename or loaded.audit.directory}: {error.strerror}") from error
    if as_json:
        typer.echo(orjson.dumps({"dry_run": dry_run, **orjson.loads(b"{%b}" % plan.body)}, option=orjson.OPT_INDENT_2))
        return
    for each in plan.segments:
        typer.echo(f"{each.file}: records {each.first_seq}-{each.last_seq}, {each.size:,} bytes")
    for slot in plan.unexplained:
        typer.echo(f"slot {slot}: stays, its beginning is missing and no retention has taken it", err=True)
    verb = "would go" if dry_run else "deleted"
    typer.echo(f"{len(plan.segments)} segments, {plan.size:,} bytes {verb}")


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
    return _load(settings).audit.directory


def _load(settings: Path | None) -> Settings:
    path = settings_path(settings)
    if settings is None and not path.exists():
        raise _unreadable(f"give the ledger's directory, or --settings FILE; there is no {path} here")
    try:
        return load_settings(path)
    except ConfigError as error:
        raise _unreadable(str(error)) from error


def _parse_as_of(text: str) -> int:
    try:
        at = datetime.fromisoformat(text)
    except ValueError as error:
        raise typer.BadParameter("must be a time such as 2026-03-01T09:30:00Z", param_hint="--as-of") from error
    return int((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() * 1e9)


def _cannot(message: str) -> typer.Exit:
    typer.echo(f"error: {message}", err=True)
    return typer.Exit(CANNOT)


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
    Status.UNANCHORED: "bold yellow",
}


_OK = {
    Level.CHAINED: "OK, chained only:",
    Level.SIGNED: "OK, signed:",
    Level.ANCHORED: "OK, anchored:",
}


def _print_result(result: Result) -> None:
    console = Console(highlight=False, soft_wrap=True)
    records = sum(chain.records for chain in result.chains)
    segments = sum(chain.segments for chain in result.chains)
    text = Text()
    if result.problem is None:
        text.append(f"{_OK[result.level]} ", _COLOURS[result.status])
        text.append(f"{records:,} records in {segments:,} segments fit together")
    else:
        problem = result.problem
        text.append(f"{result.status.name:10} ", _COLOURS[result.status])
        until = f" to {problem.until}" if problem.until > problem.seq else ""
        place = f", line {problem.line}" if problem.line else ""
        place += f", record {problem.seq}{until}" if problem.seq and problem.file else ""
        text.append(f"{clean(problem.file, 500)}{place}: " if problem.file else "")
        text.append(clean(problem.what, 1000))
    console.print(text)
    for chain in result.chains:
        console.print(Text(_chain_line(chain, result.level)))
        for note in chain.notes:
            console.print(Text(f"    note: {clean(note, 500)}"))
    for note in result.seals.notes:
        console.print(Text(f"  note: {clean(note, 500)}"))
    if result.seals.checkpoints:
        console.print(Text(_seals_line(result.seals)))
    if result.status in (Status.OK, Status.UNANCHORED):
        console.print(Text(f"proven: {result.proof}"))


def _seals_line(seals: SealsResult) -> str:
    parts = [f"  checkpoints: {seals.checkpoints}, the last {seals.last_number}"]
    if seals.last_signed:
        parts.append(f"signature right up to {seals.last_signed} of {seals.last_signed_at}")
    if seals.rotations:
        parts.append(f"{seals.rotations} key changes")
    parts += [f"{count} also in {clean(name, 200)}" for name, count in seals.anchors.items()]
    parts.append("a final one" if seals.is_final else "not a final one")
    return ", ".join(parts)


def _chain_line(chain: ChainResult, level: Level) -> str:
    if chain.records == 0:
        return f"  slot {chain.slot}: no good record"
    good = "" if chain.problem is None else "good up to there: "
    if chain.pruned:
        good = f"records 1-{chain.pruned} pruned by policy; {good}"
    closed = "closed in good order" if chain.is_closed else "not closed: running, or ended by a crash"
    proven = ""
    if level is not Level.CHAINED:
        proven = f"{chain.anchored} anchored, {chain.signed} signed, {chain.chained} chained only; "
    return (
        f"  slot {chain.slot}: {good}records {chain.first_seq}-{chain.last_seq}, {chain.first_at} to {chain.last_at}; "
        f"{chain.intents} intents, {chain.outcomes} outcomes ({chain.unknown_outcomes} unknown), {chain.open_intents} still open; "
        f"{chain.heartbeats} heartbeats agree; "
        f"{proven}{'out of use' if chain.has_ended else closed}; last hash {chain.last_hash}"
    )


def _as_json(result: Result) -> dict[str, object]:
    fields = asdict(result)
    fields["status"] = result.status.name.lower()
    fields["level"] = result.level.value
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
