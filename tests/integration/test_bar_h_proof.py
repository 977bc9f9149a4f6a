"""H7, H8, H10, H11, H15: what the offline verifier finds, with public keys and anchors only. No server is needed."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from support import ledger_mutations
from support.figures import record, scaled
from support.ledger_mutations import FORGED, PLAIN, Log, Mutation, replace_ledger
from support.ledgers import SmallProxy, write_ledger

from dbproxy.audit.checkpoint import Checkpointer
from dbproxy.audit.signing import PublicKey, SigningKey
from dbproxy.audit.verify import verify_directory
from dbproxy.audit.verify_report import Result, Status


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)
    monkeypatch.setattr(os, "fdatasync", lambda _: None)


def read_log(proxy: SmallProxy) -> Log:
    files = {path.name: path.read_bytes() for path in proxy.directory.iterdir() if path.suffix != ".lock"}
    assert proxy.last is not None
    return Log(files, {head.slot: head.seq for head in proxy.last.heads})


class Bench:
    """A good ledger, another node's ledger, and a directory to put mutated copies of the first in. On a RAM disk if there is one."""

    def __init__(self, base: Path, seed: int, *, is_counting: bool = True) -> None:
        options = {"runs": 3, "statements": 8, "is_counting": is_counting}
        self.proxy = write_ledger(base / "one", seed, node="one", **options)
        self.log = read_log(self.proxy)
        self.other = read_log(write_ledger(base / "two", seed + 1, node="two", **options))
        self.anchors = [base / "one" / "anchors"]
        self.work = base / "work"

    def verify(self, log: Log, *, keys: list[PublicKey] | None = None, has_anchors: bool = True) -> Result:
        shutil.rmtree(self.work, ignore_errors=True)
        self.work.mkdir()
        for name, data in log.files.items():
            (self.work / name).write_bytes(data)
        return verify_directory(
            self.work,
            keys=self.proxy.keys[:1] if keys is None else keys,
            anchors=self.anchors if has_anchors else [],
        )


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("ledgers"), 11)


@pytest.fixture(scope="module")
def bench_without_totals(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("uncounted"), 11, is_counting=False)


@pytest.mark.timeout(1800)
def test_bar_h7_every_mutation_is_found(bench: Bench) -> None:
    assert bench.verify(bench.log).status is Status.OK
    kinds: list[Mutation] = [*PLAIN, *FORGED]
    count = scaled(25 * len(kinds), 10_000)
    missed: list[tuple[str, int]] = []
    misplaced: list[object] = []
    verdicts: Counter[str] = Counter()
    for number in range(count):
        mutation = kinds[number % len(kinds)]
        rng = random.Random(number)
        log = bench.log.copy()
        place = None
        while log.files == bench.log.files:  # a swap of equal bytes is no mutation
            place = mutation(rng, log, bench.other)
        result = bench.verify(log)
        verdicts[result.status.name] += 1
        found = (Status.TAMPERED, Status.TRUNCATED, Status.UNREADABLE)
        if result.status not in ((*found, Status.UNANCHORED) if mutation is replace_ledger else found):
            missed.append((mutation.__name__, number))
            continue
        problem = result.problem
        assert problem is not None
        is_file_as_a_whole = problem.until or problem.seq == 1 or problem.what == "the segment is empty"
        if not problem.file or problem.seq < 1 or (problem.line == 0 and not is_file_as_a_whole):
            misplaced.append((mutation.__name__, number, problem))
        elif place is not None:
            # Said of the slot that was tampered with: the very record, one of the span it names, or the next one, whose link is wrong then.
            said = [chain.problem for chain in result.chains if chain.slot == place[0] and chain.problem is not None]
            if not any(each.seq <= place[1] + 1 and place[1] <= max(each.seq, each.until) for each in said):
                misplaced.append((mutation.__name__, number, place, said))
    assert misplaced[:5] == []
    record("H7", "mutations not found", count=count, failures=len(missed), missed=missed[:10], verdicts=dict(verdicts))


