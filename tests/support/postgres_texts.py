"""Random PostgreSQL texts for differential tests: every place where a table can stand, every way to spell it, nested.

Most are valid to PostgreSQL's grammar, which is the judge of that; what they mean is of no concern. Seeded: the same random.Random
gives the same texts.
"""

from __future__ import annotations

import random
from collections.abc import Callable

TABLES = (
    "t", "notes", "secrets", "customers", '"Mixed"', '"a.b"', '"q""x"', '"from"', "data", "value", "level", "t$1", "é", 'U&"\\0061bc"',
    'U&"d\\0061t"', 'U&"!0061bd" UESCAPE \'!\'', "match", "over", "lateral_", "only_", '"t"', "temp_x", "name", "row_", "c1", "c2", "c3",
)  # fmt: skip
SCHEMAS = ("app", '"App"', "public", "pg_catalog", "pg_temp", '"s.x"', "db.app")
COLUMNS = ("a", "b", "c", '"C d"', "id", "value", "type", "x$1")
ALIASES = ("x", "y", "z", "t", '"X"', "secrets", "q1")
CTES = ("c1", "c2", "c3", "t", "secrets", '"Mixed"', "notes")
LITERALS = (
    "1", "1.5", ".5", "1e3", "0x1F", "1_000", "'x'", "''", "'it''s'", "E'\\''", "e'a\\\\'", "E'\\x41'", "$$ from secrets $$", "$q$ ' \" $$ $q$",
    "U&'\\0061'", "B'101'", "X'1f'", "N'n'", "NULL", "TRUE", "DATE '2020-01-01'", "INTERVAL '1' DAY", "INTERVAL '1 hour'", "$1", "$2",
    "'--'", "'/*'", "CURRENT_DATE", "CURRENT_USER", "TIMESTAMP WITH TIME ZONE 'now'", "'x'\n'y'",
)  # fmt: skip
OPERATORS = ("+", "-", "*", "/", "%", "||", "=", "<>", "!=", "<", ">=", "->", "->>", "@>", "~*", "!~", "&&", "#>", "<->", "^",
             "OPERATOR ( pg_catalog . + )", "AND", "OR", "LIKE", "ILIKE", "NOT LIKE", "SIMILAR TO", "IS DISTINCT FROM", "IS NOT DISTINCT FROM")  # fmt: skip
TYPES = ("int", "text", "numeric(10,2)", "varchar(5)", "timestamp with time zone", "int[]", "double precision", "regclass", "bit(3)",
         "interval day to second", "character varying", "jsonb", "pg_catalog.int4")  # fmt: skip
FUNCTIONS = (
    "lower",
    "count",
    "coalesce",
    "f",
    "app.g",
    "abs",
    "pg_catalog.upper",
    '"F"',
    "greatest",
    "generate_series",
    "now",
    "left",
)
BLANKS = (
    " ",
    " ",
    " ",
    " ",
    "\n",
    "\t",
    "\r\n",
    "\f",
    "  ",
    "/**/",
    " /* from secrets */ ",
    "/*/**/*/",
    " -- ' from t\n",
    " --\n",
    "/*'*/",
)


