"""What a chain says of itself in numbers, compared with what it has: the totals in heartbeats, each session's statement numbers and its totals at its end.

The hash chain shows that nothing was taken out of it by somebody who could not make the rest anew. The numbers show a missing record all the same:
whoever takes one out must also change every total after it, and the proxy itself cannot lose one unseen.

What is compared
----------------
* A heartbeat: `records` with the records since its process began, `intents`, `outcomes`, `refused`, `sessions`, `sessions_open` with those of their kind.
* A `session.end`: `statements`, `rows`, `received_bytes`, `sent_bytes` with the session's outcomes, `refused` with its refusals.
* The statement numbers of a session, which have no gaps: each of them has an intent, or was announced, refused or skipped. What was refused because
  it could not be recorded has a number and no record; `unrecorded` says how many there are, and `dropped` how many other events were lost that way.

What may differ, and does on real logs
--------------------------------------
* Between the beginning of a segment after a failure and `audit.resumed` stands what waited meanwhile. Outcomes do not wait for it, so that a heartbeat
  there counts fewer of them, and fewer records, than stand before it.
* `segment.lost` and the header before it are written ahead of what is to be flushed: a heartbeat in there counts these two less.
* A crash ends all counting; what was recorded since the last heartbeat is not counted then. A process that ends in good order has a heartbeat at its end.
* Where the beginning is not there (pruned, or not given), the first heartbeat is believed, and later ones are compared with it.

Counterparts: ledger_watch.py and session.py, which write these numbers.
"""

from __future__ import annotations

from typing import Any

from dbproxy.audit.verify_limits import MAX_SESSION_LENGTH, Meter

_LOST_RECORDS = 2


class SessionCount:
    """One session so far. last: its newest statement number; is_whole: its beginning was seen. gaps: numbers without a record."""

    __slots__ = ("gaps", "is_exact", "is_whole", "last", "outcomes", "received", "refused", "rows", "sent")

    def __init__(self, last: int, *, is_whole: bool) -> None:
        self.last = last
        self.is_whole = is_whole
        self.is_exact = is_whole
        self.gaps = 0
        self.outcomes = 0
        self.refused = 0
        self.rows = 0
        self.received = 0
        self.sent = 0


