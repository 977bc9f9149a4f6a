"""Secrets never stay in a text that is kept."""

import pytest

from classifiers.classify import classify
from classifiers.effects import LexingState
from classifiers.redact import find_secret_spans, redact

SECRETS = r"""
ALTER USER bob PASSWORD 'hunter2'
ALTER ROLE bob WITH ENCRYPTED PASSWORD $$hunter2$$ VALID UNTIL 'infinity'
CREATE USER x PASSWORD E'hun\'hunter2'
CREATE USER x PASSWORD U&'hunter\0032'
ALTER USER bob PASSWORD 'a' 'hunter2'
ALTER USER bob PASSWORD /* 'x' */ 'hunter2'
ALTER USER bob PASSWORD 'hunter2
ALTER USER bob PASSWORD "hunter2"
ALTER ROLE x PASSWORD 'SCRAM-SHA-256$4096:abc$hunter2'
CREATE USER MAPPING FOR x SERVER s OPTIONS (user 'x', password 'hunter2')
ALTER USER MAPPING FOR x SERVER s OPTIONS (SET password 'hunter2')
CREATE SUBSCRIPTION s CONNECTION 'host=x password=hunter2' PUBLICATION p
ALTER SUBSCRIPTION s CONNECTION 'dbname=x password = hunter2'
SELECT dblink('host=x user=y password=hunter2', 'select 1')
SELECT dblink_connect('c', 'postgresql://u:hunter2@h/db')
SELECT dblink(E'host=x p\141ssword=hunter2', 'select 1')
SELECT f(E'p\141ssword=hunter2')
SELECT set_config('app.secret', 'hunter2', false)
SET app.jwt_secret = 'hunter2'
SET SESSION app.password TO 'hunter2'
ALTER SYSTEM SET primary_conninfo = 'host=x password=hunter2'
DO $$ BEGIN EXECUTE 'ALTER USER x PASSWORD ''hunter2'''; END $$
CREATE FUNCTION f() RETURNS void LANGUAGE sql AS $x$ ALTER USER x PASSWORD 'hunter2' $x$
SELECT crypt('hunter2', gen_salt('bf'))
SELECT pgp_sym_encrypt(x, 'hunter2') FROM t
INSERT INTO users (name, password) VALUES ('bob', 'hunter2')
UPDATE users SET password = md5('hunter2') WHERE id = 1
SELECT * FROM users WHERE password = 'hunter2'
COPY t TO PROGRAM 'PGPASSWORD=hunter2 psql'
ALTER ROLE a PASSWORD hunter2
ALTER ROLE a PASWORD 'hunter2'
SELECT 1; CREATE USER a 'hunter2'
GRANT x TO y IDENTIFIED BY 'hunter2'
SELECT set_password('a', 'hunter2')
/* password=hunter2 */ SELECT 1
SELECT 1 -- password 'hunter2'
""".strip().splitlines()


@pytest.mark.parametrize("text", SECRETS)
def test_a_secret_is_found_and_taken_out(text):
    data = text.encode()
    spans = find_secret_spans("postgres", data, LexingState())
    assert b"hunter" not in redact(data, spans)
    report = classify("postgres", data, LexingState())
    assert report.secret_spans == spans
    assert "secret_literal" in report.flags


@pytest.mark.parametrize(
    "text",
    [
        "SELECT 'hello'",
        "UPDATE t SET a = 'b' WHERE c = 'd'",
        "UPDATE secrets SET v = 'x' WHERE k = 'y'",
        "SELECT name FROM users WHERE id = 'x'",
        "ALTER ROLE x VALID UNTIL '2030-01-01'",
        "ALTER ROLE x SET search_path = 'app'",
        "/* the users */ SELECT 1",
    ],
)
def test_ordinary_literals_stay(text):
    assert find_secret_spans("postgres", text.encode(), LexingState()) == ()


def test_redacting_keeps_everything_else():
    assert redact(b"ab'x'cd'y'e", ((2, 5), (7, 10))) == b"ab'***'cd'***'e"


def test_an_unknown_dialect_is_an_error():
    with pytest.raises(ValueError, match="unknown dialect"):
        find_secret_spans("oracle", b"", LexingState())