class Texts:
    """One source of texts."""

    def __init__(self, choose: random.Random) -> None:
        self._choose = choose
        self._depth = 0

    def message(self) -> str:
        """One to three statements, spelled at random."""
        number = self._choose.choice((1, 1, 1, 1, 1, 2, 3))
        parts = [self._statement() for _ in range(number)]
        text = " ; ".join(parts)
        if self._one(8):
            text += " ;" * self._choose.randint(1, 2)
        return self._spell(text)

    # ------------------------------------------------------------------ statements

    def _statement(self) -> str:
        kinds: tuple[Callable[[], str], ...] = (self._query,) * 7 + (
            self._insert,
            self._update,
            self._delete,
            self._merge,
            self._copy,
            self._create_as,
            self._view,
            self._explain,
            self._cursor,
            self._prepare,
            self._into,
        )
        self._depth = 0
        return self._choose.choice(kinds)()

    def _copy(self) -> str:
        if self._one(3):
            return f"COPY {self._table()}{self._maybe(' ( a , b )')} TO STDOUT{self._maybe(' WITH ( FORMAT csv , HEADER )')}"
        inner = self._choose.choice((self._query, self._returning_write))()
        return f"COPY ( {inner} ) TO STDOUT{self._maybe(' ( FORMAT binary )')}"

    def _create_as(self) -> str:
        sort = self._choose.choice(
            ("TABLE", "TEMP TABLE", "UNLOGGED TABLE", "TABLE IF NOT EXISTS", "MATERIALIZED VIEW")
        )
        return (
            f"CREATE {sort} {self._table()}{self._maybe(' ( a , b )')} AS {self._query()}{self._maybe(' WITH NO DATA')}"
        )

    def _view(self) -> str:
        return f"CREATE {self._maybe('OR REPLACE ')}{self._maybe('TEMP ')}VIEW {self._table()} AS {self._query()}{self._maybe(' WITH CHECK OPTION')}"

    def _explain(self) -> str:
        how = self._choose.choice(
            ("", "ANALYZE ", "VERBOSE ", "( COSTS off ) ", "( ANALYZE , BUFFERS ) ", "( ANALYZE false ) ")
        )
        return f"EXPLAIN {how}{self._choose.choice((self._query, self._insert, self._update, self._delete))()}"

    def _cursor(self) -> str:
        return f"DECLARE cur {self._maybe('NO SCROLL ')}CURSOR {self._maybe('WITH HOLD ')}FOR {self._query()}"

    def _prepare(self) -> str:
        return f"PREPARE p{self._maybe(' ( int , text )')} AS {self._choose.choice((self._query, self._insert, self._update, self._delete))()}"

    def _into(self) -> str:
        sort = self._choose.choice(("", "TABLE ", "TEMP ", "TEMPORARY TABLE ", "UNLOGGED "))
        return f"SELECT {self._list()} INTO {sort}{self._table()} FROM {self._from()}{self._maybe(' WHERE ' + self._expression())}"

    # ------------------------------------------------------------------ queries

    def _query(self) -> str:
        self._depth += 1
        try:
            text = self._with() if self._one(5) and self._depth < 3 else ""
            text += self._select() if self._depth > 3 or not self._one(6) else self._set_operation()
            return text + self._tail()
        finally:
            self._depth -= 1

    def _set_operation(self) -> str:
        parts = [f"( {self._query()} )" if self._one(3) else self._select() for _ in range(self._choose.randint(2, 3))]
        operator = self._choose.choice((" UNION ", " UNION ALL ", " EXCEPT ", " INTERSECT ALL ", " UNION DISTINCT "))
        return operator.join(parts)

    def _select(self) -> str:
        if self._one(14):
            return f"TABLE {self._maybe('ONLY ')}{self._relation()}"
        if self._one(14):
            return f"VALUES ( {self._expression()} , 1 ) , ( 2 , {self._expression()} )"
        text = "SELECT " + self._choose.choice(("", "", "", "ALL ", "DISTINCT ", "DISTINCT ON ( a ) ")) + self._list()
        if not self._one(8):
            text += f" FROM {self._from()}"
        text += self._maybe(f" WHERE {self._expression()}", 2)
        if self._one(6):
            text += " GROUP BY " + self._choose.choice(
                ("a", "1 , b", "ROLLUP ( a , b )", "GROUPING SETS ( ( a ) , ( ) )", "DISTINCT a", self._expression())
            )
            text += self._maybe(f" HAVING {self._expression()}", 2)
        if self._one(12):
            text += f" WINDOW w AS ( PARTITION BY {self._expression()} ORDER BY b )"
        return text

    def _tail(self) -> str:
        text = ""
        if self._one(5):
            text += f" ORDER BY {self._expression()}{self._choose.choice(('', ' DESC', ' ASC NULLS LAST', ' USING <'))}"
        if self._one(6):
            text += self._choose.choice(
                (" LIMIT 5", " LIMIT ALL OFFSET 2", " FETCH FIRST 3 ROWS ONLY", " OFFSET 1 ROW", " FETCH NEXT ROW WITH TIES",
                 f" LIMIT ( {self._shallow()} )")
            )  # fmt: skip
        if self._one(14):
            text += self._choose.choice((" FOR UPDATE", " FOR SHARE NOWAIT", " FOR NO KEY UPDATE OF x SKIP LOCKED"))
        return text

    def _with(self) -> str:
        parts = []
        for name in self._choose.sample(CTES, self._choose.randint(1, 2)):
            body = (
                self._returning_write()
                if self._one(4)
                else f"VALUES ( {self._expression()} )"
                if self._one(8)
                else self._query()
            )
            how = self._choose.choice(("", "", "MATERIALIZED ", "NOT MATERIALIZED "))
            more = self._choose.choice(
                ("",) * 10 + (" SEARCH DEPTH FIRST BY a SET o", " CYCLE a SET cy TO 1 DEFAULT 0 USING p")
            )
            parts.append(f"{name}{self._maybe(' ( a , b )', 5)} AS {how}( {body} ){more}")
        return f"WITH {self._maybe('RECURSIVE ', 3)}{' , '.join(parts)} "

    def _list(self) -> str:
        items = []
        for _ in range(self._choose.choice((1, 1, 2, 3))):
            item = self._choose.choice(("*", "x . *", self._expression()))
            if "*" not in item[-1:]:
                item += self._choose.choice(("", "", " AS z", ' AS "from"', " AS from_", ' "lbl"'))
            items.append(item)
        return " , ".join(items)

    # ------------------------------------------------------------------ FROM

    def _from(self) -> str:
        return " , ".join(self._source() for _ in range(self._choose.choice((1, 1, 1, 1, 2))))

    def _source(self) -> str:
        self._depth += 1
        try:
            if self._depth > 3:
                return self._plain_source()
            if self._one(4):
                return self._join()
            if self._one(6):
                return f"{self._maybe('LATERAL ', 3)}( {self._query()} ) {self._alias()}"
            if self._one(8):
                return self._function_source()
            if self._one(20):
                return f"( VALUES ( 1 , {self._expression()} ) ) {self._alias()} ( a , b )"
            return self._plain_source()
        finally:
            self._depth -= 1

    def _plain_source(self) -> str:
        name = self._relation()
        form = self._choose.choice(
            (name,) * 12 + (f"ONLY {name}", f"ONLY ( {name} )", f"{name} *", f"{name} TABLESAMPLE system ( 10 )")
        )
        if "TABLESAMPLE" in form or form.endswith("*"):
            return form
        return form + self._choose.choice(("", "", f" {self._alias()}", f" AS {self._alias()} ( a , b )"))

    def _function_source(self) -> str:
        call = f"{self._choose.choice(FUNCTIONS)} ( {self._expression()} )"
        return self._choose.choice(
            (
                f"{call} {self._alias()}",
                f"LATERAL {call} AS {self._alias()} ( a , b )",
                f"ROWS FROM ( {call} , g ( 1 ) ) WITH ORDINALITY {self._alias()}",
                f"{call} WITH ORDINALITY",
                f"f ( ) AS {self._alias()} ( a int , b text )",
            )
        )

    def _join(self) -> str:
        left, right = self._source(), self._source()
        kind = self._choose.choice(("JOIN", "INNER JOIN", "LEFT JOIN", "RIGHT OUTER JOIN", "FULL JOIN"))
        text = self._choose.choice(
            (
                f"{left} {kind} {right} ON {self._expression()}",
                f"{left} {kind} {right} USING ( a , b ){self._maybe(' AS j')}",
                f"{left} CROSS JOIN {right}",
                f"{left} NATURAL {kind} {right}",
            )
        )
        return self._choose.choice((text, f"( {text} )", f"( {text} ) {self._alias()}"))

    def _relation(self) -> str:
        """A table, or a name that may be a CTE's."""
        return self._choose.choice(CTES) if self._one(3) else self._table()

    def _table(self) -> str:
        name = self._choose.choice(TABLES)
        return f"{self._choose.choice(SCHEMAS)} . {name}" if self._one(4) else name

    def _alias(self) -> str:
        return self._choose.choice(ALIASES)

    # ------------------------------------------------------------------ writes

    def _returning_write(self) -> str:
        self._depth += 1
        try:
            write = self._choose.choice((self._insert, self._update, self._delete, self._merge))
            text = write()
            return text if " RETURNING " in text[-40:] else text + " RETURNING *"
        finally:
            self._depth -= 1

    def _insert(self) -> str:
        text = self._with() if self._one(6) and self._depth < 3 else ""
        text += f"INSERT INTO {self._table()}{self._maybe(' AS x')}{self._maybe(' ( a , b )', 2)}"
        text += self._maybe(" OVERRIDING SYSTEM VALUE", 10)
        text += " " + self._choose.choice(
            (
                "DEFAULT VALUES",
                f"VALUES ( {self._expression()} , DEFAULT ) , ( 1 , 2 )",
                self._shallow(),
                self._shallow(),
            )
        )
        if self._one(3):
            target = self._choose.choice(
                ("", " ( a )", " ( lower ( a ) , b ) WHERE a > 1", " ON CONSTRAINT k", ' ( a COLLATE "C" )')
            )
            update = (
                f"DO UPDATE SET a = {self._expression()} , ( b , c ) = ( {self._shallow()} ) WHERE {self._expression()}"
            )
            text += f" ON CONFLICT{target} {self._choose.choice(('DO NOTHING', update))}"
        return text + self._returning()

    def _update(self) -> str:
        text = self._with() if self._one(6) and self._depth < 3 else ""
        text += f"UPDATE {self._maybe('ONLY ')}{self._table()}{self._maybe(' AS x')} SET a = {self._expression()}"
        text += self._choose.choice(
            ("", " , b = DEFAULT", f" , ( b , c ) = ( {self._shallow()} )", " , ( b ) = ROW ( 1 )")
        )
        text += self._maybe(f" FROM {self._from()}", 2)
        return text + self._where() + self._returning()

    def _delete(self) -> str:
        text = self._with() if self._one(6) and self._depth < 3 else ""
        text += f"DELETE FROM {self._maybe('ONLY ')}{self._table()}{self._maybe(' x')}"
        text += self._maybe(f" USING {self._from()}", 2)
        return text + self._where() + self._returning()

    def _merge(self) -> str:
        text = self._with() if self._one(6) and self._depth < 3 else ""
        source = self._choose.choice((self._plain_source(), f"( {self._shallow()} ) {self._alias()}"))
        text += f"MERGE INTO {self._maybe('ONLY ')}{self._table()}{self._maybe(' AS x')} USING {source} ON {self._expression()}"
        for _ in range(self._choose.randint(1, 3)):
            when = self._choose.choice(("MATCHED", "NOT MATCHED", "NOT MATCHED BY SOURCE", "NOT MATCHED BY TARGET"))
            act = (
                f"INSERT ( a ) VALUES ( {self._expression()} )"
                if when in ("NOT MATCHED", "NOT MATCHED BY TARGET")
                else self._choose.choice((f"UPDATE SET a = {self._expression()}", "DELETE"))
            )
            text += f" WHEN {when}{self._maybe(' AND ' + self._expression())} THEN {self._choose.choice((act, 'DO NOTHING'))}"
        return text

    def _where(self) -> str:
        return self._choose.choice(
            ("", f" WHERE {self._expression()}", f" WHERE {self._expression()}", " WHERE CURRENT OF cur")
        )

    def _returning(self) -> str:
        return self._maybe(f" RETURNING {self._choose.choice(('*', 'a , b AS z', self._expression()))}", 5)

    # ------------------------------------------------------------------ expressions

    def _shallow(self) -> str:
        """A query that nests no further than it must."""
        self._depth += 2
        try:
            return self._query() if self._depth < 6 else "SELECT 1"
        finally:
            self._depth -= 2

    def _expression(self) -> str:
        self._depth += 1
        try:
            if self._depth > 4 or not self._one(3):
                return self._operand()
            return self._choose.choice(self._forms())()
        finally:
            self._depth -= 1

    def _operand(self) -> str:
        return self._choose.choice(
            (
                self._choose.choice(LITERALS),
                self._choose.choice(COLUMNS),
                f"{self._alias()} . {self._choose.choice(COLUMNS)}",
            )
        )

    def _forms(self) -> tuple[Callable[[], str], ...]:
        one, query, choose = self._expression, self._shallow, self._choose
        return (
            lambda: f"{one()} {choose.choice(OPERATORS)} {one()}",
            lambda: f"( {one()} )",
            lambda: f"( {query()} )",
            lambda: f"EXISTS ( {query()} )",
            lambda: f"{one()} IN ( {query()} )",
            lambda: f"{one()} NOT IN ( {one()} , {one()} )",
            lambda: f"{one()} = ANY ( {query()} )",
            lambda: f"{one()} > ALL ( ARRAY [ {one()} , 2 ] )",
            lambda: f"ARRAY ( {query()} )",
            lambda: f"( a , b ) = ( {query()} )",
            lambda: f"ROW ( {one()} , {one()} )",
            lambda: f"CASE WHEN {one()} THEN {one()} ELSE {one()} END",
            lambda: f"CASE {one()} WHEN 1 THEN {one()} END",
            lambda: f"CAST ( {one()} AS {choose.choice(TYPES)} )",
            lambda: f"{self._operand()} :: {choose.choice(TYPES)}",
            lambda: f"{choose.choice(FUNCTIONS)} ( {one()} )",
            lambda: f"count ( DISTINCT {one()} ) FILTER ( WHERE {one()} )",
            lambda: (
                f"sum ( a ) OVER ( PARTITION BY {one()} ORDER BY {one()} ROWS BETWEEN 1 PRECEDING AND CURRENT ROW )"
            ),
            lambda: f"percentile_cont ( 0.5 ) WITHIN GROUP ( ORDER BY {one()} )",
            lambda: f"EXTRACT ( year FROM {one()} )",
            lambda: f"SUBSTRING ( {one()} FROM 1 FOR 2 )",
            lambda: f"TRIM ( BOTH 'x' FROM {one()} )",
            lambda: f"OVERLAY ( {one()} PLACING 'x' FROM 1 )",
            lambda: f"POSITION ( {self._operand()} IN {self._operand()} )",
            lambda: f"{self._operand()} BETWEEN {self._operand()} AND {self._operand()}",
            lambda: f"{one()} IS NOT NULL",
            lambda: f"NOT {one()}",
            lambda: f"- {self._operand()}",
            lambda: f"{self._operand()} AT TIME ZONE {self._operand()}",
            lambda: f'{self._operand()} COLLATE "C"',
            lambda: f"{self._operand()} LIKE {self._operand()} ESCAPE '!'",
            lambda: f"( {one()} ) [ 1 ]",
            lambda: "f ( VARIADIC ARRAY [ 1 ] )",
            lambda: f"g ( a => {one()} )",
        )

    # ------------------------------------------------------------------ spelling

    def _spell(self, text: str) -> str:
        return text if self._one(3) else respell(self._choose, text)

    def _one(self, of: int) -> bool:
        return self._choose.randrange(of) == 0

    def _maybe(self, text: str, of: int = 4) -> str:
        return text if self._one(of) else ""


def respell(choose: random.Random, text: str) -> str:
    """Other blanks, comments and letters; the text must have a blank between any two tokens outside quotes."""
    parts = []
    for token in _split(text):
        if token.isascii() and token.replace("_", "").isalnum() and choose.randrange(2):
            token = "".join(choose.choice((c.lower(), c.upper())) for c in token)
        parts += [token, choose.choice(BLANKS)]
    return "".join(parts)


def _split(text: str) -> list[str]:
    """At blanks that stand outside quotes."""
    found: list[str] = []
    current: list[str] = []
    at, quote = 0, ""
    while at < len(text):
        if quote:
            if text.startswith("\\", at) and current[0] in "eE" and quote == "'":
                current.append(text[at])
                at += 1
            elif text.startswith(quote, at):
                current.append(quote)
                at += len(quote)
                quote = ""
                continue
        else:
            opened = next((each for each in ("$$", "$q$", "'", '"') if text.startswith(each, at)), "")
            if opened:
                quote = opened
                current.append(opened)
                at += len(opened)
                continue
            if text[at] == " ":
                if current:
                    found.append("".join(current))
                    current = []
                at += 1
                continue
        current.append(text[at])
        at += 1
    return [*found, "".join(current)] if current else found
