"""What a protocol core raises when the bytes are broken. Expected things are values, not exceptions."""

from protocol.contract import Side


class ProtocolError(Exception):
    """The peer broke the protocol; the session must end.

    side: which peer sent the offending bytes.
    detail: one plain sentence, without data from the message.
    """

    def __init__(self, side: Side, detail: str) -> None:
        super().__init__(f"{side.name.lower()}: {detail}")
        self.side = side
        self.detail = detail


class MalformedMessage(ProtocolError):
    """A message whose lengths, counts or terminators disagree."""


class UnexpectedMessage(ProtocolError):
    """A message type that this state does not allow."""


class MessageTooLarge(ProtocolError):
    """A declared length above the configured cap."""


class UnsupportedFeature(ProtocolError):
    """A legal request that this proxy refuses to relay."""
