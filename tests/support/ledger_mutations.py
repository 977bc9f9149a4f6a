"""Ways to tamper with a ledger, from a flipped bit to somebody who makes a whole chain anew and lacks only the key.

A mutation changes the files it is given and returns the slot and the number of the first record that is bad then, where that is known, else None.
It never touches only what lies beyond the last checkpoint's heads: its own record and the end of control's chain, which nothing covers.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from hashlib import sha256
from typing import Any

Files = dict[str, bytes]
Place = tuple[int, int]
Mutation = Callable[[random.Random, "Log", "Log"], Place | None]
Record = dict[str, Any]


class Log:
    """A ledger's files in memory. covered: by slot, the last record that the newest checkpoint covers."""

    def __init__(self, files: Files, covered: dict[int, int]) -> None:
        self.files = dict(files)
        self.covered = covered

    def copy(self) -> Log:
        return Log(self.files, self.covered)

    def names(self, slot: int | None = None) -> list[str]:
        """Segments in order."""
        return sorted(n for n in self.files if n.endswith(".jsonl") and (slot is None or slot_of(n) == slot))

    def slots(self) -> list[int]:
        return sorted({slot_of(name) for name in self.names()})

    def lines(self, name: str) -> list[bytes]:
        return self.files[name].splitlines(keepends=True)

    def pick(self, rng: random.Random, *, is_covered: bool = True) -> tuple[str, list[bytes], int]:
        """A segment, its lines, and one of them."""
        while True:
            name = rng.choice(self.names())
            lines = self.lines(name)
            index = rng.randrange(len(lines))
            if not is_covered or seq_of(lines[index]) <= self.covered[slot_of(name)]:
                return name, lines, index


def slot_of(name: str) -> int:
    return int(name.split("-")[1])


def seq_of(line: bytes) -> int:
    return int(line[len(b'{"v":"dbproxy.audit/1","seq":') :].split(b",", 1)[0])


def dumps(record: Record) -> bytes:
    return json.dumps(record, separators=(",", ":"), ensure_ascii=False).encode()


def hashed(record: Record) -> bytes:
    """The line of a record, with a right hash."""
    text = dumps({key: value for key, value in record.items() if key != "hash"})[:-1]
    return text + b',"hash":"' + sha256(text).hexdigest().encode() + b'"}\n'


# --- without repairing anything ------------------------------------------------------------------------------------------------


def flip_bit(rng: random.Random, log: Log, _: Log) -> Place | None:
    name = rng.choice(log.names())
    data = bytearray(log.files[name])
    at = rng.randrange(len(data))
    data[at] ^= 1 << rng.randrange(8)
    log.files[name] = bytes(data)
    return None


def edit_field(rng: random.Random, log: Log, _: Log) -> Place | None:
    name, lines, index = log.pick(rng, is_covered=False)
    record = json.loads(lines[index])
    place = slot_of(name), record["seq"]
    field = rng.choice([key for key in record if key != "hash"])
    record[field] = rng.choice(["mallory", 7, None, True, []])
    lines[index] = dumps(record) + b"\n"
    log.files[name] = b"".join(lines)
    return place


def delete_record(rng: random.Random, log: Log, _: Log) -> Place | None:
    name, lines, index = log.pick(rng, is_covered=False)
    place = slot_of(name), seq_of(lines[index])
    del lines[index]
    log.files[name] = b"".join(lines)
    return place


def delete_bytes(rng: random.Random, log: Log, _: Log) -> Place | None:
    name = rng.choice(log.names())
    data = log.files[name]
    start = rng.randrange(len(data) - 20)
    log.files[name] = data[:start] + data[start + rng.randrange(1, 20) :]
    return None


def duplicate_record(rng: random.Random, log: Log, _: Log) -> Place | None:
    name, lines, index = log.pick(rng, is_covered=False)
    lines.insert(rng.randrange(len(lines) + 1), lines[index])
    log.files[name] = b"".join(lines)
    return None


