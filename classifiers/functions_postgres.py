"""What calling a PostgreSQL function means: harmless, an effect with flags, or not known.

Functions of pg_catalog that are immutable or stable are harmless unless named here; everything else is not known, which
makes the statement `dynamic`. Names that act are matched by their last part in whatever schema, so that a copy of an
extension in another schema is found; names that are harmless only unqualified or as pg_catalog.x.

Decided: an unqualified name of a built-in function counts as the built-in one, although a user's function of that name can win by
its argument types or a search_path that puts pg_catalog last. The first needs a CREATE FUNCTION, the second a SET that
carries search_path_change; both are seen. A catalogue will close this.
"""

# Names of one meaning run over several lines, so:
# ruff: noqa: ISC004
from __future__ import annotations

from dataclasses import dataclass

from classifiers.builtins_postgres import STABLE_FUNCTIONS
from classifiers.effects import Kind


@dataclass(frozen=True, slots=True)
class FunctionMeaning:
    """kinds and flags that a call adds; is_known False means that code runs whose effect cannot be seen."""

    kinds: frozenset[Kind] = frozenset()
    flags: frozenset[str] = frozenset()
    is_known: bool = True


HARMLESS = FunctionMeaning()
UNKNOWN = FunctionMeaning(frozenset([Kind.DYNAMIC]), frozenset(["unknown_function"]), is_known=False)

_GRAMMAR_FUNCTIONS = frozenset(
    ["array", "row", "coalesce", "nullif", "greatest", "least", "grouping", "extract", "overlay", "position", "substring", "trim",
     "normalize", "any", "xmlconcat", "json_array", "json_object", "json_scalar", "json_serialize", "json_arrayagg", "json_objectagg",
     "merge_action", "values", "exists"]
)  # fmt: skip
"""Forms of the grammar that look like calls. Source: gram.y, func_expr_common_subexpr."""

_HARMLESS_VOLATILE = frozenset(
    ["random", "random_normal", "setseed", "clock_timestamp", "timeofday", "gen_random_uuid", "uuidv4", "uuidv7", "currval", "lastval",
     "current_query", "pg_backend_pid", "pg_is_in_recovery", "pg_database_size", "pg_table_size", "pg_indexes_size", "pg_relation_size",
     "pg_total_relation_size", "pg_tablespace_size", "pg_current_wal_lsn", "pg_current_wal_insert_lsn", "pg_current_wal_flush_lsn",
     "pg_last_wal_receive_lsn", "pg_last_wal_replay_lsn", "pg_last_xact_replay_timestamp", "pg_is_wal_replay_paused",
     "pg_get_wal_replay_pause_state", "pg_xact_status", "txid_status", "pg_partition_tree", "pg_partition_ancestors",
     "pg_sequence_last_value", "pg_blocking_pids", "pg_safe_snapshot_blocking_pids", "pg_lock_status", "pg_jit_available",
     "pg_collation_actual_version", "pg_database_collation_actual_version", "pg_get_multixact_members", "pg_xact_commit_timestamp",
     "pg_xact_commit_timestamp_origin", "pg_last_committed_xact", "pg_notification_queue_usage", "pg_get_sequence_data",
     "pg_prepared_xact", "pg_isolation_test_session_is_blocked", "pg_get_wait_events", "pg_stat_get_xact_numscans",
     "pg_stat_get_xact_tuples_returned", "pg_stat_get_xact_tuples_fetched", "pg_stat_get_xact_tuples_inserted",
     "pg_stat_get_xact_tuples_updated", "pg_stat_get_xact_tuples_deleted", "pg_stat_get_xact_blocks_fetched",
     "pg_stat_get_xact_blocks_hit", "pg_stat_clear_snapshot", "pg_stat_force_next_flush", "array_sample", "array_shuffle",
     "ts_debug", "pg_control_checkpoint", "pg_control_system", "pg_control_init", "pg_control_recovery",
     "pg_replication_origin_session_is_setup", "pg_replication_origin_progress"]
)  # fmt: skip
"""Volatile, but they neither change anything nor show data of others."""

