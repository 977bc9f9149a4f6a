"""The questions that a PostgreSQL server is asked about one of its databases. All names are qualified; nothing of a user's is run.

Counterpart: postgres.py, which puts the answers together. Tried on PostgreSQL 14 to 18.
"""

from __future__ import annotations

SETTINGS = (
    "SET search_path = pg_catalog",
    "SET default_transaction_read_only = on",
    "SET lock_timeout = 5000",
    "SET row_security = off",
)
"""Said before anything is asked."""

RELATIONS = """
SELECT c.oid::int8, n.nspname::text, c.relname::text, c.relkind::text, c.relhasrules, c.relhastriggers, c.relrowsecurity,
       c.relpersistence::text
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace
WHERE c.relkind OPERATOR(pg_catalog.=) ANY ('{r,v,m,p,f,S}'::"char"[]) AND n.nspname OPERATOR(pg_catalog.<>) 'pg_toast'
ORDER BY c.oid
"""

COLUMNS = """
SELECT a.attrelid::int8, a.attnum::int4, a.attname::text
FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_class c ON c.oid OPERATOR(pg_catalog.=) a.attrelid
WHERE a.attnum OPERATOR(pg_catalog.>) 0 AND NOT a.attisdropped AND c.oid OPERATOR(pg_catalog.>=) 16384::oid
  AND c.relkind OPERATOR(pg_catalog.=) ANY ('{r,v,m,p,f}'::"char"[])
ORDER BY a.attrelid, a.attnum
"""

INHERITANCE = (
    "SELECT inhrelid::int8, inhparent::int8 FROM pg_catalog.pg_inherits ORDER BY inhparent, inhseqno, inhrelid"
)

DEPENDENCIES = """
SELECT d.classid::int8, d.objid::int8, d.refclassid::int8, d.refobjid::int8, d.refobjsubid::int4
FROM pg_catalog.pg_depend d
WHERE d.classid OPERATOR(pg_catalog.=) ANY (ARRAY['pg_catalog.pg_rewrite', 'pg_catalog.pg_policy', 'pg_catalog.pg_attrdef',
        'pg_catalog.pg_constraint', 'pg_catalog.pg_proc', 'pg_catalog.pg_trigger', 'pg_catalog.pg_class', 'pg_catalog.pg_operator',
        'pg_catalog.pg_type', 'pg_catalog.pg_cast']::regclass[]::oid[])
  AND d.refclassid OPERATOR(pg_catalog.=) ANY (ARRAY['pg_catalog.pg_class', 'pg_catalog.pg_proc', 'pg_catalog.pg_operator',
        'pg_catalog.pg_type', 'pg_catalog.pg_extension']::regclass[]::oid[])
ORDER BY d.classid, d.objid, d.refclassid, d.refobjid, d.refobjsubid
"""

CLASSES = """
SELECT name, name::regclass::oid::int8 FROM pg_catalog.unnest(ARRAY['pg_catalog.pg_rewrite', 'pg_catalog.pg_policy', 'pg_catalog.pg_attrdef',
  'pg_catalog.pg_constraint', 'pg_catalog.pg_proc', 'pg_catalog.pg_trigger', 'pg_catalog.pg_class', 'pg_catalog.pg_operator',
  'pg_catalog.pg_type', 'pg_catalog.pg_cast', 'pg_catalog.pg_extension']) AS name
"""