def swap_records(rng: random.Random, log: Log, _: Log) -> Place | None:
    name, lines, index = log.pick(rng, is_covered=False)
    while len(lines) < 2:
        name, lines, index = log.pick(rng, is_covered=False)
    other = rng.choice([each for each in range(len(lines)) if each != index])
    place = slot_of(name), seq_of(lines[min(index, other)])
    lines[index], lines[other] = lines[other], lines[index]
    log.files[name] = b"".join(lines)
    return place


def insert_bytes(rng: random.Random, log: Log, _: Log) -> Place | None:
    name = rng.choice(log.names())
    data = log.files[name]
    at = rng.randrange(len(data) + 1)
    log.files[name] = data[:at] + bytes(rng.randrange(256) for _ in range(rng.randrange(1, 20))) + data[at:]
    return None


def splice_record_of_another_day(rng: random.Random, log: Log, _: Log) -> Place | None:
    name, lines, index = log.pick(rng, is_covered=False)
    place = slot_of(name), seq_of(lines[index])
    lines[index] = rng.choice(log.lines(rng.choice(log.names())))
    log.files[name] = b"".join(lines)
    return place


def splice_record_of_another_node(rng: random.Random, log: Log, other: Log) -> Place | None:
    name, lines, index = log.pick(rng, is_covered=False)
    place = slot_of(name), seq_of(lines[index])
    lines[index] = rng.choice(other.lines(rng.choice(other.names())))
    log.files[name] = b"".join(lines)
    return place


def splice_segment_of_another_node(rng: random.Random, log: Log, other: Log) -> Place | None:
    source = rng.choice(other.names())
    log.files[source if rng.random() < 0.5 else rng.choice(log.names())] = other.files[source]
    return None


def remove_segment(rng: random.Random, log: Log, _: Log) -> Place | None:
    del log.files[rng.choice(log.names())]
    return None


def remove_slot(rng: random.Random, log: Log, _: Log) -> Place | None:
    slot = rng.choice(log.slots())
    for name in log.names(slot):
        del log.files[name]
    return None


def rename_segment(rng: random.Random, log: Log, _: Log) -> Place | None:
    name = rng.choice(log.names())
    log.files[f"audit-{rng.randrange(5)}-{rng.randrange(1, 1000):016d}.jsonl"] = log.files.pop(name)
    return None


def cut_head(rng: random.Random, log: Log, _: Log) -> Place | None:
    """The beginning of a chain, up to somewhere in any of its segments."""
    slot = rng.choice(log.slots())
    names = log.names(slot)
    last = rng.randrange(len(names))
    for name in names[:last]:
        del log.files[name]
    lines = log.lines(names[last])
    log.files[names[last]] = b"".join(lines[rng.randrange(0 if last else 1, len(lines)) :])
    return None


def cut_tail(rng: random.Random, log: Log, _: Log) -> Place | None:
    """Everything of a chain from a record on that a checkpoint covers, cleanly or within it."""
    name, lines, index = log.pick(rng)
    slot = slot_of(name)
    place = slot, seq_of(lines[index])
    for later in log.names(slot):
        if later > name:
            del log.files[later]
    rest = lines[index][: rng.randrange(len(lines[index]))] if rng.random() < 0.5 else b""
    log.files[name] = b"".join(lines[:index]) + rest
    if not log.files[name]:
        del log.files[name]
    return place


def cut_all_tails_at_a_checkpoint(rng: random.Random, log: Log, _: Log) -> Place | None:
    """The whole ledger as it was at an earlier checkpoint: nothing in it is wrong."""
    seals = [
        (name, index, json.loads(json.loads(line)["payload"]))
        for name in log.names(0)
        for index, line in enumerate(log.lines(name))
        if b'"type":"checkpoint"' in line
    ]
    name, index, payload = rng.choice(seals[:-1])
    _cut_to(log, {head["slot"]: head["seq"] for head in payload["heads"] if head["slot"]})
    _cut_to(log, {0: seq_of(log.lines(name)[index])})
    return None


