"""The offline verifier: checks a ledger's files, with public keys and anchors if they are given, and says what was proven and no more.

Three things are told apart, and each record is counted in the best of them:
* anchored: a checkpoint that covers it is in an anchor that was given, so not even who has the signing key could have changed it since.
* signed: a checkpoint that covers it has a right signature of a trusted key, so nobody without that key could have changed it.
* chained: it fits the records around it. Someone who can rewrite all files can make such a chain, and cut it anywhere.

When it is OK
-------------
Nothing is wrong, and, if keys or anchors were given, they reach to the end. That is so if the newest checkpoint that counts (anchored if anchors were
given, else signed) either is a final one, with only its own record and the end of control's chain beyond what it covers; or is not older than 40
seconds (interval plus lateness) at the time of verifying, `as_of_ns`: the ledger of a running proxy always has a short tail. Anything else is UNANCHORED:
the proxy may have ended without a final checkpoint, or its last records may have been cut off or made up; nobody can tell from the files.

Parts: verify_chain.py walks one chain, verify_counts.py compares it with its own totals, verify_witness.py with what other chains say of it,
verify_seals.py with checkpoints and anchors; verify_report.py is what comes out.
Counterpart: ledger.py, which writes; recovery.py, which repairs a torn end.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dbproxy.audit.segment import find_segments, parse_segment_name, segment_name
from dbproxy.audit.signing import PublicKey
from dbproxy.audit.types import EventType
from dbproxy.audit.verify_chain import ChainCheck
from dbproxy.audit.verify_files import find_extra_files, measure_segment
from dbproxy.audit.verify_limits import Meter, Progress
from dbproxy.audit.verify_report import (
    CHAINED_ONLY,
    SEVERITY,
    ChainResult,
    Level,
    Problem,
    Result,
    SealsResult,
    Status,
)
from dbproxy.audit.verify_seals import AnchorStream, SealCheck, read_rotations
from dbproxy.audit.verify_witness import CONTROL_SLOT, LIVE_S, Witness, parse_time

MAX_SLOTS = 512
"""More are never in use; each takes an open file while verifying."""
_SEALS = (EventType.CHECKPOINT, EventType.KEY_ROTATED, EventType.RETENTION_PRUNED)


def verify_directory(
    directory: Path,
    *,
    keys: Sequence[PublicKey] = (),
    anchors: Sequence[Path] = (),
    progress: Progress | None = None,
    high_water: Path | None = None,
    settle_s: float = 0.0,
    as_of_ns: int | None = None,
) -> Result:
    """Verify every chain in a ledger's directory, from its very first record.

    keys: trusted public keys; those they introduce are trusted too. anchors: files with anchored checkpoints, in any form that an anchor keeps.
    high_water: the proxy's own note of its last checkpoint (rollback.py), which shows a missing end and proves nothing else. settle_s: how long to wait for a half-written last line to be completed by a running proxy. as_of_ns: wall time when the files were
    copied, or now.
    """
    try:
        slots = find_segments(directory)
    except OSError as error:
        return _unreadable(str(directory), error.strerror or str(error))
    if not slots:
        return _unreadable(str(directory), "there is no ledger here (no file audit-<slot>-<number>.jsonl)")
    paths = {slot: [path for _, path in segments] for slot, segments in slots.items()}
    marks = [high_water] if high_water is not None else []
    return _verify(paths, directory, keys, anchors, marks, progress, settle_s, as_of_ns)


def verify_files(
    paths: Sequence[Path],
    *,
    keys: Sequence[PublicKey] = (),
    anchors: Sequence[Path] = (),
    progress: Progress | None = None,
    settle_s: float = 0.0,
) -> Result:
    """Verify some segments of a ledger. What came before the first of them is taken from its header, and said so in the notes.

    Checkpoints are compared as far as slot 0 and what they name were given; that they reach to the end is not asked.
    """
    slots: dict[int, list[tuple[int, Path]]] = {}
    for path in paths:
        parsed = parse_segment_name(path.name)
        if parsed is None:
            return _unreadable(str(path), "not the name of a segment (audit-<slot>-<number>.jsonl)")
        slots.setdefault(parsed[0], []).append((parsed[1], path))
    ordered = {slot: [path for _, path in sorted(segments)] for slot, segments in slots.items()}
    return _verify(ordered, None, keys, anchors, (), progress, settle_s, None)


def _verify(
    paths: dict[int, list[Path]],
    directory: Path | None,
    keys: Sequence[PublicKey],
    anchors: Sequence[Path],
    marks: Sequence[Path],
    progress: Progress | None,
    settle_s: float,
    as_of_ns: int | None,
) -> Result:
    level = Level.ANCHORED if anchors else Level.SIGNED if keys else Level.CHAINED
    if len(paths) > MAX_SLOTS:
        return _unreadable(str(directory), f"it has files of {len(paths)} slots; no proxy has more than {MAX_SLOTS}")
    try:
        total = sum(measure_segment(path) for segments in paths.values() for path in segments)
    except OSError as error:
        return _unreadable(str(error.filename), error.strerror or str(error))
    meter = Meter(progress, total)
    chains = {
        slot: ChainCheck(slot, paths[slot], meter, directory=directory, settle_s=settle_s) for slot in sorted(paths)
    }

    def look_again(slot: int) -> ChainCheck | None:
        """A slot may have come into use since the directory was listed."""
        found = find_segments(directory).get(slot) if directory is not None and len(chains) < MAX_SLOTS else None
        if not found:
            return None
        chains[slot] = ChainCheck(slot, [path for _, path in found], meter, directory=directory, settle_s=settle_s)
        return chains[slot]

    seen_ns = as_of_ns
    anchored, marked = [AnchorStream(path) for path in anchors], [AnchorStream(path) for path in marks]
    try:
        seals = SealCheck(
            chains,
            keys,
            anchored,
            marked,
            is_whole=directory is not None,
            look_again=look_again,
        )
        witness = Witness(chains, look_again)
        if keys:
            for path in anchors:
                seals.introduce(read_rotations(path))

        def take(type_: bytes, record: dict[str, Any]) -> None:
            (seals if type_ in _SEALS else witness).take(type_, record)

        control = chains.get(CONTROL_SLOT)
        if control is not None:
            control.control = take
            control.advance()  # takes the others along
        if seen_ns is None:
            seen_ns = control.read_ns if control is not None else time.time_ns()
        for slot in sorted(chains):
            chains[slot].advance()
        if directory is not None and control is not None:
            witness.finish(last_at=control.at)
            what = witness.find_missing_checkpoints(seals.covered, control.at)
            if what and not control.has_grown():
                control.fail(control.problem_missing_end(what))
        seals.finish(seen_ns, is_live=as_of_ns is None)
        if directory is not None and (extra := find_extra_files(directory)):
            next(iter(chains.values())).result.note(f"files that are not part of the ledger: {', '.join(extra[:20])}")
    except OSError as error:
        return _unreadable(str(error.filename or directory), error.strerror or str(error))
    finally:
        results = [chain.end() for chain in chains.values()]
        for stream in (*anchored, *marked):
            stream.close()
    results += list((witness.missing | seals.missing).values())
    if directory is not None and CONTROL_SLOT not in chains:
        what = (
            "the chain of slot 0, the control process's, which every proxy has, is missing, and with it all checkpoints"
        )
        missing = Problem(Status.TAMPERED, segment_name(CONTROL_SLOT, 1), 0, 1, what)
        results.append(ChainResult(CONTROL_SLOT, problem=missing))
    results.sort(key=lambda result: result.slot)
    problems = [result.problem for result in results if result.problem is not None]
    if directory is not None and level is not Level.CHAINED and not problems:
        unproven = _find_unproven_end(chains, seals, level, seen_ns)
        problems += [unproven] if unproven is not None else []
    problem = max(problems, key=lambda each: SEVERITY.index(each.status), default=None)
    status = problem.status if problem is not None else Status.OK
    return Result(status, level, tuple(results), seals.result, problem, _explain(level, results, seals.result))


def _find_unproven_end(chains: dict[int, ChainCheck], seals: SealCheck, level: Level, now_ns: int) -> Problem | None:
    """Why keys or anchors do not reach to the end of the ledger, if they do not."""
    found = seals.result
    word = level.value
    number, at = found.last_signed, found.last_signed_at
    if level is Level.ANCHORED:
        number, at = found.last_anchored, found.last_anchored_at
    if not number:
        if seals.first is None:
            return Problem(Status.UNANCHORED, "", 0, 0, "there is no checkpoint: nothing is proven beyond the chain")
        file, line, seq, key = seals.first
        missing = "in the anchors that were given"
        if level is Level.SIGNED:
            missing = f"signed with a key that was given; the first is of key {key}"
        return Problem(
            Status.UNANCHORED, file, line, seq, f"no checkpoint is {missing}: nothing is proven beyond the chain"
        )
    covered = {
        slot: chain.anchored_seq if level is Level.ANCHORED else chain.signed_seq for slot, chain in chains.items()
    }
    control = chains[CONTROL_SLOT]
    beyond = sum(chain.seq - covered[slot] for slot, chain in chains.items())
    is_final = (
        found.is_final
        and number == found.last_number
        and covered[CONTROL_SLOT] == seals.last_seq - 1
        and control.last_content_seq == seals.last_seq
        and beyond == control.seq - covered[CONTROL_SLOT]
    )
    if is_final and control.result.is_closed:
        return None
    if abs(now_ns / 1e9 - parse_time(at)) <= LIVE_S:
        return None
    if is_final:
        control.fail(
            control.problem_missing_end(f"the end record after the final checkpoint {number} of {at} is missing")
        )
        return control.result.problem
    slots = ", ".join(str(slot) for slot, chain in sorted(chains.items()) if chain.seq > covered[slot])
    if found.is_final and number == found.last_number:
        what = f"{beyond} records (slot {slots}) are not {word}, although checkpoint {number} of {at} says that it is the final one"
    else:
        what = f"{beyond} records (slot {slots}) are not {word}, and more may have been cut off: the last {word} checkpoint, {number} of {at}, is not a final one"
    return Problem(Status.UNANCHORED, "", 0, 0, what)


def _explain(level: Level, results: Sequence[ChainResult], seals: SealsResult) -> str:
    if level is Level.CHAINED:
        told = f"; its {seals.checkpoints} checkpoints were not checked, for lack of a key" if seals.checkpoints else ""
        return CHAINED_ONLY + told
    anchored, signed, chained = (
        sum(counts) for counts in zip(*((each.anchored, each.signed, each.chained) for each in results), strict=True)
    )
    parts = []
    if level is Level.ANCHORED:
        parts.append(
            f"{anchored:,} records anchored (up to {seals.last_anchored_at or 'none'}): not even the signing key can change them"
        )
    if seals.keys or signed:
        until = "" if anchored else f" (up to {seals.last_signed_at or 'none'})"
        parts.append(f"{signed:,} signed{until}")
    parts.append(f"{chained:,} chained only{', which may be made up or cut off at the end' if chained else ''}")
    return "; ".join(parts)


def _unreadable(name: str, what: str) -> Result:
    problem = Problem(Status.UNREADABLE, name, 0, 0, what)
    return Result(Status.UNREADABLE, Level.CHAINED, (), SealsResult(), problem, "nothing")
