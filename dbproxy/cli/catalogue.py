"""`dbproxy catalogue`: what the proxy can know of a target's database, read now by the target's monitor account."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Annotated

import orjson
import typer

from classifiers.effects import LexingState, Report
from classifiers.tokens import join_name
from config.load import load_settings
from config.settings import Settings, Target
from dbproxy.catalogue.login import monitor_login
from dbproxy.catalogue.model import Hook, Snapshot, encode_snapshot
from dbproxy.catalogue.postgres import read_postgres
from dbproxy.classifier.pool import ClassifierPool, PoolSettings
from dbproxy.cli.options import JsonOption, SettingsOption, settings_path, write_json
from dbproxy.errors import DbproxyError
from dbproxy.identity.tls import TLSMaterialError, target_context

app = typer.Typer(
    help="What the proxy knows of a database: views, partitions, triggers, functions.", no_args_is_help=True
)

DatabaseOption = Annotated[
    str,
    typer.Option(
        "--database", "-D", help="Database of the target; its default one when not given.", show_default=False
    ),
]


@app.callback()
def _group() -> None:
    pass


@app.command()
def show(
    target: Annotated[
        str, typer.Argument(help="Name of the target; not needed where one has a monitor account.", show_default=False)
    ] = "",
    database: DatabaseOption = "",
    as_json: JsonOption = False,
    settings: SettingsOption = None,
) -> None:
    """Read the catalogue as the running proxy does, and print what it knows, and what it cannot see."""
    found = load_target(settings, target)
    snapshot = asyncio.run(_read(found, database))
    if as_json:
        write_json(
            {**orjson.loads(encode_snapshot(snapshot)), "visibility": snapshot.visibility, "sha256": snapshot.sha256}
        )
    else:
        for line in describe(found.name, snapshot):
            print("".join(each if each.isprintable() else "?" for each in line))


def load_target(given: Path | None, name: str) -> Target:
    """The target of that name in the settings, or, without a name, the one with a monitor account. Raises DbproxyError."""
    settings: Settings = load_settings(settings_path(given))
    if name:
        try:
            return settings.target(name)
        except KeyError:
            raise DbproxyError(f"there is no target {name!r} in the settings") from None
    watched = [each for each in settings.targets if each.monitor is not None]
    if len(watched) != 1:
        raise DbproxyError("name a target: " + ", ".join(each.name for each in settings.targets))
    return watched[0]


async def read_live(target: Target, database: str, pool: ClassifierPool) -> Snapshot:
    """Raises CatalogueError, or DbproxyError if the target's TLS settings cannot be used."""
    try:
        context = target_context(target.tls)
    except TLSMaterialError as error:
        raise DbproxyError(f"target {target.name}: {error}") from error

    async def classify(text: bytes) -> Report:
        return await pool.classify("postgres", text, LexingState(None), 0, "catalogue")

    wanted = database or target.database
    login = monitor_login(target, wanted or "", context)
    if wanted is None:
        login = monitor_login(target, login.user, context)
    return await read_postgres(login, classify, time.time_ns())


def describe(target: str, snapshot: Snapshot) -> list[str]:
    """For people: relations that set something in motion, and functions that cannot be seen into."""
    head = (
        f"{target}/{snapshot.database}: PostgreSQL {snapshot.server_version // 10_000}, visibility {snapshot.visibility}, "
        f"{len(snapshot.relations)} relations, {len(snapshot.functions)} functions, {len(snapshot.operators)} operators"
    )
    lines = [head, *(f"  not visible: {gap}" for gap in snapshot.gaps)]
    for relation in snapshot.relations:
        links = [f"partition or child of {_name(snapshot, oid)}" for oid in relation.parents]
        links += [f"formerly {join_name(name)}" for name in relation.former]
        links += [f"on another server: {relation.remote}"] if relation.remote else []
        links += [_hook(snapshot, hook) for hook in relation.hooks]
        if links:
            lines.append(f"{relation.kind} {join_name((relation.schema, relation.name))}")
            lines += [f"  {each}" for each in links]
    for function in snapshot.functions:
        if function.body is None:
            lines.append(
                f"function {join_name((function.schema, function.name))}: cannot be seen into, {function.reason}"
            )
        else:
            touched = dict.fromkeys(f"{each.mode}s {each.object}" for each in function.body.effects if each.object)
            definer = " as its owner" if function.is_security_definer else ""
            lines.append(
                f"function {join_name((function.schema, function.name))}{definer}: {', '.join(touched) or 'touches no table'}"
            )
    return lines


def _hook(snapshot: Snapshot, hook: Hook) -> str:
    touched = [_name(snapshot, oid) for oid, _ in hook.relations]
    functions = snapshot.functions_by_oid
    touched += [
        f"{functions[oid].schema}.{functions[oid].name}()" if oid in functions else f"function {oid}"
        for oid in hook.functions
    ]
    return f"{hook.sort} {hook.name}: {', '.join(touched) if hook.is_known else 'cannot be seen into'}"


def _name(snapshot: Snapshot, oid: int) -> str:
    relation = snapshot.by_oid.get(oid)
    return join_name((relation.schema, relation.name)) if relation is not None else f"relation {oid}"


async def _read(target: Target, database: str) -> Snapshot:
    pool = ClassifierPool(PoolSettings(dialects=("postgres",), processes=1))
    await pool.start()
    try:
        return await read_live(target, database, pool)
    finally:
        await pool.close()