_A, _D, _F = Kind.ADMIN, Kind.DYNAMIC, Kind.FILE_ACCESS
_ACTING: tuple[tuple[str, tuple[Kind, ...], tuple[str, ...]], ...] = (
    ("pg_sleep pg_sleep_for pg_sleep_until", (), ("resource_abuse",)),
    ("pg_advisory_lock pg_advisory_lock_shared pg_advisory_xact_lock pg_advisory_xact_lock_shared pg_try_advisory_lock"
     " pg_try_advisory_lock_shared pg_try_advisory_xact_lock pg_try_advisory_xact_lock_shared pg_advisory_unlock"
     " pg_advisory_unlock_shared pg_advisory_unlock_all", (), ("function_side_effect", "lock")),
    ("setval nextval pg_notify pg_nextoid txid_current pg_current_xact_id pg_export_snapshot pg_logical_emit_message"
     " pg_extension_config_dump currtid2", (), ("function_side_effect",)),
    ("set_config", (Kind.SESSION,), ("function_side_effect",)),
    # the server's files
    ("pg_read_file pg_read_binary_file pg_read_file_old pg_stat_file pg_ls_dir pg_ls_logdir pg_ls_waldir pg_ls_tmpdir pg_ls_archive_statusdir"
     " pg_ls_logicalmapdir pg_ls_logicalsnapdir pg_ls_replslotdir pg_ls_summariesdir pg_hba_file_rules pg_ident_file_mappings"
     " pg_show_all_file_settings pg_current_logfile pg_logdir_ls pg_file_read pg_file_length pg_wal_summary_contents"
     " pg_available_wal_summaries pg_get_wal_records_info pg_get_wal_record_info pg_get_wal_block_info pg_read_server_files",
     (_F,), ("server_file_read",)),
    ("pg_file_write pg_file_sync pg_file_rename pg_file_unlink", (_F, _A), ("server_file_write",)),
    # large objects
    ("lo_import", (_F, Kind.DML_WRITE), ("server_file_read", "large_object", "function_side_effect")),
    ("lo_export", (_F,), ("server_file_write", "large_object", "function_side_effect")),
    ("lo_open loread lo_get lo_lseek lo_lseek64 lo_tell lo_tell64 lo_close", (), ("large_object",)),
    ("lo_creat lo_create lo_from_bytea lo_put lowrite lo_truncate lo_truncate64 lo_unlink lo_oid lo_manage",
     (Kind.DML_WRITE,), ("large_object", "function_side_effect")),
    # other sessions and the whole server
    ("pg_terminate_backend pg_cancel_backend", (_A,), ("session_kill", "function_side_effect")),
    ("pg_reload_conf", (_A,), ("server_config", "function_side_effect")),
    ("pg_rotate_logfile pg_rotate_logfile_old", (_A,), ("audit_evasion", "server_config", "function_side_effect")),
    ("pg_stat_reset pg_stat_reset_shared pg_stat_reset_single_table_counters pg_stat_reset_single_function_counters pg_stat_reset_slru"
     " pg_stat_reset_replication_slot pg_stat_reset_subscription_stats pg_stat_reset_backend_stats pg_stat_statements_reset"
     " pg_stat_kcache_reset pg_stat_monitor_reset pg_qualstats_reset", (_A,), ("audit_evasion", "function_side_effect")),
    ("pg_log_backend_memory_contexts pg_log_standby_snapshot pg_import_system_collations brin_summarize_new_values"
     " brin_summarize_range brin_desummarize_range gin_clean_pending_list pg_clear_attribute_stats pg_clear_relation_stats"
     " pg_restore_attribute_stats pg_restore_relation_stats pg_prewarm pg_truncate_visibility_map heap_force_kill heap_force_freeze",
     (_A,), ("function_side_effect",)),
    ("pg_switch_wal pg_switch_xlog pg_create_restore_point pg_backup_start pg_backup_stop pg_start_backup pg_stop_backup pg_promote"
     " pg_wal_replay_pause pg_wal_replay_resume pg_create_physical_replication_slot pg_create_logical_replication_slot"
     " pg_drop_replication_slot pg_copy_physical_replication_slot pg_copy_logical_replication_slot pg_replication_slot_advance"
     " pg_replication_origin_create pg_replication_origin_drop pg_replication_origin_advance pg_replication_origin_session_setup"
     " pg_replication_origin_session_reset pg_replication_origin_session_progress pg_replication_origin_xact_setup"
     " pg_replication_origin_xact_reset pg_sync_replication_slots pg_show_replication_origin_status",
     (_A,), ("replication", "function_side_effect")),
    ("pg_logical_slot_get_changes pg_logical_slot_get_binary_changes pg_logical_slot_peek_changes pg_logical_slot_peek_binary_changes",
     (_A,), ("replication", "sample_leak", "function_side_effect")),
    # statements and rows of others
    ("pg_stat_get_activity pg_stat_get_backend_activity pg_stat_statements pg_mcv_list_items get_raw_page heap_page_items"
     " heap_page_item_attrs tuple_data_split bt_page_items pg_stat_monitor pg_show_plans pg_stat_get_wal_receiver"
     " pg_stat_get_subscription brin_page_items gist_page_items gin_leafpage_items hash_page_items pgrowlocks",
     (), ("sample_leak",)),
    ("pg_options_to_table", (), ("catalog_secret",)),
    # texts that are run
    ("query_to_xml query_to_xmlschema query_to_xml_and_xmlschema table_to_xml table_to_xmlschema table_to_xml_and_xmlschema schema_to_xml"
     " schema_to_xmlschema schema_to_xml_and_xmlschema database_to_xml database_to_xmlschema database_to_xml_and_xmlschema"
     " cursor_to_xml cursor_to_xmlschema ts_stat ts_rewrite crosstab crosstab2 crosstab3 crosstab4 crosstabn connectby"
     " xpath_table cursor_to_xmlschema pg_get_tabledef exec execute", (_D,), ("dynamic_sql",)),
    ("dblink dblink_exec dblink_open dblink_fetch dblink_close dblink_send_query dblink_get_result dblink_connect dblink_connect_u"
     " dblink_disconnect dblink_cancel_query dblink_build_sql_insert dblink_build_sql_update dblink_build_sql_delete"
     " dblink_get_connections dblink_is_busy dblink_error_message dblink_get_notify dblink_get_pkey dblink_current_query dblink_fdw_validator"
     " postgres_fdw_get_connections postgres_fdw_disconnect postgres_fdw_disconnect_all",
     (_D,), ("dynamic_sql", "remote_access")),
    ("http http_get http_post http_put http_patch http_delete http_head", (_D,), ("remote_access", "unknown_function")),
)  # fmt: skip

