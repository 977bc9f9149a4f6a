"""Properties over generated and rewritten texts; pglast, the server's own grammar, is the oracle."""

import json
import random
from pathlib import Path

import pytest
from pglast import visitors
from pglast.parser import ParseError, parse_sql

from classifiers.classify import classify
from classifiers.effects import Kind, LexingState
from classifiers.lexer_postgres import lex
from classifiers.tokens import WORD
from dbproxy.policy.globs import readings

STATE = LexingState()
DATA = Path(__file__).parent / "data"
CASES = [json.loads(line)["sql"] for line in (DATA / "statements_postgres.jsonl").read_text().splitlines()]
RECORDED = [text for path in sorted(DATA.glob("*.sql")) for text in path.read_text().split("\n--=\n")[1:]]

# Some of the words are quotes, so:
# ruff: noqa: SIM905
POOL = (
    "select from where as , ( ) . * table only secrets update delete insert into merge with union all using on join left natural lateral set"
    " values default returning for of share no temp recursive case when then else end and or not is null distinct in any like escape at time zone"
    " operator over partition by order limit offset fetch first rows row current range filter within group nulls exists array [ ] :: int text"
    " cast extract trim substring overlay position + - @ = <> || 'x' $$y$$ E'\\'' \"q\" 1 1.5 $1 collate \"C\" a b t1 lo_import( do nothing"
    ' conflict matched begin atomic ; /*x*/ U&"a" => := execute program copy truncate drop'
).split(" ")


class Names(visitors.Visitor):
    """What a parse tree of the server's grammar names."""

    def __init__(self):
        self.tables, self.ctes, self.locked, self.written, self.functions = set(), set(), set(), set(), set()

    def visit_RangeVar(self, ancestors, node):
        self.tables.add(node.relname)

    def visit_LockingClause(self, ancestors, node):
        self.locked.update(each.relname for each in node.lockedRels or ())

    def visit_CommonTableExpr(self, ancestors, node):
        self.ctes.add(node.ctename)

    def visit_FuncCall(self, ancestors, node):
        if node.funcname[0].sval != "pg_catalog":
            self.functions.add(node.funcname[-1].sval)

    def _write(self, ancestors, node):
        self.written.add(node.relation.relname)

    visit_InsertStmt = visit_UpdateStmt = visit_DeleteStmt = visit_MergeStmt = _write


QUERIES = {"SelectStmt", "InsertStmt", "UpdateStmt", "DeleteStmt", "MergeStmt"}


def last_part(name):
    return readings(name)[0][1]


def check_against_oracle(text):
    """Compare, unless the server refuses the text or the classifier does. Returns whether anything was compared."""
    try:
        parsed = parse_sql(text)
    except ParseError:
        return False
    report = classify("postgres", text.encode(), STATE)
    assert not report.reason.startswith("the classifier failed"), text
    if Kind.UNPARSABLE in report.kinds:
        return False
    assert report.statements == len(parsed), text
    if not {type(each.stmt).__name__ for each in parsed} <= QUERIES:
        return False
    names = Names()
    names(parsed)
    reported = {last_part(effect.object) for effect in report.effects}
    assert names.tables - names.ctes - names.locked <= reported, text
    assert names.written <= {last_part(name) for name in report.writes}, text
    assert names.functions <= {last_part(name) for name in report.functions}, text
    return True


def spellings(text):
    data = text.encode()
    return [data[t.start : t.end].decode() for t in lex(data, STATE)]


@pytest.mark.parametrize("text", RECORDED[::3] + [case for case in CASES if "unparsable" not in case])
def test_known_texts_agree_with_the_servers_grammar(text):
    check_against_oracle(text)


@pytest.mark.parametrize("seed", range(8))
def test_mutated_texts_agree_with_the_servers_grammar(seed):
    choose = random.Random(seed)
    seeds = [words for words in map(_try_spellings, CASES + RECORDED) if 2 < len(words) < 80]
    compared = 0
    for _ in range(4000):
        words = list(choose.choice(seeds))
        for _ in range(choose.randint(1, 4)):
            at = choose.randrange(len(words))
            action = choose.random()
            if action < 0.6:
                words.insert(at, choose.choice(POOL))
            elif action < 0.75:
                words[at] = choose.choice(POOL)
            elif action < 0.85 and len(words) > 1:
                del words[at]
            else:
                other = choose.randrange(len(words))
                words[at], words[other] = words[other], words[at]
        compared += check_against_oracle(" ".join(words))
    assert compared > 50


def _try_spellings(text):
    try:
        return spellings(text)
    except Exception:  # texts that are meant to be unreadable
        return []


BLANKS = [" ", "\n", "\t", "\r\n", "\f ", " /* x */ ", "/*/**/*/ ", " --'\n", " -- DROP TABLE x\r ", " /* ' \" $$ */ "]


@pytest.mark.parametrize("text", [case for case in CASES if "\n" not in case])
def test_blanks_comments_and_case_never_lower_a_report(text):
    plain = classify("postgres", text.encode(), STATE)
    if Kind.UNPARSABLE in plain.kinds:
        return
    choose = random.Random(text)
    data = text.encode()
    for _ in range(5):
        parts = [choose.choice(BLANKS)]
        for token in lex(data, STATE):
            word = data[token.start : token.end].decode()
            if token.kind == WORD and word.isascii():
                word = "".join(choose.choice((c.lower(), c.upper())) for c in word)
            parts += [word, choose.choice(BLANKS)]
        changed = classify("postgres", "".join(parts).encode(), STATE)
        assert changed.kinds == plain.kinds, "".join(parts)
        assert changed.flags == plain.flags
        assert (changed.reads, changed.writes, changed.functions) == (plain.reads, plain.writes, plain.functions)
