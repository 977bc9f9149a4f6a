from __future__ import annotations

from pathlib import Path

import pytest
from support.command_line import CommandLine
from support.settings_files import GOOD, good_directory, write


@pytest.fixture
def dbproxy(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> CommandLine:
    return CommandLine(monkeypatch, capsys)


RULES = """\
version: 1
rules:
  - {name: no-drop, match: {env: prod, flag: ddl_destructive}, unless: {group: release}, action: block, severity: high, message: Not now.}
  - {name: cards, match: {table: app.cards}, action: alert}
"""


def test_check_accepts_shipped_policies(dbproxy: CommandLine) -> None:
    result = dbproxy("policy", "check", "builtin:default", "--json")
    assert result.code == 0
    assert (result.json["ok"], result.json["unsafe"], result.json["problems"]) == (True, [], [])
    observed = dbproxy("policy", "check", "builtin:observe")
    assert "UNSAFE: unsafe_on_unparsable, unsafe_on_dynamic" in observed.out


def test_check_reports_every_problem(dbproxy: CommandLine, tmp_path: Path) -> None:
    path = write(
        tmp_path / "p.yaml",
        RULES.replace("ddl_destructive", "ddl_destructve").replace("action: alert", "action: alrt"),
        0o644,
    )
    result = dbproxy("policy", "check", path)
    assert result.code == 1
    assert result.out.splitlines() == [
        f"{path}:3:46: rules[0].match.flag: unknown flag 'ddl_destructve' (did you mean 'ddl_destructive'?)",
        f"{path}:4:54: rules[1].action: unknown value 'alrt'; expected 'allow', 'alert', 'approve' or 'block' (did you mean 'alert'?)",
        "not usable (2 errors, 0 warnings)",
    ]
    as_json = dbproxy("policy", "check", path, "--json")
    assert (as_json.code, as_json.json["ok"], len(as_json.json["problems"])) == (1, False, 2)


def test_explain_says_what_a_statement_would_meet(dbproxy: CommandLine, tmp_path: Path) -> None:
    path = write(tmp_path / "p.yaml", RULES, 0o644)
    blocked = dbproxy("policy", "explain", path, "--sql", "DROP TABLE app.cards", "--json")
    assert blocked.code == 1
    assert blocked.json["decision"]["action"] == "block"
    assert [hit["rule"] for hit in blocked.json["decision"]["hits"]] == ["no-drop", "cards"]
    assert blocked.json["report"]["writes"] == ["app.cards"]
    assert dbproxy("policy", "explain", path, "--sql", "DROP TABLE app.cards", "--group", "release").code == 0
    assert dbproxy("policy", "explain", path, "--sql", "DROP TABLE app.cards", "--env", "dev").code == 0
    shown = dbproxy("policy", "explain", path, "--sql", "-", stdin=b"DROP TABLE app.cards")
    assert shown.out.splitlines()[:2] == ["BLOCK Not now.", "  no-drop: block, high: flag=ddl_destructive env=prod"]
    assert dbproxy("policy", "explain", path, "--sql", "SELECT 1").code == 0


def test_the_search_path_can_be_said(dbproxy: CommandLine, tmp_path: Path) -> None:
    path = write(tmp_path / "p.yaml", RULES, 0o644)
    question = ("policy", "explain", path, "--sql", "SELECT id FROM cards WHERE id = 1", "--json")
    assert dbproxy(*question).json["decision"]["action"] == "alert"
    assert dbproxy(*question, "--search-path", "public").json["decision"]["action"] == "allow"
    assert dbproxy(*question, "--search-path", "app, public").json["decision"]["action"] == "alert"


def test_explain_without_a_statement_lists_the_rules(dbproxy: CommandLine, tmp_path: Path) -> None:
    path = write(tmp_path / "p.yaml", RULES, 0o644)
    assert [rule["name"] for rule in dbproxy("policy", "explain", path, "--json").json["rules"]] == ["no-drop", "cards"]
    assert "no-drop" in dbproxy("policy", "explain", path).out


def test_policies_and_env_come_from_the_settings(dbproxy: CommandLine, tmp_path: Path) -> None:
    write(tmp_path / "p.yaml", RULES, 0o644)
    settings = GOOD.replace("    host:", "    env: dev\n    host:") + "policies: {files: [p.yaml]}\n"
    path = good_directory(tmp_path, settings)
    question = ("policy", "explain", "-s", path, "--sql", "DROP TABLE x", "--json")
    assert dbproxy(*question).json["decision"]["action"] == "block"
    assert dbproxy(*question, "--target", "shop").json["decision"]["action"] == "allow"


def test_mistakes_end_with_a_sentence(dbproxy: CommandLine, tmp_path: Path) -> None:
    result = dbproxy("policy", "explain", "builtin:default", "--sql", "x", "--client", "nowhere")
    assert (result.code, result.err) == (2, "--client must be an IP address\n")
    missing = dbproxy("policy", "explain", tmp_path / "none.yaml")
    assert (missing.code, missing.err) == (2, f"{tmp_path}/none.yaml: cannot be read: No such file or directory\n")
    assert dbproxy("policy", "check", "builtin:none").code == 1