@pytest.mark.parametrize("mutation", FORGED[:-3], ids=lambda mutation: mutation.__name__)
def test_a_forger_without_the_key_makes_a_right_chain_and_is_found_by_signatures_alone(
    bench_without_totals: Bench, mutation: Mutation
) -> None:
    """So it is the signatures that find it, not an accident in the forgery. Somebody who can do this can change totals too."""
    bench = bench_without_totals
    found = right = 0
    for seed in range(20):
        log = bench.log.copy()
        place = mutation(random.Random(seed), log, bench.other)
        if log.files == bench.log.files or place is None:
            continue
        found += 1
        assert bench.verify(log, has_anchors=False).status is Status.TAMPERED
        stripped = without_seals(log)
        right += bench.verify(stripped, keys=[], has_anchors=False).status is Status.OK
    assert found == right > 0


def without_seals(log: Log) -> Log:
    log = log.copy()

    def strip(records: list[ledger_mutations.Record]) -> None:
        records[:] = [each for each in records if each["type"] not in ("checkpoint", "key.rotated")]

    ledger_mutations._forge(log, 0, strip)
    return log


def test_bar_h7_clean_logs_raise_no_alarm(tmp_path: Path) -> None:
    count = scaled(60, 1_000)
    alarms: list[object] = []
    seen: Counter[str] = Counter()
    for seed in range(count):
        base = tmp_path / "log"
        shutil.rmtree(base, ignore_errors=True)
        proxy = write_ledger(
            base, seed, runs=1 + seed % 3, statements=6, slots=1 + seed % 4, is_compressing=seed % 2 == 0
        )
        result = verify_directory(proxy.directory, keys=proxy.keys[:1], anchors=[base / "anchors"])
        if result.status is not Status.OK:
            alarms.append((seed, result.problem))
        seen["with key changes"] += len(proxy.keys) > 1
        seen["with recoveries"] += any(chain.recoveries for chain in result.chains)
        seen["pruned"] += any(chain.pruned for chain in result.chains)
        seen["compressed"] += any(proxy.directory.glob("*.gz"))
        assert result.problem is not None or sum(chain.chained for chain in result.chains) <= 4
    assert min(seen.values()) > count // 10, seen
    record(
        "H7.clean", "false alarms on clean logs", count=count, failures=len(alarms), alarms=alarms[:5], seen=dict(seen)
    )


def test_bar_h8_a_tail_beyond_the_last_anchor_is_never_a_plain_ok(tmp_path: Path) -> None:
    """Cut at every record after the last anchored checkpoint, of every slot and of all together."""
    proxy = SmallProxy(tmp_path, 5, segment_bytes=1 << 20)
    proxy.start()
    proxy.work(10)
    anchored = proxy.checkpoint()
    proxy.work(10)
    signed = proxy.checkpoint(is_anchored=False)
    proxy.work(10)
    proxy.crash(is_torn=False)
    plain = tried = 0
    files = {path: path.read_bytes().splitlines(keepends=True) for path in proxy.directory.glob("*.jsonl")}
    heads = {head.slot: head.seq for head in anchored.heads}
    signed_heads = {head.slot: head.seq for head in signed.heads}
    for path, lines in files.items():
        slot = int(path.name.split("-")[1])
        for last in range(heads[slot] + (slot == 0), len(lines) + 1):
            path.write_bytes(b"".join(lines[:last]))
            result = verify_directory(proxy.directory, keys=proxy.keys, anchors=[tmp_path / "anchors"])
            tried += 1
            chain = next(each for each in result.chains if each.slot == slot)
            if result.status is Status.UNANCHORED:
                ends = (heads[slot], max(heads[slot], min(signed_heads[slot], last)), last)
                if slot == 0 and last <= signed_heads[0]:  # the signed checkpoint's own record is gone
                    ends = (heads[0], heads[0], last)
                assert (chain.anchored, chain.signed, chain.chained) == (ends[0], ends[1] - ends[0], ends[2] - ends[1])
                assert "are not anchored, and more may have been cut off" in (
                    result.problem.what if result.problem else ""
                )
            elif result.status is not Status.TAMPERED:  # a record that was signed is missing
                plain += 1
        path.write_bytes(b"".join(lines))
    record("H8", "cuts after the last anchor taken for OK", count=tried, failures=plain)


