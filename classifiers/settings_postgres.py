"""What changing a PostgreSQL setting means, by its name. For SET, RESET, set_config, ALTER ROLE … SET and ALTER SYSTEM alike."""

from __future__ import annotations

_SEMANTICS = frozenset(
    ["search_path", "client_encoding", "names", "standard_conforming_strings", "backslash_quote", "escape_string_warning",
     "default_tablespace", "default_table_access_method", "temp_tablespaces", "default_text_search_config", "datestyle",
     "intervalstyle", "timezone", "xmloption", "array_nulls", "transform_null_equals", "quote_all_identifiers", "check_function_bodies",
     "default_transaction_read_only", "extra_float_digits", "bytea_output", "lo_compat_privileges"]
)  # fmt: skip
_MEANING = frozenset(["search_path", "client_encoding", "names", "standard_conforming_strings", "backslash_quote",
                      "transform_null_equals", "default_table_access_method", "lo_compat_privileges"])  # fmt: skip
"""Settings after which the same text means something else. Formats and time zones change results, not meaning."""
NEUTRAL_FORMATS = _SEMANTICS - _MEANING

_EXACT: dict[str, tuple[str, ...]] = {
    "role": ("identity_change",),
    "session_authorization": ("identity_change",),
    "search_path": ("search_path_change",),
    "schema": ("search_path_change",),
    "row_security": ("row_security_change",),
    "session_replication_role": ("audit_evasion",),
    "event_triggers": ("audit_evasion",),
    "local_preload_libraries": ("extension_load",),
    "session_preload_libraries": ("extension_load",),
    "shared_preload_libraries": ("extension_load",),
    "dynamic_library_path": ("extension_load",),
    "jit_provider": ("extension_load",),
    "extension_control_path": ("extension_load",),
    "archive_library": ("extension_load",),
    "archive_command": ("program_exec",),
    "restore_command": ("program_exec",),
    "archive_cleanup_command": ("program_exec",),
    "recovery_end_command": ("program_exec",),
    "ssl_passphrase_command": ("program_exec",),
    "password_encryption": ("privilege_change",),
    "createrole_self_grant": ("privilege_change",),
    "allow_system_table_mods": ("server_config",),
    "ignore_system_indexes": ("server_config",),
    "zero_damaged_pages": ("server_config",),
    "synchronous_commit": (),
    "logging_collector": ("audit_evasion",),
    "application_name": (),
    "track_activities": ("audit_evasion",),
    "client_min_messages": (),
    "debug_print_parse": (),
}
_AUDIT_PREFIXES = ("log_", "pgaudit.", "auto_explain.", "pg_stat_statements.", "syslog_", "set_user.", "pgauditlogtofile.", "event_source",
                   "pg_stat_monitor.", "session_exec.", "supautils.", "anon.", "credcheck.")  # fmt: skip

_CODE_PREFIXES = (
    "plperl.on_",
    "plperl.plperl_on",
    "pltcl.start_proc",
    "pltclu.start_proc",
    "plv8.start_proc",
    "plpython.",
)
"""Settings whose value is code that a language runs when it starts."""


def find_setting_flags(name: str) -> frozenset[str]:
    """name: as written; settings' names are compared without regard to case."""
    name = name.lower()
    flags = set(_EXACT.get(name, ()))
    if name in _MEANING or name in ("role", "session_authorization", "schema"):
        flags.add("session_semantics_change")
    if name.startswith(_CODE_PREFIXES):
        flags.add("dynamic_sql")
    if name.startswith(_AUDIT_PREFIXES):
        flags.add("audit_evasion")
    if name in ("role", "session_authorization"):
        flags.discard("session_semantics_change")
    return frozenset(flags)


UNKNOWN_SETTING_FLAGS = frozenset(
    ["session_semantics_change", "search_path_change", "identity_change", "audit_evasion", "row_security_change"]
)
"""Where the name of the setting cannot be read: any of these."""


def is_neutral_setting(name: str) -> bool:
    """True if changing it cannot alter search_path or how later texts are read. Roles bring their own search_path ("$user")."""
    name = name.lower()
    return name not in _MEANING and name not in ("role", "session_authorization", "schema")
