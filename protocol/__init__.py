"""Bytes to messages to statements, for each wire protocol. No I/O, no clock, no logging."""
