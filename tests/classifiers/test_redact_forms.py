"""SECURITY_BAR N1 and N2 at the token level: the canary is in no redacted text, whatever the form, the quotes, the comments and the case."""

import pytest

from classifiers.effects import LexingState
from classifiers.redact import find_secret_spans, redact

CANARY = "Zq7Canary"
# {} is the literal with its quotes; {in} the bare canary inside another literal.
POSTGRES = """
CREATE ROLE bob PASSWORD {}
CREATE ROLE bob WITH LOGIN ENCRYPTED PASSWORD {} VALID UNTIL 'infinity'
CREATE USER bob UNENCRYPTED PASSWORD {}
CREATE GROUP bob PASSWORD {}
ALTER ROLE bob PASSWORD {}
ALTER ROLE bob WITH SUPERUSER PASSWORD {} CONNECTION LIMIT 3
ALTER USER bob WITH PASSWORD {}
ALTER GROUP bob PASSWORD {}
ALTER ROLE bob SET app.api_key = {}
ALTER ROLE bob PASWORD {}
CREATE USER bob {}
CREATE USER bob IDENTIFIED BY {}
GRANT a TO b IDENTIFIED BY {}
CREATE USER MAPPING FOR bob SERVER s OPTIONS (user 'x', password {})
CREATE USER MAPPING IF NOT EXISTS FOR bob SERVER s OPTIONS (user 'x', passcode {})
CREATE USER MAPPING FOR bob SERVER s OPTIONS (user 'x', "pin" {})
ALTER USER MAPPING FOR bob SERVER s OPTIONS (SET password {})
ALTER USER MAPPING FOR bob SERVER s OPTIONS (ADD sslpassword {})
CREATE SERVER s FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host 'h', password {})
ALTER SERVER s OPTIONS (SET password {})
CREATE FOREIGN TABLE t (a int) SERVER s OPTIONS (password {})
CREATE FOREIGN DATA WRAPPER w OPTIONS (secret {})
CREATE SUBSCRIPTION s CONNECTION {} PUBLICATION p
ALTER SUBSCRIPTION s CONNECTION {}
CREATE SUBSCRIPTION s CONNECTION 'host=h password={in}' PUBLICATION p
ALTER SUBSCRIPTION s CONNECTION 'postgresql://u:{in}@h/d'
SELECT dblink_connect('host=h user=u password={in}')
SELECT dblink_connect('c', 'postgresql://u:{in}@h/d')
SELECT dblink_connect('c', 'postgresql://u:{in}/x@h/d')
SELECT * FROM dblink('password={in} host=h', 'select 1') AS t(a int)
SELECT dblink('host=h password = {in}', 'select 1')
SELECT dblink_exec('c', 'ALTER USER x PASSWORD ''{in}''')
SELECT dblink('host=h password=' || {}, 'select 1')
SELECT set_config('app.secret', {}, false)
SET app.password = {}
SET SESSION app.jwt_secret TO {}
SET LOCAL app.token = {}
ALTER SYSTEM SET primary_conninfo = 'host=x password={in}'
ALTER DATABASE d SET app.access_key = {}
SELECT {} AS password
SELECT 1, {} passwd FROM t
SELECT {}::text AS password
SELECT {} AS "userPassword"
INSERT INTO users VALUES (1, 'bob', {})
INSERT INTO public.credentials VALUES ({})
INSERT INTO app_users SELECT 1, {}
INSERT INTO accounts VALUES (1, 'a'), (2, {})
INSERT INTO t (name, password) VALUES ('a', {})
INSERT INTO t (password) SELECT {}
UPDATE t SET password = {}
UPDATE t SET (a, passwd) = (1, {})
UPDATE users SET password = md5({}) WHERE id = 1
UPDATE pg_authid SET rolpassword = {}
DELETE FROM t WHERE password = {}
SELECT * FROM t WHERE password = {}
SELECT * FROM t WHERE password IN ({})
SELECT * FROM t WHERE password IN ('x', {})
SELECT * FROM t WHERE password NOT IN ('x', {})
SELECT * FROM t WHERE password LIKE {}
SELECT * FROM t WHERE password = ANY (ARRAY['x', {}])
SELECT * FROM t WHERE t.password <> {}
SELECT * FROM t WHERE lower(password) = {}
SELECT * FROM t WHERE password::text = {}
SELECT * FROM t WHERE {} = password
SELECT * FROM t WHERE {} = t.password
SELECT * FROM t WHERE (name, password) = ('bob', {})
SELECT * FROM t WHERE password BETWEEN 'a' AND 'b' OR password = {}
SELECT crypt({}, gen_salt('bf'))
SELECT crypt(x, {}) FROM t
SELECT digest({}, 'sha256')
SELECT pgp_sym_encrypt(x, {}) FROM t
SELECT set_password('a', {})
COPY t FROM PROGRAM 'curl -u bob:{in} http://h/x'
COPY t FROM PROGRAM 'curl -s -u {in} http://h/x'
COPY t TO PROGRAM 'PGPASSWORD={in} psql -h h'
COPY t TO PROGRAM 'mysql -p{in} -h h'
COPY t TO PROGRAM 'sshpass -p {in} ssh h'
COPY t TO PROGRAM 'curl -H "Authorization: Bearer {in}" h'
COPY (SELECT 1) TO PROGRAM 'psql postgresql://u:{in}@h/d'
DO $$ BEGIN EXECUTE 'ALTER USER x PASSWORD ''{in}'''; END $$
DO $a$ BEGIN EXECUTE 'ALTER USER x PASSWORD ' || quote_literal({}); END $a$
DO $a$ BEGIN EXECUTE format('ALTER USER %I PASSWORD %L', 'bob', {}); END $a$
CREATE FUNCTION f() RETURNS void LANGUAGE sql AS $a$ ALTER USER x PASSWORD {} $a$
CREATE FUNCTION f() RETURNS text LANGUAGE sql AS 'SELECT ''{in}'' AS password'
PREPARE p AS UPDATE t SET password = {}
EXPLAIN ANALYZE UPDATE t SET password = {}
SELECT '{{"user": "bob", "password": "{in}"}}'::jsonb
SELECT 'md5' AS kind, 'password={in}'
BEGIN; ALTER USER bob PASSWORD {}; COMMIT
ALTER USER bob PASSWORD {} no such clause ((
""".strip().splitlines()
QUOTES = {
    "plain": "'{}'", "dollar": "$${}$$", "tagged": "$q${}$q$", "escape": "E'{}'", "unicode": "U&'{}'", "continued": "'x'\n'{}'",
}  # fmt: skip


