"""When a checkpoint is due, what is signed, and that it can be read back and checked with nothing but openssl."""

from __future__ import annotations

import json
import shutil
import subprocess
from base64 import b64decode
from hashlib import sha256
from pathlib import Path

import pytest
from support.requirements import go_without

from dbproxy.audit.checkpoint import Checkpointer, Head, Seal, parse_seal
from dbproxy.audit.signing import SigningKey
from dbproxy.audit.types import EventType

S = 1_000_000_000
AT = 1_767_225_600 * S
KEY = SigningKey.generate()
LEDGER = "ab" * 16
FILE = "audit-1-0000000000000001.jsonl"


def checkpointer(last: Seal | None = None, key: SigningKey = KEY) -> Checkpointer:
    return Checkpointer(key, last, ledger=LEDGER, node="test")


def test_the_first_is_due_at_once_and_nothing_before_a_head_is_known() -> None:
    made = checkpointer()
    assert not made.is_due(0)
    with pytest.raises(ValueError):
        made.make(0, AT)
    made.take_head(0, 1, "0" * 64, FILE)
    assert made.is_due(0)


def test_one_is_due_every_ten_seconds_also_when_idle() -> None:
    made = checkpointer()
    made.take_head(0, 1, "0" * 64, FILE)
    made.make(5 * S, AT)
    assert not made.is_due(15 * S - 1)
    assert made.is_due(15 * S)


