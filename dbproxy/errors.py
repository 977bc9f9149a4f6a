"""The root of what dbproxy/ raises when something is broken. Expected things are values.

Not here: config.errors (what is wrong with a file) and protocol.errors (what is wrong with the bytes); those packages stand alone.
"""


class DbproxyError(Exception):
    """Something in the proxy is broken.

    Its text is one plain sentence that may be shown to an operator: never SQL text, a secret or a person's data.
    """


class StartError(DbproxyError):
    """A part of the proxy cannot start: an address is taken, a child process does not answer, a directory is not writable."""
