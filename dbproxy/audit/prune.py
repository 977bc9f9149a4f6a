"""Pruning a ledger that no proxy is writing to: plan, record, sign, anchor, delete, in this order. Counterpart: control, which does the same while running."""

from __future__ import annotations

import platform
import time

from config.settings import Settings
from dbproxy.audit.ledger import AuditDown, Ledger
from dbproxy.audit.locks import DirectoryLock
from dbproxy.audit.proof_settings import build_anchors, high_water_path, signing_key_path
from dbproxy.audit.prover import open_prover
from dbproxy.audit.retention import PrunePlan, delete_pruned, plan_pruning
from dbproxy.audit.rollback import CONTROL_SLOT, find_last_seal
from dbproxy.audit.types import EventType
from dbproxy.errors import StartError

_ANCHOR_TIMEOUT_S = 30.0


def plan_offline(settings: Settings, *, now_s: float) -> PrunePlan:
    """What the policy of the settings lets go. Changes nothing. Raises StartError, OSError."""
    last = find_last_seal(settings.audit.directory)
    retention = settings.audit.retention
    return plan_pruning(
        settings.audit.directory,
        max_age_days=retention.max_age_days,
        max_bytes=retention.max_bytes,
        now_s=now_s,
        covered={head.slot: head.seq for head in last.heads} if last is not None else {},
    )


def prune_offline(settings: Settings, plan: PrunePlan, *, ledger_id: str) -> None:
    """Do what the plan says. Raises StartError if a proxy is running, or if the record of it cannot be written, signed and anchored; OSError."""
    directory = settings.audit.directory
    lock = DirectoryLock(directory)
    lock.acquire()
    try:
        anchors = build_anchors(settings)
        prover = open_prover(
            directory,
            key_path=signing_key_path(settings),
            high_water_path=high_water_path(settings),
            anchors=anchors,
            node=platform.node(),
            ledger_id=ledger_id,
            now_ns=time.monotonic_ns(),
        )
        ledger = Ledger(
            directory,
            segment_bytes=settings.audit.segment_bytes,
            reserve_bytes=settings.audit.reserve_bytes,
            now_ns=time.time_ns,
            slot=CONTROL_SLOT,
        )
        ledger.open()
        try:
            ledger.append(EventType.RETENTION_PRUNED, plan.body)
            ledger.flush()
            ledger.sync()
            prover.take_head(CONTROL_SLOT, ledger.synced.seq, ledger.synced.hash, ledger.synced.file)
            seal = prover.make(time.monotonic_ns(), time.time_ns(), is_final=True)
            ledger.append(seal.type, seal.body)
            ledger.flush()
            ledger.sync()
        except AuditDown as error:
            raise StartError(str(error)) from error
        finally:
            ledger.close("pruned")
        prover.written(seal, time.monotonic_ns())
        is_kept = prover.close(_ANCHOR_TIMEOUT_S)
        if anchors and not (is_kept or prover.is_anchored):
            raise StartError("no anchor has taken the checkpoint over what is to be pruned, so nothing was deleted")
        delete_pruned(directory, plan)
    finally:
        lock.release()
