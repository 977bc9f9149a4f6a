"""Memory that is free goes back to the system.

The C library keeps what is freed for later, page for page as resident as it was. For most programs that is right. A TLS connection has two
buffers of 256 KiB of which hardly a page is ever touched: made anew they take no memory, made of freed pages they take all of it, and a
process through which many connections have gone would hold a multiple of what its sessions need (measured: 84 KiB per idle session at
first, 180 after two more generations of sessions; bound: 512).
"""

from __future__ import annotations

import ctypes

_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's; other C libraries give memory back by themselves


def give_back() -> None:
    """Return free pages. Takes a millisecond or a few: not for every query."""
    if _trim is not None:
        _trim(0)
