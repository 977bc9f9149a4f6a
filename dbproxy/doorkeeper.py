"""What a worker asks of the proxy as a whole: is there room, may this name try again, whose cancel key is this.

Implemented over IPC by control_link.py; the counting is admission.py's, in the control process.
"""

from __future__ import annotations

from typing import Protocol

from dbproxy.errors import DbproxyError

UNKNOWN_KEY = "unknown key"
NOTHING_RUNS = "nothing runs"
DELIVERED = "delivered"
NOT_DELIVERED = "not delivered"
TOO_OFTEN = "too often"
"""What becomes of a cancel request; TOO_OFTEN is counted, not recorded."""

CANCELS_PER_SECOND = 50
"""Cancel requests looked at per second and address; more are dropped unseen, so that a key cannot be found by trying."""
TOO_MANY_OF_ADDRESS = "too many connections from this address"
TOO_MANY = "too many connections"
TOO_MANY_SESSIONS = "too many sessions of this user, or in all"


class UnreachableError(DbproxyError):
    """The control process did not answer in time; it is being started again."""


class Doorkeeper(Protocol):
    """Counts for all workers. claim: number of a connection, unique in its worker. person: in canonical form.

    deadline: in the loop's time; what cannot be answered until then raises UnreachableError.
    """

    async def enter(self, claim: int, address: str) -> str:
        """A connection was accepted. Returns "" or why there is no room. While control is away it is taken, and counted afterwards."""

    async def take(self, claim: int, person: str, deadline: float | None) -> str:
        """A person has logged in. Returns "" or why there is no room for a session."""

    def leave(self, claim: int) -> None:
        """A connection that has entered, or tried to, is over."""

    async def throttled(self, address: str, person: str, deadline: float | None, *, begins_proof: bool) -> str:
        """Are logins refused? "" no, "first" or "again" yes. begins_proof: `proved` will follow if they are not."""

    def proved(self, address: str, person: str, *, is_right: bool, was_begun: bool) -> None:
        """How a proof ended."""

    async def cancel_elsewhere(self, address: str, process_id: int, secret: bytes) -> tuple[str, str]:
        """Cancel what runs under a key that is not this worker's. Returns the result and the session, "" if nobody knows the key."""
