"""What calling a MySQL or MariaDB function means: harmless, an effect with flags, or not known.

Built-in functions that only compute are harmless, unless qualified by a database, which makes them stored functions. What is not named
here is a stored function or a loaded one, whose effect cannot be seen.
Sources: MariaDB's information_schema.SQL_FUNCTIONS; MySQL 9 manual, "Built-In Function and Operator Reference".
"""

# Word lists are read as prose, so:
# ruff: noqa: SIM905, ISC004
from __future__ import annotations

from classifiers.draft import Draft
from classifiers.effects import Kind
from classifiers.tokens import join_name

HARMLESS = frozenset(
    """
    abs acos add_months adddate addtime aes_decrypt aes_encrypt any_value ascii asin atan atan2 avg bin bin_to_uuid binlog_gtid_pos bit_and
    bit_count bit_length bit_or bit_xor can_access_column can_access_database can_access_table cast ceil ceiling char char_length
    character_length charset chr coalesce coercibility collation column_add column_check column_create column_delete column_exists
    column_get column_json column_list compress concat concat_ws connection_id contains conv convert convert_tz cos cot count crc32 crc32c
    cume_dist curdate current_date current_role current_time current_timestamp current_user curtime database date date_add date_format
    date_sub datediff day dayname dayofmonth dayofweek dayofyear decode decode_histogram default degrees dense_rank des_decrypt des_encrypt
    div elt encode encrypt exists exp export_set extract extractvalue field find_in_set first_value floor format format_bytes
    format_pico_time found_rows from_base64 from_days from_unixtime from_vector geometrycollection get_format greatest group_concat
    grouping gtid_subset gtid_subtract hex hour icu_version if ifnull inet6_aton inet6_ntoa inet_aton inet_ntoa insert instr interval
    is_ipv4 is_ipv4_compat is_ipv4_mapped is_ipv6 is_uuid isnull json_array json_array_append json_array_insert json_array_intersect
    json_arrayagg json_compact json_contains json_contains_path json_depth json_detailed json_duality_object json_equals json_exists
    json_extract json_insert json_key_value json_keys json_length json_loose json_merge json_merge_patch json_merge_preserve
    json_normalize json_object json_object_filter_keys json_object_to_array json_objectagg json_overlaps json_pretty json_query json_quote
    json_remove json_replace json_schema_valid json_schema_validation_report json_search json_set json_storage_free json_storage_size
    json_table json_type json_unquote json_valid json_value lag last_day last_insert_id last_value lastval lcase lead least left length
    lengthb linestring ln localtime localtimestamp locate log log10 log2 lower lpad ltrim make_set makedate maketime match max mbrcontains
    mbrcoveredby mbrcovers mbrdisjoint mbrequal mbrequals mbrintersects mbroverlaps mbrtouches mbrwithin md5 median microsecond mid min
    minute mod month monthname multilinestring multipoint multipolygon name_const natural_sort_key now nth_value ntile nullif nvl nvl2 oct
    octet_length old_password ord overlay password percent_rank percentile_cont percentile_disc period_add period_diff pi point polygon
    position pow power ps_current_thread_id ps_thread_id quarter quote radians rand random_bytes rank regexp_instr regexp_like
    regexp_replace regexp_substr repeat replace reverse right roles_graphml round row row_count row_number rpad rtrim schema schemas
    sec_to_time second session_user sformat sha sha1 sha2 sign sin soundex space sqrt statement_digest statement_digest_text std stddev
    stddev_pop stddev_samp str_to_date strcmp string_to_vector subdate substr substring substring_index subtime sum sys_guid sysdate
    system_user tan time time_format time_to_sec timediff timestamp timestampadd timestampdiff to_base64 to_char to_date to_days to_number
    to_seconds to_vector trim trunc truncate ucase uncompress uncompressed_length unhex unix_timestamp updatexml upper user utc_date
    utc_time utc_timestamp uuid uuid_short uuid_to_bin uuid_v4 uuid_v7 validate_password_strength value values var_pop var_samp variance
    vec_distance vec_distance_cosine vec_distance_euclidean vec_fromtext vec_totext vector_dim vector_to_string version week weekday
    weekofyear weight_string wsrep_last_seen_gtid wsrep_last_written_gtid xmltype year yearweek
    """.split()
)
"""Functions that change nothing and show nothing but their arguments."""