def _cut_to(log: Log, last: dict[int, int]) -> None:
    for slot in log.slots():
        if slot == 0 and 0 not in last:
            continue
        for name in log.names(slot):
            kept = [line for line in log.lines(name) if seq_of(line) <= last.get(slot, 0 if 0 not in last else 1 << 60)]
            if kept:
                log.files[name] = b"".join(kept)
            else:
                del log.files[name]


# --- with right hashes ---------------------------------------------------------------------------------------------------------


def edit_and_rehash(rng: random.Random, log: Log, _: Log) -> Place | None:
    """One record gets a right hash again; the next does not link to it."""
    name, lines, index = log.pick(rng)
    record = json.loads(lines[index])
    lines[index] = hashed(record | {"extra": rng.randrange(99)})
    log.files[name] = b"".join(lines)
    return slot_of(name), record["seq"]


def insert_forged_record(rng: random.Random, log: Log, _: Log) -> Place | None:
    """A record with a right hash and link, put between two others."""
    name, lines, index = log.pick(rng)
    before = json.loads(lines[index])
    forged = {key: before[key] for key in ("v", "seq", "prev", "at", "type")}
    forged |= {"seq": before["seq"] + 1, "prev": before["hash"], "type": "session.end", "session": "x"}
    lines.insert(index + 1, hashed(forged))
    log.files[name] = b"".join(lines)
    return slot_of(name), before["seq"] + 1


def _forge(log: Log, slot: int, change: Callable[[list[Record]], int | None]) -> Place | None:
    """Change the records of a slot and make its whole chain anew from there, headers and file names too. change returns the first bad seq."""
    records = [json.loads(line) for name in log.names(slot) for line in log.lines(name)]
    first = change(records)
    for name in log.names(slot):
        del log.files[name]
    prev, name, size = "0" * 64, "", 0
    if records[0]["predecessor"] is not None:
        prev = records[0]["prev"]
    seq = records[0]["seq"] - 1
    for record in records:
        seq += 1
        record["seq"], record["prev"] = seq, prev
        if record["type"] == "segment.start":
            if record["predecessor"] is not None and name:
                record["predecessor"] |= {"file": name, "seq": seq - 1, "hash": prev, "size": size}
            name = record["segment"] = f"audit-{slot}-{seq:016d}.jsonl"
            log.files[name], size = b"", 0
        line = hashed(record)
        log.files[name] += line
        size += len(line)
        prev = line[-67:-3].decode()
    return (slot, first) if first is not None else None


def _choose(rng: random.Random, log: Log, is_wanted: Callable[[Record], bool]) -> tuple[int, int]:
    """Slot and index of a covered record that is wanted."""
    found = []
    for slot in log.slots():
        records = [json.loads(line) for name in log.names(slot) for line in log.lines(name)]
        found += [
            (slot, index)
            for index, record in enumerate(records)
            if is_wanted(record) and record["seq"] <= log.covered[slot]
        ]
    return rng.choice(found)


def forge_edit(rng: random.Random, log: Log, _: Log) -> Place | None:
    slot, index = _choose(rng, log, lambda record: record["type"] in ("statement.intent", "login.failure"))

    def change(records: list[Record]) -> int:
        records[index]["person"] = "mallory"
        return int(records[index]["seq"])

    return _forge(log, slot, change)


def forge_time(rng: random.Random, log: Log, _: Log) -> Place | None:
    slot, index = _choose(rng, log, lambda record: True)

    def change(records: list[Record]) -> int:
        records[index]["at"] = "2026-01-01T00:00:00.000000Z"
        return int(records[index]["seq"])

    return _forge(log, slot, change)


