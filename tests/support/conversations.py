"""Random conversations of one session: simple, extended, pipelined, COPY both ways, errors."""

from __future__ import annotations

from random import Random

from support import pg_bytes as pg

SYNC = pg.sync()
MESSAGES_PER_SESSION = 400


def texts(rng: Random, serial: int) -> str:
    """A text, often one that nobody sent before."""
    plain = (
        "select id from notes order by id limit 3",
        "select count(*) from notes",
        "select * from secrets",
        "select 1/(id - id) from notes",
        "begin",
        "commit",
        "rollback",
        "select * from no_such_table",
        "select 'a' || body from notes where id = 3",
    )
    if rng.random() < 0.6:
        return rng.choice(plain)
    return rng.choice(
        (
            f"select {serial} as n",
            f"insert into notes values ({serial}, 'row') returning id",
            f"update notes set body = 'v{serial}' where id = {serial % 40}",
            f"delete from notes where id = {serial}",
            f"delete from secrets where id = {serial}",
            f"select {serial}; select id from notes limit 1; select 2",
            f"select {serial}; select * from secrets",
        )
    )


def conversation(rng: Random, start: int) -> list[bytes]:
    """Messages of one session: simple, extended, pipelined, COPY both ways, errors."""
    frames: list[bytes] = []
    serial = start
    while sum(map(len, (pg.split(frame) for frame in frames))) < MESSAGES_PER_SESSION:
        serial += 1
        text = texts(rng, serial)
        match rng.randrange(8):
            case 0 | 1:
                frames.append(SYNC + pg.query(text))
            case 2 | 3:
                name = rng.choice(("", "", "a", "b"))
                close = pg.close("S", name) if name else b""
                frames.append(close + pg.parse(name, text) + pg.bind("", name) + pg.describe("P") + pg.execute())
            case 4:
                name = rng.choice("ab")
                frames.append(pg.bind("", name) + pg.execute("", rng.choice((0, 1))))
            case 5:
                frames.append(
                    pg.parse("", "select body from notes where id = $1::int")
                    + pg.bind("", "", [rng.choice((b"1", b"7", b"x", None))])
                    + pg.execute()
                )
            case 6:
                if rng.random() < 0.5:
                    frames.append(
                        SYNC + pg.query("copy notes from stdin") + pg.copy_data(f"{serial}\tcopied\n") + pg.copy_done()
                    )
                else:
                    frames.append(SYNC + pg.query("copy (select id from notes limit 4) to stdout"))
            case _:
                frames.append(SYNC)
    return [*frames, SYNC, pg.query("rollback"), pg.query("select 'the end'")]
