"""The MySQL client/server protocol, as MySQL 8 and 9 and MariaDB 10.11 and later speak it: login, relay, parameters. Bytes in, values out; no I/O."""
