"""`dbproxy classify`: what a statement does, as the judge would see it. Statements are read as in the proxy, in processes that can be killed."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Annotated, Any

import orjson
import typer

from classifiers.answers import advance_state, describe_report, parse_server
from classifiers.composition import compose, remember
from classifiers.effects import LexingState, Report
from dbproxy.catalogue.model import Snapshot
from dbproxy.catalogue.resolve import Path, Resolution, resolve
from dbproxy.classifier.frames import unparsable, whole
from dbproxy.classifier.pool import ClassifierPool, PoolSettings
from dbproxy.cli.catalogue import DatabaseOption, load_target, read_live
from dbproxy.cli.exit import DONE, NO
from dbproxy.cli.options import JsonOption, SettingsOption, write_json

DIALECTS = ("postgres", "mysql")
_PATH: Path = ("public",)
"""The search_path of a session that has not set one."""


def classify(
    text: Annotated[
        str, typer.Argument(metavar="[TEXT]", help="The statement; standard input when not given.", show_default=False)
    ] = "",
    dialect: Annotated[str, typer.Option("--dialect", "-d", help=" or ".join(DIALECTS))] = "postgres",
    jsonl: Annotated[bool, typer.Option("--jsonl", help="Read one case a line, write one answer a line.")] = False,
    as_json: JsonOption = False,
    target: Annotated[
        str, typer.Option("--target", "-t", help="Resolve names with the catalogue of this target, read now.")
    ] = "",
    database: DatabaseOption = "",
    settings: SettingsOption = None,
) -> None:
    """Say what a statement does: kinds, tables read and written, columns, functions, flags.

    With --target also what it reaches through views, partitions, triggers, rules and functions: the target's monitor account reads the
    catalogue. Names without a schema are looked up in public.
    A case of --jsonl is an object with id and sql (or sql_hex and charset), optionally session, a list of statements that ran before,
    and server. Exit 1: the statement is unparsable, or with --jsonl, some line is not a case.
    """
    if dialect not in DIALECTS:
        raise typer.BadParameter(f"must be {' or '.join(DIALECTS)}", param_hint="--dialect")
    found = load_target(settings, target) if target else None

    async def catalogue(pool: ClassifierPool) -> Snapshot | None:
        return None if found is None else await read_live(found, database, pool)

    if jsonl:
        raise typer.Exit(asyncio.run(_answer_lines(dialect, sys.stdin.buffer, catalogue)))
    raw = text.encode("utf-8", "surrogateescape") if text else sys.stdin.buffer.read()
    report, resolution, elapsed_ms = asyncio.run(_read_one(dialect, raw, catalogue))
    answer = {**describe_report(report), **_describe(resolution), "ms": elapsed_ms}
    if as_json:
        write_json(answer)
    else:
        _print_answer(answer)
    raise typer.Exit(NO if "unparsable" in report.kinds else DONE)


async def answer_case(
    pool: ClassifierPool, dialect: str, case: Mapping[str, Any], snapshot: Snapshot | None = None
) -> dict[str, Any]:
    """The answer to one case, resolved if there is a snapshot. Raises ValueError if it is none; a text that cannot be read is an answer."""
    sql, earlier, server = case.get("sql", ""), case.get("session") or [], case.get("server")
    if not isinstance(sql, str) or not isinstance(earlier, list) or not all(isinstance(item, str) for item in earlier):
        raise ValueError("sql must be a text and session a list of texts")
    text = bytes.fromhex(case["sql_hex"]) if case.get("sql_hex") else _encode(sql)
    state = LexingState(encoding=str(case.get("charset") or "UTF8").upper())
    version = parse_server(str(server or ""), dialect)
    names: dict[str, Report] = {}
    path = _PATH
    for statement in earlier:
        report = await pool.classify(dialect, _encode(statement), state, version, "case")
        names = remember(report, names)
        state = advance_state(statement, state, dialect)
        path = path if report.is_neutral else None
    started_ns = time.monotonic_ns()
    report = await pool.classify(dialect, text, state, version, "case")
    if report.uses:
        report = compose(report, names)
    resolution = None if snapshot is None else resolve(report, snapshot, path)
    elapsed_ms = (time.monotonic_ns() - started_ns) / 1e6
    return {
        "id": case.get("id", ""),
        **describe_report(report),
        **_describe(resolution),
        "ms": round(elapsed_ms, 3),
    }


async def _answer_lines(
    dialect: str, lines: Iterable[bytes], catalogue: Callable[[ClassifierPool], Awaitable[Snapshot | None]]
) -> int:
    code = DONE
    pool = ClassifierPool(PoolSettings(dialects=(dialect,)))
    await pool.start()
    try:
        snapshot = await catalogue(pool)
        for line in lines:
            if not line.strip():
                continue
            answer, is_case = await _answer_line(pool, dialect, line, snapshot)
            code = code if is_case else NO
            sys.stdout.buffer.write(orjson.dumps(answer) + b"\n")
            sys.stdout.buffer.flush()
    finally:
        await pool.close()
    return code


async def _answer_line(
    pool: ClassifierPool, dialect: str, line: bytes, snapshot: Snapshot | None
) -> tuple[dict[str, Any], bool]:
    """The answer to a line, and whether it was a case at all. What is no case is unparsable, so that no line goes without an answer."""
    case: object = None
    try:
        case = orjson.loads(line)
        if not isinstance(case, dict):
            raise ValueError("not an object")  # noqa: TRY004 - a line of a file that is wrong, not a caller
        return await answer_case(pool, dialect, case, snapshot), True
    except ValueError as error:
        name = case.get("id", "") if isinstance(case, dict) else ""
        report = unparsable(f"not a case: {error}", whole(line))
        return {"id": name, **describe_report(report), "ms": 0.0}, False


async def _read_one(
    dialect: str, text: bytes, catalogue: Callable[[ClassifierPool], Awaitable[Snapshot | None]]
) -> tuple[Report, Resolution | None, float]:
    pool = ClassifierPool(PoolSettings(dialects=(dialect,)))
    await pool.start()
    try:
        snapshot = await catalogue(pool)
        started_ns = time.monotonic_ns()
        # An EXECUTE may name what the same text has prepared.
        report = compose(await pool.classify(dialect, text, LexingState(), 0, "command line"), {})
        resolution = None if snapshot is None else resolve(report, snapshot, _PATH)
        return report, resolution, round((time.monotonic_ns() - started_ns) / 1e6, 3)
    finally:
        await pool.close()


def _describe(resolution: Resolution | None) -> dict[str, Any]:
    """What a catalogue adds to an answer, or says better."""
    if resolution is None:
        return {}
    full = describe_report(resolution.report)
    found = {"kinds": full["kinds"], "flags": full["flags"], "columns": full["columns"]}
    reached = dict.fromkeys(each.object for each in resolution.reached if each.object)
    return {
        **found,
        "resolved": list(reached),
        "unresolved": list(resolution.unresolved),
        "visibility": resolution.visibility,
    }


def _encode(statement: str) -> bytes:
    return statement.encode("utf-8", "surrogateescape")


def _print_answer(answer: Mapping[str, Any]) -> None:
    for name, value in answer.items():
        shown = ", ".join(value) if isinstance(value, list) else str(value)
        if shown:
            # Names come from the statement: control characters in them must not reach the terminal.
            print(f"{name + ':':<10} {''.join(c if c.isprintable() else '?' for c in shown)}")