# What belongs to the server is in no dependency: the stored tree has it.
RULES = """
SELECT r.oid::int8, r.ev_class::int8, r.ev_type::text, r.rulename::text,
       pg_catalog.strpos(r.ev_action::text, ':varattno 0 ') OPERATOR(pg_catalog.>) 0,
       ARRAY(SELECT DISTINCT m[1]::int8 FROM pg_catalog.regexp_matches(r.ev_action::text, ':relid ([0-9]+)', 'g') m
             WHERE m[1]::int8 OPERATOR(pg_catalog.<) 16384::int8),
       ARRAY(SELECT DISTINCT p.proname::text FROM pg_catalog.regexp_matches(r.ev_action::text, ':funcid ([0-9]+)', 'g') m
             JOIN pg_catalog.pg_proc p ON p.oid OPERATOR(pg_catalog.=) m[1]::oid WHERE p.oid OPERATOR(pg_catalog.<) 16384::oid)
FROM pg_catalog.pg_rewrite r WHERE r.oid OPERATOR(pg_catalog.>=) 16384::oid AND r.ev_enabled OPERATOR(pg_catalog.<>) 'D'
ORDER BY r.oid
"""

TRIGGERS = """
SELECT t.oid::int8, t.tgrelid::int8, t.tgname::text, t.tgtype::int4, t.tgfoid::int8
FROM pg_catalog.pg_trigger t
WHERE t.tgfoid OPERATOR(pg_catalog.>=) 16384::oid AND t.tgenabled OPERATOR(pg_catalog.<>) 'D'
ORDER BY t.oid
"""

CONSTRAINTS = """
SELECT k.oid::int8, k.contype::text, k.conname::text, k.conrelid::int8, k.confrelid::int8, k.contypid::int8, k.confupdtype::text,
       k.confdeltype::text
FROM pg_catalog.pg_constraint k WHERE k.contype OPERATOR(pg_catalog.=) ANY ('{c,f,x}'::"char"[]) ORDER BY k.oid
"""

POLICIES = "SELECT oid::int8, polrelid::int8, polname::text FROM pg_catalog.pg_policy ORDER BY oid"
DEFAULTS = """
SELECT d.oid::int8, d.adrelid::int8, a.attgenerated::text
FROM pg_catalog.pg_attrdef d JOIN pg_catalog.pg_attribute a
  ON a.attrelid OPERATOR(pg_catalog.=) d.adrelid AND a.attnum OPERATOR(pg_catalog.=) d.adnum
ORDER BY d.oid
"""
INDEXES = "SELECT indexrelid::int8, indrelid::int8 FROM pg_catalog.pg_index WHERE indexrelid OPERATOR(pg_catalog.>=) 16384::oid ORDER BY indexrelid"

FUNCTIONS = """
SELECT p.oid::int8, n.nspname::text, p.proname::text, l.lanname::text, p.provolatile::text, p.prosecdef, p.prokind::text,
       p.proconfig::text[], p.prosrc::text, pg_catalog.pg_get_function_sqlbody(p.oid)::text
FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) p.pronamespace
  JOIN pg_catalog.pg_language l ON l.oid OPERATOR(pg_catalog.=) p.prolang
WHERE p.oid OPERATOR(pg_catalog.>=) 16384::oid ORDER BY p.oid
"""

OPERATORS = """
SELECT n.nspname::text, o.oprname::text, o.oprcode::oid::int8, o.oid::int8
FROM pg_catalog.pg_operator o JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) o.oprnamespace
WHERE o.oid OPERATOR(pg_catalog.>=) 16384::oid ORDER BY o.oid
"""

TYPES = """
SELECT t.oid::int8, n.nspname::text, t.typname::text, t.typbasetype::int8
FROM pg_catalog.pg_type t JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) t.typnamespace
WHERE t.oid OPERATOR(pg_catalog.>=) 16384::oid AND t.typelem OPERATOR(pg_catalog.=) 0::oid ORDER BY t.oid
"""

CASTS = """
SELECT casttarget::int8, castfunc::int8 FROM pg_catalog.pg_cast WHERE castfunc OPERATOR(pg_catalog.>=) 16384::oid ORDER BY oid
"""

FOREIGN = """
SELECT f.ftrelid::int8, s.srvname::text, f.ftoptions::text[]
FROM pg_catalog.pg_foreign_table f JOIN pg_catalog.pg_foreign_server s ON s.oid OPERATOR(pg_catalog.=) f.ftserver ORDER BY f.ftrelid
"""