_DENIED_STABLE = frozenset(
    ["domain_in", "array_in", "record_in", "range_in", "multirange_in", "enum_in", "pg_input_is_valid", "pg_input_error_info",
     "json_populate_record", "jsonb_populate_record", "json_populate_recordset", "jsonb_populate_recordset", "jsonb_populate_record_valid",
     "json_to_record", "jsonb_to_record", "json_to_recordset", "jsonb_to_recordset"]
)  # fmt: skip
"""Stable by name, but they run the input code of a type named by an argument; the json ones only where a type is named in the call."""
_JSON_RECORD = frozenset(name for name in _DENIED_STABLE if name.startswith("json"))


def _build() -> dict[str, FunctionMeaning]:
    table: dict[str, FunctionMeaning] = {}
    for names, kinds, flags in _ACTING:
        for name in names.split():
            table[name] = FunctionMeaning(frozenset(kinds), frozenset(flags))
    return table


ACTING = _build()
"""Functions that act, by their last name part."""
HARMLESS_NAMES = (
    (STABLE_FUNCTIONS | _HARMLESS_VOLATILE | _GRAMMAR_FUNCTIONS | _JSON_RECORD)
    - (_DENIED_STABLE - _JSON_RECORD)
    - ACTING.keys()
)


def find_meaning(parts: tuple[str, ...]) -> FunctionMeaning:
    """parts: the folded name, schema first if there is one."""
    name = parts[-1]
    acting = ACTING.get(name)
    if acting is not None:
        return acting
    if name in HARMLESS_NAMES and (len(parts) == 1 or parts[:-1] == ("pg_catalog",)):
        return HARMLESS
    if len(parts) == 2 and parts in _INFORMATION_SCHEMA:
        return HARMLESS
    if name.startswith("dblink"):
        return FunctionMeaning(
            frozenset([Kind.DYNAMIC]), frozenset(["dynamic_sql", "remote_access", "unknown_function"]), is_known=False
        )
    return UNKNOWN


_INFORMATION_SCHEMA = frozenset(
    ("information_schema", name)
    for name in ("_pg_expandarray", "_pg_index_position", "_pg_truetypid", "_pg_truetypmod", "_pg_char_max_length",
                 "_pg_char_octet_length", "_pg_numeric_precision", "_pg_numeric_precision_radix", "_pg_numeric_scale",
                 "_pg_datetime_precision", "_pg_interval_type")
)  # fmt: skip
