"""A throw-away PostgreSQL server for the demo and the tests: found, started without privileges, removed afterwards.

Not for production data: the server trusts nobody but its accounts, yet it keeps no backups and by default does not
sync to disk. It listens on 127.0.0.1 only and has no Unix socket (so no path-length limit can bite).
"""
