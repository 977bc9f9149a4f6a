"""What MySQL's and MariaDB's system variables mean when they are set: flags, and whether later texts are read in another way."""

from __future__ import annotations

_MEANING = frozenset(
    ["sql_mode", "character_set_client", "character_set_connection", "collation_connection", "character_set_results", "default_week_format",
     "lower_case_table_names", "sql_auto_is_null", "old_mode", "div_precision_increment", "big_tables", "sql_select_limit",
     "default_storage_engine", "storage_engine", "character_set_server", "collation_server", "character_set_database",
     "collation_database", "explicit_defaults_for_timestamp", "alter_algorithm", "innodb_strict_mode", "system_versioning_alter_history"]
)  # fmt: skip
_LEXING = frozenset(
    ["sql_mode", "character_set_client", "old_mode", "collation_connection", "character_set_connection"]
)
"""Settings that change how the bytes or words of later texts are read."""
_SAFE_CHARSETS = frozenset(["utf8", "utf8mb3", "utf8mb4", "default"])
_EXACT: dict[str, tuple[str, ...]] = {
    "init_connect": ("dynamic_sql",),
    "init_slave": ("dynamic_sql",),
    "init_replica": ("dynamic_sql",),
    "init_file": ("dynamic_sql", "server_file_read"),
    "local_infile": ("client_file_read",),
    "secure_file_priv": ("server_file_read", "server_file_write"),
    "plugin_dir": ("extension_load",),
    "plugin_load": ("extension_load",),
    "general_log_file": ("audit_evasion", "server_file_write"),
    "slow_query_log_file": ("audit_evasion", "server_file_write"),
    "innodb_buffer_pool_filename": ("server_file_write",),
    "pseudo_thread_id": ("audit_evasion",),
    "proxy_user": ("identity_change",),
    "skip_grant_tables": ("privilege_change",),
    "check_proxy_users": ("privilege_change",),
    "mandatory_roles": ("privilege_change",),
    "activate_all_roles_on_login": ("privilege_change",),
    "partial_revokes": ("privilege_change",),
    "automatic_sp_privileges": ("privilege_change",),
    "log_bin_trust_function_creators": ("privilege_change",),
    "default_password_lifetime": ("privilege_change",),
    "old_passwords": ("privilege_change",),
    "secure_auth": ("privilege_change",),
    "strict_password_validation": ("privilege_change",),
    "default_authentication_plugin": ("privilege_change",),
    "authentication_policy": ("privilege_change",),
    "event_scheduler": ("server_config",),
    "read_only": ("server_config", "replication"),
    "super_read_only": ("server_config", "replication"),
}
_AUDIT_EXACT = frozenset(
    ["general_log", "slow_query_log", "sql_log_bin", "sql_log_off", "log_output", "log_error", "log_error_verbosity", "log_warnings",
     "log_error_services", "log_error_suppression_list", "log_raw", "expire_logs_days", "binlog_expire_logs_seconds", "long_query_time",
     "min_examined_row_limit", "log_slow_admin_statements", "log_slow_disabled_statements", "log_disabled_statements", "log_queries_not_using_indexes",
     "log_syslog", "performance_schema", "userstat", "log_timestamps", "log_throttle_queries_not_using_indexes", "log_slow_query", "log_slow_query_time"]
)  # fmt: skip
_AUDIT_PREFIXES = ("server_audit_", "audit_log_", "audit_", "log_slow_", "syseventlog.", "binlog_")
_REPLICATION = frozenset(["gtid_next", "gtid_purged", "gtid_mode", "server_id", "gtid_domain_id", "gtid_seq_no", "gtid_slave_pos", "gtid_binlog_state",
                          "enforce_gtid_consistency", "pseudo_slave_mode", "pseudo_replica_mode", "skip_replication", "server_uuid",
                          "sql_slave_skip_counter", "sql_replica_skip_counter"])  # fmt: skip
_REPLICATION_PREFIXES = ("rpl_", "slave_", "replica_", "group_replication_", "wsrep_", "replicate_", "relay_log")


def find_setting_flags(name: str, value: str | None = None) -> frozenset[str]:
    """name: without scope. value: where it is one plain word or string."""
    name = name.lower()
    flags = set(_EXACT.get(name, ()))
    if name in _MEANING and not (name.startswith(("character_set", "collation")) and is_safe_charset(value)):
        flags.add("session_semantics_change")
    if name in _AUDIT_EXACT or name.startswith(_AUDIT_PREFIXES):
        flags.add("audit_evasion")
    if name in _REPLICATION or name.startswith(_REPLICATION_PREFIXES):
        flags.add("replication")
    if name.startswith(("validate_password", "simple_password_check", "cracklib_password")):
        flags.add("privilege_change")
    return frozenset(flags)


def is_safe_charset(value: str | None) -> bool:
    """Whether a character set or collation reads ASCII bytes as ASCII wherever they stand, and is what connections have anyway."""
    return value is not None and value.lower().partition("_")[0] in _SAFE_CHARSETS


def is_neutral_setting(name: str) -> bool:
    """True if changing it cannot alter how later texts are read."""
    return name.lower() not in _LEXING
