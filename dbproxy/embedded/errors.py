"""What is raised when no throw-away server can be had."""

from __future__ import annotations


class EmbeddedServerError(Exception):
    """One plain message for a person: what is missing or refused, and the ways round it. Never holds a secret."""