class ChainCounts:
    """Of one chain. Methods that compare return what is wrong, "" if nothing is; they raise KeyError, TypeError for members of the wrong form.

    heartbeats: how many were compared. dropped, unrecorded: what the chain itself says is not in it, of all its processes. counted_seq: the last record
    up to which heartbeats agree. checkpointed: the newest claim that a checkpoint covers this chain up to a record: that record, when, and where.
    """

    def __init__(self, slot: int, meter: Meter) -> None:
        self.heartbeats = 0
        self.dropped = 0
        self.unrecorded = 0
        self.counted_seq = 0
        self.checkpointed: tuple[int, str, int] | None = None
        self._slot = slot
        self._meter = meter
        self._sessions: dict[str, SessionCount] = {}
        self._base: int | None = None  # the record before the process's first one, None as long as that is not known
        self._is_first_segment = True
        self._is_delayed = False  # after a failure, and not resumed yet
        self._may_lag = 0
        self._restart(None)

    def _restart(self, base: int | None) -> None:
        self._base = base
        self._intents = self._outcomes = self._refused = self._begun = self._ended = 0
        self._gaps = 0
        self._first_gap = ""
        self._meter.sessions_left += len(self._sessions)
        self._sessions.clear()

    # --- the course of the chain -----------------------------------------------------------------------------------------------

    def begin_process(self, base: int, open_intents: int) -> None:
        """A process's first record is base + 1. open_intents: of the process before; their outcomes are none of this one's."""
        self._restart(base)
        self._outcomes = -open_intents
        self._is_delayed = False

    def begin_segment(self, *, is_first: bool, was_ended: bool) -> None:
        """was_ended: the segment before has its end record. If not, something has failed, unless a new process says that it took over."""
        self._is_first_segment = is_first
        self._is_delayed = not is_first and not was_ended
        self._may_lag = 0

    def lost_segment(self) -> None:
        self._is_delayed = False
        self._may_lag = _LOST_RECORDS

    def resumed(self, record: dict[str, Any]) -> None:
        self._is_delayed = False
        self.dropped += _number(record["dropped"])
        if self._is_first_segment:  # a heartbeat before this one cannot be believed
            self._base = None

    # --- what is counted -------------------------------------------------------------------------------------------------------

    def intent(self, session: str, statement: int) -> None:
        """Hot: for every statement."""
        self._intents += 1
        found = self._sessions.get(session)
        if found is None:
            found = self._keep(session, SessionCount(statement - 1, is_whole=False))
        if statement == found.last + 1:
            found.last = statement
        else:
            self._note_gap(session, found, statement)

    def outcome(self, session: str, record: dict[str, Any]) -> None:
        """Hot: for every statement."""
        self._outcomes += 1
        found = self._sessions.get(session)
        if found is None:
            return
        found.outcomes += 1
        try:
            found.rows += record["rows"]
            found.received += record["received_bytes"]
            found.sent += record["sent_bytes"]
        except KeyError:  # an unknown outcome, or one whose members were too large
            found.is_exact = False

    def numbered(self, record: dict[str, Any], *, is_refused: bool = False) -> None:
        """A statement that was announced, skipped or refused."""
        session, statement = _session(record), record.get("statement")
        self._refused += is_refused
        found = self._sessions.get(session)
        if isinstance(statement, int):
            if found is None:
                found = self._keep(session, SessionCount(statement - 1, is_whole=False))
            if statement == found.last + 1:
                found.last = statement
            else:
                self._note_gap(session, found, statement)
        if found is not None:
            found.refused += is_refused

    def begin_session(self, record: dict[str, Any]) -> None:
        self._begun += 1
        self._keep(_session(record), SessionCount(0, is_whole=True))

    def end_session(self, record: dict[str, Any]) -> str:
        self._ended += 1
        session = _session(record)
        found = self._sessions.pop(session, None)
        if found is None:
            return ""
        self._meter.sessions_left += 1
        if not found.is_whole or "unrecorded" not in record:
            return ""
        unrecorded = _number(record["unrecorded"])
        told = [("statements", found.outcomes)]
        if found.is_exact:
            told += [("rows", found.rows), ("received_bytes", found.received), ("sent_bytes", found.sent)]
        for name, counted in told:
            if _number(record[name]) != counted:
                return f"the end of session {session} counts {record[name]} {name}, and its records have {counted}"
        refused = _number(record["refused"])
        if not found.refused <= refused <= found.refused + unrecorded:
            return f"the end of session {session} counts {refused} refused statements, and {found.refused} are recorded"
        if found.gaps > unrecorded:
            return (
                f"session {session} has {found.gaps} statement numbers without a record, and its end says {unrecorded}"
            )
        return ""

    def heartbeat(self, record: dict[str, Any], seq: int) -> str:
        """seq: of the heartbeat's own record."""
        records, intents, outcomes = (_number(record[name]) for name in ("records", "intents", "outcomes"))
        dropped = _number(record["dropped"])
        if _number(record["slot"]) != self._slot:
            return f"a heartbeat of slot {record['slot']}"
        if "checkpointed" in record:
            self.checkpointed = (_number(record["checkpointed"]), record["at"], seq)
        if self._base is None:
            if not self._is_delayed and not self._may_lag:
                self._believe(record, seq)
            return ""
        behind = seq - 1 - self._base - records
        if behind < 0 or (behind and not self._is_delayed and behind != self._may_lag):
            return f"the heartbeat counts {records} records of its process before it, and there are {records + behind}"
        if behind == 0:
            self._may_lag = 0
        if intents != self._intents:
            return f"the heartbeat counts {intents} intents, and its process has {self._intents} before it"
        if outcomes != self._outcomes and not (self._is_delayed and outcomes < self._outcomes):
            return f"the heartbeat counts {outcomes} outcomes, and its process has {self._outcomes} before it"
        if "unrecorded" in record:
            wrong = self._compare_sessions(record, dropped)
            if wrong:
                return wrong
        self.heartbeats += 1
        self.counted_seq = seq
        return ""

    def _compare_sessions(self, record: dict[str, Any], dropped: int) -> str:
        begun, still_open, unrecorded = (_number(record[name]) for name in ("sessions", "sessions_open", "unrecorded"))
        if not self._refused <= _number(record["refused"]) <= self._refused + dropped:
            return f"the heartbeat counts {record['refused']} refused statements, and its process has {self._refused} before it"
        if begun != self._begun:
            return f"the heartbeat counts {begun} sessions, and its process has {self._begun} before it"
        if not self._ended <= begun - still_open <= self._ended + dropped:
            return (
                f"the heartbeat counts {begun - still_open} ended sessions, and its process has {self._ended} before it"
            )
        if self._gaps > unrecorded + dropped:
            return f"{self._gaps} statement numbers have no record, the first {self._first_gap}, and the heartbeat says {unrecorded + dropped}"
        self.unrecorded = max(self.unrecorded, unrecorded)
        return ""

    def _believe(self, record: dict[str, Any], seq: int) -> None:
        """The first heartbeat of a chain whose beginning is not there."""
        self._base = seq - 1 - _number(record["records"])
        self._intents, self._outcomes = record["intents"], record["outcomes"]
        self._refused = _number(record.get("refused", 0))
        self._begun = _number(record.get("sessions", 0))
        self._ended = self._begun - _number(record.get("sessions_open", 0))

    # --- sessions --------------------------------------------------------------------------------------------------------------

    def _keep(self, session: str, count: SessionCount) -> SessionCount:
        if session in self._sessions:
            self._sessions[session] = count
        elif self._meter.sessions_left > 0:
            self._meter.sessions_left -= 1
            self._sessions[session] = count
        return count

    def _note_gap(self, session: str, found: SessionCount, statement: int) -> None:
        """A number that does not follow the one before. One that comes again counts for nothing here."""
        missing = statement - found.last - 1
        if missing > 0:
            found.gaps += missing
            self._gaps += missing
            self._first_gap = self._first_gap or f"number {found.last + 1} of session {session}"
            found.last = statement


def _session(record: dict[str, Any]) -> str:
    session = record["session"]
    if not isinstance(session, str) or len(session) > MAX_SESSION_LENGTH:
        raise TypeError
    return session


def _number(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError
    return value
