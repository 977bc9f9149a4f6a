"""PROXY protocol version 2: the header with which a load balancer says who really connected.

Accepted from configured balancers only; that check is the driver's, before it reads a byte. Extensions (TLVs) are ignored.
Layout: `signature(12) version|command(1) family|transport(1) length(2, big endian) addresses… TLVs…`.
Source: haproxy.org, "The PROXY protocol", section 2.2.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from protocol.contract import Side
from protocol.errors import MalformedMessage, MessageTooLarge

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
HEADER_SIZE = 16
MAX_REST = 2048
"""Addresses take 36 bytes at most; balancers add a few TLVs, among them TLS details of some hundred bytes."""


@dataclass(frozen=True, slots=True)
class Source:
    """Where the client really is."""

    address: str
    port: int


def rest_size(header: bytes) -> int:
    """Number of bytes that follow the first 16. Raises MalformedMessage or MessageTooLarge before they are read."""
    if len(header) != HEADER_SIZE or header[:12] != SIGNATURE or header[12] >> 4 != 2:
        raise MalformedMessage(Side.CLIENT, "not a PROXY protocol version 2 header")
    size = int.from_bytes(header[14:16], "big")
    if size > MAX_REST:
        raise MessageTooLarge(Side.CLIENT, "PROXY protocol header is too long")
    return size


def parse_source(header: bytes, rest: bytes) -> Source | None:
    """The client's address, or None for LOCAL: the balancer itself connects, for a health check.

    header: the first 16 bytes, rest: as many as rest_size said. Raises MalformedMessage. Anything that is not TCP over
    IP is refused: a connection whose origin is unknown must not pass for the balancer's own.
    """
    if len(rest) != rest_size(header):
        raise MalformedMessage(Side.CLIENT, "PROXY protocol header is cut short")
    command, family = header[12] & 0x0F, header[13]
    if command == 0:
        return None
    if command != 1:
        raise MalformedMessage(Side.CLIENT, "unknown PROXY protocol command")
    if family == 0x11 and len(rest) >= 12:
        return Source(str(IPv4Address(rest[:4])), int.from_bytes(rest[8:10], "big"))
    if family == 0x21 and len(rest) >= 36:
        address = IPv6Address(rest[:16])
        return Source(str(address.ipv4_mapped or address), int.from_bytes(rest[32:34], "big"))
    raise MalformedMessage(Side.CLIENT, "PROXY protocol address is not TCP over IPv4 or IPv6")