def test_bar_h10_a_writer_whose_files_are_removed_is_missed(tmp_path: Path) -> None:
    count = 0
    failures = 0
    for slots in (2, 4, 8):
        proxy = write_ledger(tmp_path / str(slots), slots, slots=slots, statements=40, runs=1)
        for slot in range(slots):
            work = tmp_path / "work"
            shutil.rmtree(work, ignore_errors=True)
            shutil.copytree(proxy.directory, work)
            for path in work.glob(f"audit-{slot}-*"):
                path.unlink()
            for keys in (proxy.keys[:1], []):
                result = verify_directory(work, keys=keys)
                count += 1
                said = result.problem.file if result.problem else ""
                failures += result.status is not Status.TAMPERED or not said.startswith(f"audit-{slot}-")
    record("H10", "removed writers not missed, with the key and without", count=count, failures=failures)


def test_bar_h11_keys_rotated_twenty_times_verify_from_the_first_one(tmp_path: Path) -> None:
    proxy = SmallProxy(tmp_path, 3)
    proxy.start()
    proxy.checkpoint()
    for _ in range(20):
        proxy.work(5)
        proxy.rotate_key()
        proxy.work(5)
        proxy.checkpoint()
    proxy.stop()
    anchors = [tmp_path / "anchors"]
    assert len({key.id for key in proxy.keys}) == 21
    first = verify_directory(proxy.directory, keys=proxy.keys[:1], anchors=anchors)
    assert (first.status, first.seals.rotations, first.seals.unchecked) == (Status.OK, 20, 0)
    for index, key in enumerate(proxy.keys):  # each key proves everything up to its time by what follows it
        result = verify_directory(proxy.directory, keys=[key])
        assert (result.status, result.seals.unchecked > 0) == (Status.OK, index > 0), (index, result.problem)
        assert sum(chain.chained for chain in result.chains) <= 4
    stranger = verify_directory(proxy.directory, keys=[SigningKey.generate().public])
    assert stranger.status is Status.UNANCHORED
    record("H11", "rotations that do not verify from the first key", count=20, failures=0)


@pytest.mark.parametrize("how", ["retired", "later", "stranger", "stranger that says it rotated", "epoch"])
def test_bar_h11_a_key_outside_of_its_epoch_is_refused(tmp_path: Path, how: str) -> None:
    proxy = SmallProxy(tmp_path, 4)
    old = proxy.key
    proxy.start()
    proxy.checkpoint()
    proxy.rotate_key()
    proxy.work(5)
    proxy.checkpoint()
    later = SigningKey.generate()
    seal = proxy.last
    assert seal is not None
    signer = {"retired": old, "later": later, "epoch": proxy.key}.get(how, SigningKey.generate())
    forged = Checkpointer(signer, seal, ledger="00" * 16, node="test")
    if how == "stranger that says it rotated":
        proxy.checkpointer = forged
        proxy.checkpoint(next_key=SigningKey.generate())
    elif how == "epoch":
        forged.epoch += 1
    proxy.checkpointer = forged
    proxy.work(2)
    bad = proxy.checkpoint()
    proxy.stop()
    result = verify_directory(proxy.directory, keys=[*proxy.keys, later.public, signer.public])
    assert result.status is Status.TAMPERED
    problem = result.problem
    assert problem is not None
    line = find_line(proxy.directory / problem.file, problem.line)
    assert json.loads(line["payload"])["number"] <= bad.number
    assert problem.seq == line["seq"]
    assert "the key of epoch" in problem.what


def find_line(path: Path, number: int) -> dict[str, str]:
    found: dict[str, str] = json.loads(path.read_bytes().splitlines()[number - 1])
    return found


