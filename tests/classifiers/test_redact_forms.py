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
MYSQL = r"""
CREATE USER 'bob'@'%' IDENTIFIED BY {}
CREATE USER bob@localhost IDENTIFIED WITH mysql_native_password BY {}
CREATE USER bob IDENTIFIED WITH caching_sha2_password AS {}
CREATE USER bob IDENTIFIED BY PASSWORD {}
CREATE USER bob IDENTIFIED VIA ed25519 USING PASSWORD({})
CREATE USER bob IDENTIFIED VIA mysql_native_password USING {} OR unix_socket
CREATE USER IF NOT EXISTS 'a'@'h' IDENTIFIED BY {}, 'b'@'h' IDENTIFIED BY {}
CREATE USER bob IDENTIFIED BY {} PASSWORD EXPIRE NEVER ACCOUNT LOCK COMMENT 'x'
ALTER USER bob IDENTIFIED BY {} REPLACE {}
ALTER USER USER() IDENTIFIED BY {}
ALTER USER bob IDENTIFIED BY 'x' RETAIN CURRENT PASSWORD, carl IDENTIFIED BY {}
SET PASSWORD = {}
SET PASSWORD = PASSWORD({})
SET PASSWORD FOR 'bob'@'%' = {}
SET PASSWORD FOR bob = {} REPLACE {}
SET PASSWORD TO {}
GRANT ALL ON *.* TO 'x'@'%' IDENTIFIED BY {}
GRANT USAGE ON *.* TO x IDENTIFIED BY PASSWORD {} WITH GRANT OPTION
CHANGE MASTER TO MASTER_HOST='h', MASTER_USER='u', MASTER_PASSWORD={}
CHANGE MASTER 'c' TO MASTER_PASSWORD = {}
CHANGE REPLICATION SOURCE TO SOURCE_PASSWORD={}, SOURCE_HOST='h' FOR CHANNEL 'c'
START REPLICA USER='u' PASSWORD={}
START SLAVE SQL_THREAD USER = 'u' PASSWORD = {}
START GROUP_REPLICATION USER='u', PASSWORD={}
CREATE SERVER s FOREIGN DATA WRAPPER mysql OPTIONS (USER 'u', PASSWORD {}, HOST 'h')
ALTER SERVER s OPTIONS (PASSWORD {})
CLONE INSTANCE FROM 'u'@'h':3306 IDENTIFIED BY {}
CREATE TABLE f (a int) ENGINE=FEDERATED CONNECTION={}
CREATE TABLE f (a int) ENGINE=FEDERATED CONNECTION='mysql://u:{in}@h/d/t'
CREATE TABLE f (a int) ENGINE=CONNECT TABLE_TYPE=MYSQL OPTION_LIST='user=u,password={in}'
INSERT INTO mysql.user (user, authentication_string) VALUES ('x', {})
INSERT INTO mysql.user VALUES ('%', 'x', {})
INSERT INTO mysql.global_priv VALUES ('%', 'x', {})
UPDATE mysql.user SET authentication_string={} WHERE user='x'
UPDATE mysql.user SET Password=PASSWORD({})
REPLACE INTO mysql.user VALUES ('%', {})
SELECT PASSWORD({})
SELECT OLD_PASSWORD({})
SELECT AES_ENCRYPT('x', {})
SELECT AES_DECRYPT(c, {}) FROM t
SELECT {} AS password
SELECT * FROM users WHERE password = {}
SELECT * FROM users WHERE `password` IN ('x', {})
INSERT INTO users VALUES (1, 'bob', {})
INSERT INTO users SET name='bob', password={}
INSERT INTO t (a, passwd) VALUES (1, {}) ON DUPLICATE KEY UPDATE passwd={}
UPDATE users SET pwd = {} WHERE id = 1
REPLACE INTO t SET api_key = {}
SET @password = {}
SET GLOBAL validate_password = {}
PREPARE s FROM 'ALTER USER bob IDENTIFIED BY ''{in}'''
EXECUTE IMMEDIATE 'SET PASSWORD = ''{in}'''
EXECUTE IMMEDIATE CONCAT('ALTER USER bob IDENTIFIED BY ', QUOTE({}))
CREATE EVENT e ON SCHEDULE EVERY 1 DAY DO ALTER USER bob IDENTIFIED BY {}
CREATE PROCEDURE p() BEGIN SET PASSWORD FOR bob = {}; END
/*!50000 CREATE USER bob IDENTIFIED BY {} */
CREATE USER bob /*!50000 IDENTIFIED BY {} */
/* password={in} */ SELECT 1
SELECT 1 # password={in}
CREATE USER bob IDENTIFIED BY {} ((
INSTALL PLUGIN x SONAME 'x.so'; SET PASSWORD = {}
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


MYSQL_QUOTES = ("'{}'", '"{}"', "N'{}'", "_utf8mb4'{}'", "'x' '{}'", "'\\'{}'")
MYSQL_STATES = (
    LexingState(),
    LexingState(None, "UTF8MB4", None, None),
    LexingState(ansi_quotes=True),
    LexingState(no_backslash_escapes=True),
)


def test_no_canary_is_left_in_any_form_of_mysql():
    tried, left = 0, []
    for form in MYSQL:
        for quotes in MYSQL_QUOTES if "{}" in form else ("",):
            for style in ("as is", "upper", "comments", "lines"):
                shape = rewritten(form.replace("{}", "\0").replace("{in}", "\1"), style if "'" in form else "as is")
                text = shape.replace("\0", quotes.format(CANARY)).replace("\1", CANARY)
                for state in MYSQL_STATES:
                    if state.ansi_quotes and quotes.startswith('"') and "AS password" in form:
                        continue  # the name of a column
                    tried += 1
                    if CANARY.encode() in redact(text.encode(), find_secret_spans("mysql", text.encode(), state)):
                        left.append((form, quotes, style, state))
    assert tried > 5000
    assert left == []


def test_the_accounts_of_mysql_stay():
    for text, kept in [
        ("CREATE USER 'bob'@'%' IDENTIFIED BY 'x'", "CREATE USER 'bob'@'%' IDENTIFIED BY '***'"),
        (
            "GRANT SELECT ON a.* TO 'bob'@'10.%' IDENTIFIED BY 'x'",
            "GRANT SELECT ON a.* TO 'bob'@'10.%' IDENTIFIED BY '***'",
        ),
        ("SELECT * FROM users WHERE name = 'bob'", "SELECT * FROM users WHERE name = 'bob'"),
        ("LOAD DATA INFILE '/etc/passwd' INTO TABLE t", "LOAD DATA INFILE '/etc/passwd' INTO TABLE t"),
        ("SELECT LOAD_FILE('/etc/passwd')", "SELECT LOAD_FILE('/etc/passwd')"),
    ]:
        assert redact(text.encode(), find_secret_spans("mysql", text.encode(), LexingState())).decode() == kept


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
