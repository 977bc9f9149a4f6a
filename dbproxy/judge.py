"""What a statement does and whether it may run: the classifier's report, cached by exact text, and the policy's decision about it.

Shared by all sessions. The session asks with its own lexing state and context; it writes the audit records and tells the relay.
Cheap on the way of a query: a text that was seen before costs two dictionary look-ups and no call of the policy.
"""

from __future__ import annotations

from collections.abc import Callable

from classifiers.effects import Effect, Kind, LexingState, Report
from classifiers.redact import redact
from dbproxy.audit.record import members, sql_members
from dbproxy.catalogue.resolve import Resolution
from dbproxy.catalogue.sights import Sights
from dbproxy.classifier.pool import ClassifierPool
from dbproxy.classifier.queue import Request
from dbproxy.policy.decide import decide
from dbproxy.policy.model import Action, Context, Decision, Policy

_LARGE_TEXT_BYTES = 8192
"""Longer texts are not kept in the cache: a few of them would push out everything else."""

_RESOLVED_MAX = 50
"""So many reached objects are named in a record; `resolved_more` counts the others."""

_READ_ONLY = frozenset({Kind.DML_READ, Kind.SESSION, Kind.TXN, Kind.METADATA, Kind.EMPTY})
_SEMANTICS = frozenset({Kind.DYNAMIC, Kind.UNPARSABLE})


class Entry:
    """What is known about a text. members: the audit members that describe it, redacted; rulings: decisions by context.

    is_read_only: nothing in it may write, so the server must not report a write. makes: it may define an object, or copy one into another. changes_meaning: later texts may be read otherwise. changes_role: the role may be another one afterwards.
    """

    __slots__ = (
        "changes_meaning",
        "changes_role",
        "is_neutral",
        "is_read_only",
        "is_self_contained",
        "makes",
        "members",
        "report",
        "rulings",
    )

    def __init__(self, report: Report, members: bytes) -> None:
        self.report = report
        self.members = members
        self.rulings: dict[Context, Ruling] = {}
        self.is_neutral = report.is_neutral
        self.is_read_only = report.kinds <= _READ_ONLY
        self.makes = Kind.DDL in report.kinds or Kind.DYNAMIC in report.kinds or (Kind.DML_WRITE in report.kinds and bool(report.reads))  # fmt: skip
        self.changes_meaning = "session_semantics_change" in report.flags or bool(report.kinds & _SEMANTICS)
        self.changes_role = "identity_change" in report.flags or bool(report.kinds & _SEMANTICS)
        # Needs nothing from the connection's own names, and gives it none.
        self.is_self_contained = not (report.uses or report.prepares or report.cursors or report.deallocates)


class Ruling:
    """A decision about an entry in one context. counted: command and action, for the metrics. members: all audit members of the statement but the session's and the parameters.

    resolution: what it reaches; None without a catalogue.

    is_plain_read: it reads, or changes nothing but its own session, and no rule so much as matched it, be it only to alert or in the shadow. There
    are no labels yet: a table that somebody cares for is one that a rule names. With durability `tiered` such a statement need not wait for the disk.
    """

    __slots__ = ("counted", "decision", "entry", "is_plain_read", "is_refused", "members", "resolution")

    def __init__(self, entry: Entry, decision: Decision, resolution: Resolution | None) -> None:
        self.entry = entry
        self.resolution = resolution
        self.decision = decision
        self.is_refused = decision.is_refused
        self.is_plain_read = (
            entry.is_read_only and not decision.hits and (resolution is None or _only_reads(resolution))
        )
        self.counted = (entry.report.command, str(decision.action))  # how the metrics count it
        self.members = entry.members + b"," + _decision_members(decision)
        if resolution is not None:
            self.members += b"," + _resolution_members(resolution)