def test_bar_h11_a_wrong_signature_is_found_at_its_record(tmp_path: Path) -> None:
    proxy = SmallProxy(tmp_path, 4, segment_bytes=1 << 20)
    proxy.start()
    proxy.checkpoint()
    key = proxy.key
    proxy.checkpointer._key = type("Impostor", (), {"id": key.id, "sign": SigningKey.generate().sign})()  # type: ignore[assignment]
    proxy.checkpoint()
    proxy.checkpointer._key = key
    proxy.stop()
    result = verify_directory(proxy.directory, keys=[key.public])
    assert result.status is Status.TAMPERED
    assert result.problem is not None
    assert result.problem.what == "the signature of checkpoint 2 is wrong"


@pytest.mark.slow
def test_bar_h15_speed_and_exit_codes(tmp_path: Path) -> None:
    """As a command, with nothing but public key and anchors, processor time of the whole process."""
    count = scaled(60_000, 500_000)
    proxy = SmallProxy(tmp_path, 6, segment_bytes=8 << 20)
    proxy.start()
    while proxy.number < count // 2:
        proxy.work(400)
        proxy.checkpoint()
    proxy.stop()
    (tmp_path / "key.pub").write_bytes(proxy.keys[0].pem())
    copy = tmp_path / "copy"
    (copy / "audit").mkdir(parents=True)
    for path in proxy.directory.glob("*.jsonl"):
        shutil.copy(path, copy / "audit")
    shutil.copy(tmp_path / "anchors", copy)
    shutil.copy(tmp_path / "key.pub", copy)

    def run(*more: str) -> tuple[int, dict[str, object], float]:
        command = [sys.executable, "-m", "dbproxy", "audit", "verify", "audit", "--key", "key.pub", "--json", *more]
        before = os.times()
        done = subprocess.run(command, cwd=copy, capture_output=True, check=False, env=os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[2])})  # fmt: skip
        after = os.times()
        used = after.children_user + after.children_system - before.children_user - before.children_system
        return done.returncode, json.loads(done.stdout), used

    code, answer, used = run("--anchor", "anchors")
    chains = answer["chains"]
    assert isinstance(chains, list)
    records = sum(chain["records"] for chain in chains)
    rate = round(records / used)
    assert (code, answer["status"], answer["level"]) == (0, "ok", "anchored")
    last = max((copy / "audit").glob("audit-1-*.jsonl"))
    data = last.read_bytes()
    codes = {"ok": code}
    last.write_bytes(data.replace(b'"alice"', b'"malic"', 1))
    codes["tampered"] = run()[0]
    last.write_bytes(data)
    control = max((copy / "audit").glob("audit-0-*.jsonl"))
    kept = control.read_bytes()
    control.write_bytes(kept[:-5])
    codes["truncated"] = run()[0]
    control.write_bytes(kept)
    (copy / "none").write_bytes(b"")
    codes["unanchored"] = run("--anchor", "none")[0]
    shutil.rmtree(copy / "audit")
    codes["unreadable"] = run()[0]
    assert codes == {"ok": 0, "tampered": 1, "truncated": 2, "unreadable": 3, "unanchored": 4}
    record("H15", "events a second of processor time below 50,000", count=records, failures=int(rate < 50_000), rate=rate, seconds=round(used, 2), codes=codes)  # fmt: skip


def test_a_live_ledger_is_ok_and_says_what_is_not_covered_yet(tmp_path: Path) -> None:
    proxy = SmallProxy(tmp_path, 8)
    proxy.start()
    proxy.checkpoint()
    proxy.work(5)
    for age_s, status in ((5, Status.OK), (39, Status.OK), (60, Status.UNANCHORED), (-60, Status.UNANCHORED)):
        now = proxy.now_ns + age_s * 10**9
        result = verify_directory(proxy.directory, keys=proxy.keys, anchors=[tmp_path / "anchors"], as_of_ns=now)
        assert result.status is status, (age_s, result.problem)
        assert sum(chain.chained for chain in result.chains) > 5
    assert time.time() > proxy.now_ns / 1e9
    proxy.stop()