def rewritten(form, style):
    if style == "upper":
        head, quote, tail = form.partition("'")
        return head.upper() + quote + tail
    if style == "comments":
        head, quote, tail = form.partition("'")
        return head.replace(" ", " /* x */ ") + quote + tail
    if style == "lines":
        head, quote, tail = form.partition("'")
        return head.replace(" ", "\n\t-- y\n") + quote + tail
    return form


def texts():
    for form in POSTGRES:
        for name, quotes in QUOTES.items() if "{}" in form else [("inside", "'{}'")]:
            if name == "dollar" and ("$$" in form or "'''" in form):
                continue
            for style in ("as is", "upper", "comments", "lines"):
                shape = rewritten(
                    form.replace("{}", "\0").replace("{in}", "\1").replace("{{", "{").replace("}}", "}"), style
                )
                yield form, name, style, shape.replace("\0", quotes.format(CANARY)).replace("\1", CANARY)


def test_no_canary_is_left_in_any_form():
    tried, left = 0, []
    for form, quotes, style, text in texts():
        tried += 1
        data = text.encode()
        for state in (LexingState(), LexingState(None)):
            if CANARY.encode() in redact(data, find_secret_spans("postgres", data, state)):
                left.append((form, quotes, style))
    assert tried > 1000
    assert left == []


def test_the_shape_of_the_statement_stays():
    for text, kept in [
        (
            "ALTER ROLE bob WITH PASSWORD 'x' VALID UNTIL '2030-01-01'",
            "ALTER ROLE bob WITH PASSWORD '***' VALID UNTIL '2030-01-01'",
        ),
        (
            "DO $$ BEGIN PERFORM f('a'); ALTER USER x PASSWORD 'h'; END $$",
            "DO $$ BEGIN PERFORM f('a'); ALTER USER x PASSWORD '***'; END $$",
        ),
        (
            "SELECT 'a' FROM users WHERE password = 'h' AND name = 'bob'",
            "SELECT 'a' FROM users WHERE password = '***' AND name = 'bob'",
        ),
    ]:
        assert redact(text.encode(), find_secret_spans("postgres", text.encode(), LexingState())).decode() == kept


@pytest.mark.parametrize(
    "text",
    [
        "SELECT pg_read_file('/etc/passwd')",
        "COPY t FROM '/etc/passwd' WITH (DELIMITER ':')",
        "COPY t FROM PROGRAM 'cat /etc/passwd'",
        "COPY t TO PROGRAM 'gzip > /backup/users.gz'",
        "SELECT lo_import('/home/bob/.pgpass')",
        "SELECT name, password, to_char(d, 'YYYY') FROM users WHERE id = 'x'",
        "SELECT 'reset your password today'",
        "SELECT * FROM users WHERE mail LIKE '%passwords%'",
        "SELECT rolname FROM pg_authid WHERE rolname = 'bob'",
        "INSERT INTO users (id, name) VALUES (1, 'bob')",
        "DO $$ BEGIN PERFORM f('user'); END $$",
        "CREATE FUNCTION f() RETURNS text LANGUAGE sql AS $a$ SELECT name FROM users WHERE role = 'admin' $a$",
        "SELECT dblink('c', 'select * from users')",
    ],
)
def test_evidence_stays(text):
    assert find_secret_spans("postgres", text.encode(), LexingState()) == ()


def test_the_members_of_a_long_list_go_with_its_first():
    rows = ",".join(f"({i}, '{CANARY}{i}')" for i in range(5000))
    text = f"INSERT INTO t (id, password) VALUES {rows}".encode()
    assert CANARY.encode() not in redact(text, find_secret_spans("postgres", text, LexingState()))
    text = f"SELECT * FROM t WHERE password IN ({','.join([repr(CANARY)] * 5000)})".encode()
    assert CANARY.encode() not in redact(text, find_secret_spans("postgres", text, LexingState()))


def test_literals_in_literals_end():
    text = (
        b"DO "
        + b"".join(b"$a%d$ password " % i for i in range(3000))
        + b"".join(b" $a%d$" % i for i in reversed(range(3000)))
    )
    assert find_secret_spans("postgres", text, LexingState())
