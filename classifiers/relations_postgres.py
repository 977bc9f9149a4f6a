"""PostgreSQL relations that mean more than a table does: passwords, data samples and the catalog itself."""

from __future__ import annotations

from classifiers.builtins_postgres import CATALOG_RELATIONS
from classifiers.effects import Kind

_SECRET = frozenset(
    ["pg_shadow", "pg_authid", "pg_user_mapping", "pg_user_mappings", "user_mapping_options", "_pg_user_mappings", "pg_subscription",
     "pg_foreign_server", "foreign_server_options", "_pg_foreign_servers", "pg_stat_wal_receiver", "pg_hba_file_rules"]
)  # fmt: skip
_SAMPLES = frozenset(
    ["pg_stats", "pg_statistic", "pg_stats_ext", "pg_stats_ext_exprs", "pg_statistic_ext_data", "pg_stat_activity", "pg_stat_statements",
     "pg_stat_monitor", "pg_show_plans", "pg_stat_replication", "pg_store_plans", "pg_qualstats"]
)  # fmt: skip
_LARGE_OBJECTS = frozenset(["pg_largeobject", "pg_largeobject_metadata"])
_FILES = frozenset(["pg_hba_file_rules", "pg_ident_file_mappings", "pg_file_settings"])
_GRANTS = frozenset(["pg_authid", "pg_auth_members", "pg_default_acl", "pg_db_role_setting", "pg_init_privs", "pg_parameter_acl",
                     "pg_shadow", "pg_policy", "pg_roles", "pg_user", "pg_group"])  # fmt: skip
_CATALOG_SCHEMAS = ("pg_catalog", "information_schema")


def find_read_flags(name: tuple[str, ...]) -> frozenset[str]:
    """Flags for reading a relation. name: folded parts; an unqualified name counts, one in another schema does not,
    except for what extensions put into any schema.
    """
    last = name[-1]
    is_catalog = len(name) == 1 or name[-2] in _CATALOG_SCHEMAS
    flags = set()
    if last in _SECRET and is_catalog:
        flags.add("catalog_secret")
    if last in _SAMPLES and (is_catalog or not last.startswith(("pg_stats", "pg_statistic", "pg_stat_activity"))):
        flags.add("sample_leak")
    if last in _LARGE_OBJECTS and is_catalog:
        flags.add("large_object")
    if last in _FILES and is_catalog:
        flags.add("server_file_read")
    return frozenset(flags)


def find_write_acts(name: tuple[str, ...]) -> tuple[tuple[Kind, tuple[str, ...]], ...]:
    """Further kinds, with flags, of writing a relation directly."""
    last = name[-1]
    if not (len(name) == 1 or name[-2] == "pg_catalog") or last not in CATALOG_RELATIONS:
        return ()
    if last == "pg_settings":
        return (
            (
                Kind.SESSION,
                (
                    "session_semantics_change",
                    "search_path_change",
                    "identity_change",
                    "audit_evasion",
                    "row_security_change",
                ),
            ),
        )
    if last in _LARGE_OBJECTS:
        return ((Kind.ADMIN, ("large_object",)),)
    acts: list[tuple[Kind, tuple[str, ...]]] = [(Kind.DDL, ()), (Kind.DCL, ("privilege_change",))]
    if last in ("pg_policy", "pg_class", "pg_authid"):
        acts.append((Kind.DCL, ("row_security_change",)))
    if last not in _GRANTS:
        acts.append((Kind.ADMIN, ("server_config",)))
    return tuple(acts)
