"""Random conversations of one MySQL session: texts, several statements in one, prepared statements, other commands, errors, many at once.

What the server's general log says of them is MariaDB 10.11's way: an entry when a query arrives, the text of an execution with its
values in place, nothing of FETCH, SET_OPTION and RESET_CONNECTION.
"""

from __future__ import annotations

import hashlib
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Any

from support import my_bytes as my
from support.my_raw import RawMySQL

TABLES = (
    "create or replace table notes (id int primary key, body text)",
    "create or replace table secrets (id int, value text)",
    "insert into notes select seq, concat('note ', seq) from seq_1_to_40",
    "insert into secrets select seq, concat('classified-', seq) from seq_1_to_20",
)
OWN_QUESTION = "SELECT CAST(IFNULL(DATABASE(),'') AS BINARY)"
"""How the proxy's own question begins."""
_PIECES = (
    "it's",
    'a "word"',
    "back\\slash",
    "é€",
    "",
    "plain",
    "semi;colon",
    "-- no comment",
    "/* nor this */",
    "`tick`",
)
_PREPARED = (
    "select ?, ?",
    "select * from notes where id = ? and body <> ?",
    "insert into notes values (?, ?)",
    "select id from nowhere where id = ? and ? is null",
    "select * from secrets where id = ? and value = ?",
)


def text_of(rng: Random, serial: int) -> str:
    """A text, often one that nobody sent before."""
    plain = (
        "select id from notes order by id limit 3",
        "select count(*) from notes",
        "select * from secrets",
        "select * from nowhere",
        "begin",
        "commit",
        "rollback",
        "",
        "-- nothing but a comment",
        "insert into notes values (1, 'is there already')",
        "selekt what",
        "truncate notes",
        "set @a = 1",
        "show warnings",
    )
    if rng.random() < 0.5:
        return rng.choice(plain)
    return rng.choice(
        (
            f"select {serial} as n",
            f"  select {serial} /* between */ as n ; ",
            f"insert into notes values ({serial}, 'row\\'s {serial}')",
            f"update notes set body = 'v{serial}' where id = {serial % 40}",
            f"delete from notes where id = {serial}",
            f"delete from secrets where id = {serial}",
            f"select {serial}; select id from notes limit 1; select 2",
            f"select {serial}; select * from nowhere; select 3",
            f"select {serial}; drop table secrets; commit",
            f"select {serial}; select * from secrets",
            f"insert into notes values ({serial}, repeat('x', {serial % 3000})); rollback",
        )
    )


@dataclass
class Session:
    """One session and what is known of it afterwards. long_values: by digest, what was sent as long data."""

    raw: RawMySQL
    rng: Random
    serial: int
    commands: int = 0
    prepared: list[int] = field(default_factory=list)
    long_values: dict[str, str] = field(default_factory=dict)

    def run(self, commands: int) -> None:
        """Ask at least so many."""
        while self.commands < commands:
            if self.rng.random() < 0.3:
                self._prepare()
            frames = [frame for _ in range(self.rng.choice((1, 1, 2, 5, 20))) for frame in self._commands()]
            self.commands += len(frames) + 1
            self.serial += 1
            self.raw.ask(*frames, marker=f"end {self.serial}")

    def _prepare(self) -> None:
        self.commands += 1
        number = self.raw.prepare(self.rng.choice(_PREPARED))
        if number is not None:
            self.prepared.append(number)

    def _commands(self) -> list[bytes]:
        self.serial += 1
        rng, serial = self.rng, self.serial
        if self.prepared and rng.random() < 0.4:
            number = rng.choice(self.prepared)
            match rng.randrange(8):
                case 0:
                    return [*self._long(number), self._execute(number, skip=[1])]
                case 1:
                    return [self._execute(number, flags=1), my.fetch(number, 1), my.by_id(0x1A, number)]
                case 2:
                    self.prepared.remove(number)
                    return [my.by_id(0x19, number), self._execute(number)]
            return [self._execute(number)]
        match rng.randrange(20):
            case 0:
                return [my.command(2, "test")]
            case 1:
                return [my.command(4, "notes\0")]
            case 2:
                return [my.command(9)]
            case 3:
                return [my.command(0x0E)]
            case 4:
                return [my.command(0x1B, struct.pack("<H", 0))]
            case 5:
                return [my.command(rng.choice((0x0D, 0x12, 0x1D)), b"\4\0\0\0\0\0\1\0\0\0")]
            case 6:
                self.prepared.clear()
                return [my.command(0x1F), my.query("set names utf8mb4"), my.command(2, "test")]
        return [my.query(text_of(rng, serial))]

    def _execute(self, number: int, **options: Any) -> bytes:
        rng = self.rng
        value = None if rng.random() < 0.1 else struct.pack("<i", rng.choice((self.serial, -1, 3)))
        words = None if rng.random() < 0.1 and "skip" not in options else my.string(self._words())
        return my.execute(number, [(3, value), (253, words)], **options)

    def _words(self) -> str:
        return " ".join(self.rng.choices(_PIECES, k=3))

    def _long(self, number: int) -> list[bytes]:
        words = self._words() + f" {self.serial}"
        self.long_values[hashlib.sha256(words.encode()).hexdigest()] = words
        data = words.encode()
        cut = self.rng.randrange(len(data))
        return [my.long_data(number, 1, data[:cut]), my.long_data(number, 1, data[cut:])]


def entry_of(record: Mapping[str, Any], long_values: Mapping[str, str]) -> tuple[str, str] | None:
    """(command, text) that the general log has for what this record of an intent says, None if it logs no such thing."""
    act, sql = record["act"], record.get("sql")
    if act == "call":
        return ("Statistics", "") if record.get("name") == "COM_STATISTICS" else None
    if act == "resume" or sql is None:
        return None
    if act == "execute":
        literals = iter([_literal(each, long_values) for each in record["parameters"]])
        return "Execute", re.sub(r"\?", lambda match: next(literals), sql)
    if sql == "USE `test`":
        return "Init DB", "test"
    if sql == "SHOW COLUMNS FROM `notes`":
        return "Field List", "notes"
    return "Query", tidy(sql)


def tidy(text: str) -> str:
    """Without the blanks and semicolons around it that the server removes first."""
    return text.lstrip().rstrip("; \t\r\n\0")


def _literal(parameter: Mapping[str, Any], long_values: Mapping[str, str]) -> str:
    value = parameter.get("value")
    if value is None:
        return "NULL"
    if parameter["type"] in ("int", "bigint"):
        return str(value)
    digest = re.fullmatch(r"<\d+ bytes, sha256 ([0-9a-f]{64})>", value)
    words = long_values[digest[1]] if digest else str(value)
    return "'" + re.sub(r"([\\'\"])", r"\\\1", words) + "'"
