"""MySQL and MariaDB relations that mean more than a table does: passwords, data samples, statements of others, the grant tables."""

from __future__ import annotations

from classifiers.effects import Kind

_SECRET = frozenset(
    ["user", "global_priv", "slave_master_info", "servers", "password_history", "replication_asynchronous_connection_failover",
     "proxies_priv", "user_password_history"]
)  # fmt: skip
_SAMPLES = {
    "mysql": frozenset(["general_log", "slow_log", "column_stats", "innodb_index_stats", "event", "column_statistics"]),
    "information_schema": frozenset(
        ["processlist", "column_statistics", "innodb_trx", "innodb_locks", "innodb_lock_waits", "innodb_ft_index_table",
         "innodb_ft_index_cache", "innodb_buffer_page", "query_response_time", "optimizer_trace", "profiling"]
    ),
    "performance_schema": frozenset(
        ["processlist", "threads", "prepared_statements_instances", "data_locks", "user_variables_by_thread", "error_log",
         "host_cache", "log_status", "variables_by_thread", "replication_connection_configuration"]
    ),
    "sys": frozenset(["processlist", "session", "x$processlist", "x$session", "innodb_lock_waits", "x$innodb_lock_waits"]),
}  # fmt: skip
_GRANTS = frozenset(
    ["user", "db", "tables_priv", "columns_priv", "procs_priv", "proxies_priv", "role_edges", "default_roles", "roles_mapping",
     "global_priv", "global_grants", "host", "password_history", "proxy_priv"]
)  # fmt: skip
_CODE = frozenset(["proc", "event", "func", "plugin", "component", "servers"])
_LOGS = frozenset(
    ["general_log", "slow_log", "audit_log_filter", "audit_log_user", "server_audit_filters", "server_audit_users"]
)


def find_read_flags(name: tuple[str, ...]) -> frozenset[str]:
    """Flags for reading a relation. name: parts as written; an unqualified name may be in any database, but is taken for the server's
    own only where it can be nothing else.
    """
    if len(name) < 2:
        return frozenset()
    schema, last = name[-2].lower(), name[-1].lower()
    flags = set()
    if schema == "mysql" and last in _SECRET:
        flags.add("catalog_secret")
    if last in _SAMPLES.get(schema, ()):
        flags.add("sample_leak")
    if schema == "performance_schema" and last.startswith(("events_statements", "events_transactions")):
        flags.add("sample_leak")
    if schema == "sys" and last.removeprefix("x$").startswith(("statement", "statements_")):
        flags.add("sample_leak")
    return frozenset(flags)


def find_write_acts(name: tuple[str, ...]) -> tuple[tuple[Kind, tuple[str, ...]], ...]:
    """Further kinds, with flags, of writing a relation directly."""
    if len(name) < 2 or name[-2].lower() not in ("mysql", "performance_schema", "sys"):
        return ()
    schema, last = name[-2].lower(), name[-1].lower()
    acts: list[tuple[Kind, tuple[str, ...]]] = []
    if schema == "mysql" and last in _GRANTS:
        acts.append((Kind.DCL, ("privilege_change",)))
    elif schema == "mysql" and last in _CODE:
        acts.append((Kind.DDL, ("code_body", "extension_load")))
    elif (
        last in _LOGS
        or schema == "performance_schema"
        or last in ("setup_consumers", "setup_instruments", "setup_actors")
    ):
        acts.append((Kind.ADMIN, ("audit_evasion",)))
    acts.append((Kind.ADMIN, ("server_config",)))
    return tuple(acts)


def names_grants(schema: str) -> bool:
    """Whether a database holds the grant tables."""
    return schema.lower() == "mysql"