def forge_deletion(rng: random.Random, log: Log, _: Log) -> Place | None:
    """A statement as if it had never been: its intent, its outcome, and its place in the headers' lists of open intents."""
    slot, index = _choose(rng, log, lambda record: record["type"] == "statement.intent")

    def change(records: list[Record]) -> int:
        seq, key = records[index]["seq"], [records[index]["session"], records[index]["statement"]]
        for record in records:
            if record["type"] == "segment.start" and key in record["open"]:
                record["open"].remove(key)
        records[:] = [each for each in records if [each.get("session"), each.get("statement")] != key]
        return int(seq)

    return _forge(log, slot, change)


def forge_insertion(rng: random.Random, log: Log, _: Log) -> Place | None:
    slot, index = _choose(rng, log, lambda record: record["type"] in ("statement.intent", "statement.outcome"))

    def change(records: list[Record]) -> int:
        model = records[index]
        common = {key: model[key] for key in ("v", "seq", "prev", "at", "type")} | {
            "session": "made-up",
            "statement": 1,
        }
        pair = [
            common | {"type": "statement.intent", "sql": "SELECT 1"},
            common | {"type": "statement.outcome", "status": "ok"},
        ]
        records[index + 1 : index + 1] = pair
        return int(model["seq"]) + 1

    return _forge(log, slot, change)


def forge_order(rng: random.Random, log: Log, _: Log) -> Place | None:
    """Two intents trade places, where the chain allows it."""
    slot, index = _choose(rng, log, lambda record: record["type"] == "statement.intent")

    def change(records: list[Record]) -> int:
        others = [i for i, each in enumerate(records) if each["type"] == "statement.intent" and i != index]
        other = min(others, key=lambda i: abs(i - index))
        for name in ("sql", "at"):
            records[index][name], records[other][name] = records[other][name], records[index][name]
        return int(min(records[index]["seq"], records[other]["seq"]))

    return _forge(log, slot, change)


def forge_without_a_checkpoint(rng: random.Random, log: Log, _: Log) -> Place | None:
    slot, index = _choose(rng, log, lambda record: record["type"] in ("checkpoint", "key.rotated"))

    def change(records: list[Record]) -> int | None:
        del records[index]
        return None

    return _forge(log, slot, change)


def forge_without_checkpoints_after(rng: random.Random, log: Log, _: Log) -> Place | None:
    """A statement edited and every checkpoint since taken out, in all files; the older ones are still right."""
    slot, index = _choose(rng, log, lambda record: record["type"] == "statement.intent")
    seqs = []

    def edit(records: list[Record]) -> int:
        records[index]["sql"] = "SELECT 0"
        seqs.append(records[index]["seq"])
        return int(records[index]["seq"])

    _forge(log, slot, edit)

    def strip(records: list[Record]) -> None:
        def is_kept(record: Record) -> bool:
            if record["type"] not in ("checkpoint", "key.rotated"):
                return True
            heads = {head["slot"]: head["seq"] for head in json.loads(record["payload"])["heads"]}
            return bool(heads.get(slot, 0) < seqs[0])

        records[:] = [record for record in records if is_kept(record)]

    _forge(log, 0, strip)
    return None


def replace_ledger(rng: random.Random, log: Log, other: Log) -> Place | None:
    """The ledger of another node in this one's place: right in itself, signed with another key."""
    log.files = dict(other.files)
    return None


PLAIN: list[Mutation] = [
    flip_bit, edit_field, delete_record, delete_bytes, duplicate_record, swap_records, insert_bytes, splice_record_of_another_day,
    splice_record_of_another_node, splice_segment_of_another_node, remove_segment, remove_slot, rename_segment, cut_head, cut_tail,
    cut_all_tails_at_a_checkpoint, edit_and_rehash, insert_forged_record,
]  # fmt: skip
FORGED: list[Mutation] = [
    forge_edit, forge_time, forge_deletion, forge_insertion, forge_order, forge_without_a_checkpoint, forge_without_checkpoints_after,
    replace_ledger,
]  # fmt: skip