def test_one_is_due_after_a_thousand_events_of_all_slots_but_not_more_than_four_a_second() -> None:
    made = checkpointer()
    for slot in (0, 1, 2):
        made.take_head(slot, 1, "0" * 64, FILE)
    made.make(0, AT)
    made.take_head(1, 501, "1" * 64, FILE)
    made.take_head(2, 500, "2" * 64, FILE)
    assert not made.is_due(1 * S)
    made.take_head(1, 502, "3" * 64, FILE)
    assert made.is_due(1 * S)
    assert not made.is_due(S // 4 - 1)
    made.make(1 * S, AT)
    assert not made.is_due(2 * S)


def test_one_is_due_at_once_when_a_slot_has_its_first_head() -> None:
    """Its worker hears of no checkpoint before."""
    made = checkpointer()
    made.take_head(0, 1, "0" * 64, FILE)
    last = made.make(0, AT)
    made.take_head(0, 2, "1" * 64, FILE)
    assert not made.is_due(1 * S)
    made.take_head(1, 1, "2" * 64, FILE)
    assert not made.is_due(S // 4 - 1)
    assert made.is_due(S // 4)
    made.withdraw(made.make(1 * S, AT))  # it could not be written
    assert made.is_due(2 * S)
    seal = made.make(2 * S, AT)
    assert not made.is_due(3 * S)
    for known, is_first in ((last, True), (seal, False)):
        again = checkpointer(known)
        again.make(0, AT)
        again.take_head(1, 2, "3" * 64, FILE)
        assert again.is_due(1 * S) is is_first


def test_a_head_never_goes_back() -> None:
    made = checkpointer()
    made.take_head(1, 7, "7" * 64, FILE)
    made.take_head(1, 6, "6" * 64, FILE)
    assert made.heads == (Head(1, 7, "7" * 64, FILE),)


def test_seals_form_a_chain_and_a_restart_goes_on_with_all_slots() -> None:
    made = checkpointer()
    made.take_head(3, 1, "3" * 64, "audit-3-0000000000000001.jsonl")
    first = made.make(0, AT)
    again = checkpointer(first)
    again.take_head(0, 9, "0" * 64, FILE)
    second = again.make(0, AT, is_final=True)
    assert (first.number, second.number) == (1, 2)
    assert second.previous == sha256(first.payload.encode()).hexdigest()
    assert [head.slot for head in second.heads] == [0, 3]
    assert second.ledger == LEDGER
    assert (first.is_final, second.is_final) == (False, True)
    assert first.type is EventType.CHECKPOINT


def test_a_rotation_is_signed_by_the_old_key_and_begins_an_epoch() -> None:
    made = checkpointer()
    made.take_head(0, 1, "0" * 64, FILE)
    key = SigningKey.generate()
    rotation = made.make(0, AT, next_key=key)
    after = made.make(0, AT)
    assert (rotation.type, rotation.epoch, rotation.key, rotation.next_key) == (
        EventType.KEY_ROTATED,
        1,
        KEY.id,
        key.public.raw,
    )
    assert (after.epoch, after.key) == (2, key.id)
    assert KEY.public.has_signed(rotation.payload.encode(), rotation.signature)
    assert key.public.has_signed(after.payload.encode(), after.signature)
    assert checkpointer(rotation, key).epoch == 2


def test_a_seal_that_was_not_written_leaves_no_gap() -> None:
    made = checkpointer()
    made.take_head(0, 1, "0" * 64, FILE)
    first = made.make(0, AT)
    lost = made.make(20 * S, AT, next_key=SigningKey.generate())
    made.withdraw(lost)
    assert made.is_due(20 * S)
    second = made.make(20 * S, AT)
    assert (second.number, second.epoch, second.key, second.previous) == (2, 1, KEY.id, first.digest)
    with pytest.raises(ValueError):
        made.withdraw(first)


def test_the_signed_bytes_come_back_from_the_record() -> None:
    made = checkpointer()
    made.take_head(0, 1, "0" * 64, FILE)
    seal = made.make(0, AT)
    record = json.loads(b"{%b}" % seal.body)
    assert parse_seal(record["payload"], record["signature"]) == seal
    anchored = json.loads(seal.line)
    assert parse_seal(anchored["payload"], anchored["signature"]) == seal


def test_openssl_agrees_with_the_signature(tmp_path: Path) -> None:
    openssl = shutil.which("openssl")
    if openssl is None:
        go_without("the program openssl is missing")
    made = checkpointer()
    made.take_head(0, 1, "0" * 64, FILE)
    record = json.loads(made.make(0, AT).line)
    (tmp_path / "key.pub").write_bytes(KEY.public.pem())
    (tmp_path / "signature").write_bytes(b64decode(record["signature"]))
    for text, code in ((record["payload"], 0), (record["payload"] + " ", 1)):
        (tmp_path / "payload").write_text(text)
        command = [openssl, "pkeyutl", "-verify", "-pubin", "-inkey", "key.pub", "-rawin", "-in", "payload"]
        done = subprocess.run([*command, "-sigfile", "signature"], cwd=tmp_path, capture_output=True, check=False)
        assert done.returncode == code, done


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("v", "dbproxy.seal/2"), ("kind", "other"), ("kind", "rotation"), ("ledger", "x"), ("node", 1), ("number", 0), ("number", True),
        ("number", 1 << 60), ("epoch", 0), ("key", "A" * 16), ("at", "yesterday"), ("previous", ""), ("heads", []), ("heads", [1]), ("heads", None),
        ("heads", [{"slot": 10_000, "seq": 1, "hash": "0" * 64, "file": FILE}]), ("heads", [{"slot": 0, "seq": 1, "hash": "0" * 64, "file": "../x"}]),
        ("heads", [{"slot": 0, "seq": 1, "hash": "0" * 64, "file": FILE}] * 2), ("next_key", "00" * 32),
    ],
)  # fmt: skip
def test_a_payload_of_another_form_is_refused(name: str, value: object) -> None:
    made = checkpointer()
    made.take_head(0, 1, "0" * 64, FILE)
    record = json.loads(made.make(0, AT).line)
    payload = json.loads(record["payload"]) | {name: value}
    with pytest.raises(ValueError):
        parse_seal(json.dumps(payload), record["signature"])


def test_members_of_another_form_are_refused() -> None:
    made = checkpointer()
    made.take_head(0, 1, "0" * 64, FILE)
    record = json.loads(made.make(0, AT).line)
    for payload, signature in ((record["payload"], "!"), (record["payload"], "AAAA"), (1, "x"), ("[]", record["signature"]), ("é", record["signature"])):  # fmt: skip
        with pytest.raises(ValueError):
            parse_seal(payload, signature)