_SLOW = "sleep benchmark master_pos_wait source_pos_wait master_gtid_wait wait_for_executed_gtid_set wait_until_sql_thread_after_gtids"
_ACTING: tuple[tuple[str, tuple[Kind, ...], tuple[str, ...]], ...] = (
    (_SLOW + " wsrep_sync_wait_upto_gtid", (), ("resource_abuse",)),
    ("get_lock release_lock release_all_locks is_free_lock is_used_lock service_get_read_locks service_get_write_locks"
     " service_release_locks", (), ("function_side_effect", "lock")),
    ("nextval setval", (), ("function_side_effect",)),
    ("load_file", (Kind.FILE_ACCESS,), ("server_file_read",)),
    ("sys_exec sys_eval sys_bineval do_system cmdshell shell exec", (Kind.DYNAMIC, Kind.FILE_ACCESS), ("program_exec", "unknown_function")),
    ("sys_get sys_set raptor_udf", (Kind.DYNAMIC,), ("unknown_function",)),
    ("http_get http_post http_put http_delete lib_mysqludf_http", (Kind.DYNAMIC,), ("remote_access", "unknown_function")),
    ("audit_log_filter_set_filter audit_log_filter_remove_filter audit_log_filter_set_user audit_log_filter_remove_user"
     " audit_log_filter_flush audit_log_rotate audit_log_encryption_password_set audit_api_message_emit_udf",
     (Kind.ADMIN,), ("audit_evasion", "function_side_effect")),
    ("audit_log_read audit_log_encryption_password_get audit_log_session_filter_switch", (Kind.ADMIN,), ("sample_leak",)),
    ("asynchronous_connection_failover_add_source asynchronous_connection_failover_delete_source"
     " asynchronous_connection_failover_add_managed asynchronous_connection_failover_delete_managed asynchronous_connection_failover_reset"
     " group_replication_set_as_primary group_replication_switch_to_multi_primary_mode group_replication_switch_to_single_primary_mode"
     " group_replication_get_write_concurrency group_replication_set_write_concurrency group_replication_get_communication_protocol"
     " group_replication_set_communication_protocol group_replication_enable_member_action group_replication_disable_member_action"
     " group_replication_reset_member_actions mysqlx_error", (Kind.ADMIN,), ("replication", "function_side_effect")),
    ("keyring_key_store keyring_key_fetch keyring_key_remove keyring_key_generate keyring_key_type_fetch keyring_key_length_fetch"
     " mysql_firewall_flush_status set_firewall_mode normalize_statement read_firewall_whitelist version_tokens_set version_tokens_edit"
     " version_tokens_delete flush_rewrite_rules load_rewrite_rules",
     (Kind.ADMIN,), ("server_config", "function_side_effect")),
)  # fmt: skip


def _build() -> dict[str, tuple[tuple[Kind, ...], tuple[str, ...]]]:
    return {name: (kinds, flags) for names, kinds, flags in _ACTING for name in names.split()}


ACTING = _build()
"""Functions that act, by their last name part, in whatever database."""


def note_function(draft: Draft, parts: tuple[str, ...], kind: Kind = Kind.DML_READ) -> None:
    """Put a call into the draft. kind: of the statement that calls; flags of a harmless-looking call are attached to that."""
    name = parts[-1].lower()
    draft.functions[join_name((*parts[:-1], name))] = None
    acting = ACTING.get(name)
    if acting is not None:
        kinds, flags = acting
        for each in kinds or (kind,):
            draft.act(each, "", "", *flags)
        if Kind.DYNAMIC in kinds:
            _doubt(draft)
        return
    if len(parts) == 1 and (name in HARMLESS or name.startswith("st_")):
        return
    draft.act(Kind.DYNAMIC, "", "", "unknown_function")
    _doubt(draft)


def _doubt(draft: Draft) -> None:
    draft.is_neutral = False
    draft.reason = draft.reason or "a function runs whose effect cannot be seen"