class Judge:
    """The policy in force, and the cache. hits, misses, failures: totals for metrics.

    cache_bytes: bound on the text and members of all entries; when it is reached the oldest go first. sights: of the targets that have a
    catalogue; None if none has.
    """

    __slots__ = (
        "_cache_bytes",
        "_caches",
        "_classifier",
        "_size",
        "failures",
        "hits",
        "misses",
        "policy",
        "sights",
        "unparsable",
    )

    def __init__(
        self, classifier: ClassifierPool, policy: Policy, *, cache_bytes: int, sights: Sights | None = None
    ) -> None:
        self.sights = sights
        self._classifier = classifier
        self._cache_bytes = cache_bytes
        self._caches: dict[tuple[str, LexingState, int], dict[bytes, Entry]] = {}
        self._size = 0
        self.policy = policy
        self.hits = 0
        self.misses = 0
        self.unparsable = 0
        self.failures = 0

    def replace_policy(self, policy: Policy) -> None:
        """Put another policy in force for all that is judged from now on. Sessions must be told to judge again."""
        self.policy = policy
        self.forget_rulings()

    def forget_rulings(self) -> None:
        """What was decided does not hold any more. Sessions must be told to judge again."""
        for cache in self._caches.values():
            for entry in cache.values():
                entry.rulings.clear()

    def cache_for(self, dialect: str, state: LexingState, server_version: int) -> dict[bytes, Entry]:
        """The entries for texts read in this state; for look-up only."""
        return self._caches.setdefault((dialect, state, server_version), {})

    def classify(
        self,
        dialect: str,
        text: bytes,
        state: LexingState,
        server_version: int,
        key: str,
        done: Callable[[Entry], object],
    ) -> Request:
        """Have a text read that the cache does not have. done is called later, never at once."""
        self.misses += 1

        def keep(report: Report) -> None:
            entry = make_entry(text, report)
            if Kind.UNPARSABLE in report.kinds:
                self.unparsable += 1
            elif len(text) <= _LARGE_TEXT_BYTES:
                self._keep(self.cache_for(dialect, state, server_version), text, entry)
            done(entry)

        return self._classifier.submit(dialect, text, state, server_version, key, keep)

    def withdraw(self, request: Request) -> None:
        """The session is gone; nobody waits for this text."""
        self._classifier.withdraw(request)

    def rule(self, entry: Entry, context: Context) -> Ruling:
        """Decide, or find what was decided. A policy that fails refuses."""
        ruling = entry.rulings.get(context)
        if ruling is None:
            if len(entry.rulings) >= 256:
                entry.rulings.clear()
            ruling = self._make_ruling(entry, context)
            entry.rulings[context] = ruling
        return ruling

    def _make_ruling(self, entry: Entry, context: Context) -> Ruling:
        sights = self.sights
        if sights is None or not sights.watches(context.target):
            return Ruling(entry, self._decide(entry.report, context), None)
        try:
            resolution = sights.resolve(
                entry.report, context.target, context.database, context.search_path, context.derived
            )
        except Exception:  # noqa: BLE001 - what was to be found out may be anything
            self.failures += 1
            resolution = sights.unseen(entry.report)
        return Ruling(entry, self._decide(resolution.report, context), resolution)

    def _decide(self, report: Report, context: Context) -> Decision:
        policy = self.policy
        try:
            return decide(policy, report, context)
        except Exception:  # noqa: BLE001 - whatever is wrong with a policy, the statement must not run
            self.failures += 1
            action = Action.TERMINATE if policy.on_error is Action.TERMINATE else Action.BLOCK
            return Decision(action, (), "the policy could not be evaluated", policy.sha256, policy.unsafe)

    def _keep(self, cache: dict[bytes, Entry], text: bytes, entry: Entry) -> None:
        size = len(text) + len(entry.members)
        self._size += size
        while self._size > self._cache_bytes:
            fullest = max(self._caches.values(), key=len)
            if not fullest:
                return
            oldest, gone = next(iter(fullest.items()))
            del fullest[oldest]
            self._size -= len(oldest) + len(gone.members)
        replaced = cache.pop(text, None)
        if replaced is not None:
            self._size -= len(text) + len(replaced.members)
        cache[text] = entry


def make_entry(text: bytes | None, report: Report) -> Entry:
    """An entry from a report. text None: the statement has no text of its own (a function by number, an unknown name)."""
    described: dict[str, object] = {
        "kinds": sorted(report.kinds),
        "flags": sorted(report.flags),
        "reads": list(report.reads),
        "writes": list(report.writes),
        "functions": list(report.functions),
        "command": report.command,
    }
    if report.reason:
        described["reason"] = report.reason
    encoded = members(described)
    if text is None:
        return Entry(report, encoded)
    stored = redact(text, report.secret_spans) if report.secret_spans else text
    return Entry(report, sql_members(stored, is_redacted=bool(report.secret_spans)) + b"," + encoded)


def _only_reads(resolution: Resolution) -> bool:
    return all(each.kind in _READ_ONLY for each in resolution.reached)


def unknown_report(command: str, flag: str, reason: str) -> Report:
    """For what has no text that could be read: it is dynamic, with the flag that says why."""
    return Report((Effect(Kind.DYNAMIC, flags=frozenset({flag})),), command=command, reason=reason)


def _decision_members(decision: Decision) -> bytes:
    rules = [
        {"name": hit.rule, "mode": hit.mode, "action": hit.action, "severity": hit.severity, "matched": hit.matched}
        for hit in decision.hits
    ]
    fields: dict[str, object] = {"action": decision.action, "rules": rules, "policy": decision.policy_sha256}
    if decision.unsafe:
        fields["unsafe"] = list(decision.unsafe)
    return members(fields)


def _resolution_members(resolution: Resolution) -> bytes:
    named: dict[tuple[str, str, str], None] = {}
    for each in resolution.reached:
        named[each.object, each.mode, each.via] = None
    fields: dict[str, object] = {
        "catalogue": resolution.visibility,
        "resolved": [{"name": name, "mode": mode, "via": via} for name, mode, via in list(named)[:_RESOLVED_MAX]],
    }
    if len(named) > _RESOLVED_MAX:
        fields["resolved_more"] = len(named) - _RESOLVED_MAX
    if resolution.unresolved:
        fields["unresolved"] = list(resolution.unresolved)
    if resolution.visibility != "full":
        fields["degraded_visibility"] = True
    return members(fields)
