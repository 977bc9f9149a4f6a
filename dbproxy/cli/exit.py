"""Exit codes of every command, as documented in `dbproxy --help`."""

DONE = 0
"""Done, or the answer is yes."""
NO = 1
"""The answer is no: errors were found, a verification failed."""
CANNOT = 2
"""Wrong usage, or it cannot be done."""
