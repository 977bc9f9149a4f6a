"""check, init, schema, version and the command line as a whole."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator
from support.command_line import CommandLine
from support.settings_files import GOOD, good_directory, write

from dbproxy.cli.main import COMMANDS


@pytest.fixture
def dbproxy(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> CommandLine:
    return CommandLine(monkeypatch, capsys)


def test_init_writes_a_starter_that_check_accepts(
    dbproxy: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = dbproxy("init", tmp_path / "new")
    assert made.code == 0
    files = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "new").iterdir()}
    assert files == {"dbproxy.yaml": 0o644, "policy.yaml": 0o644, "users.yaml": 0o600}
    monkeypatch.setenv("DBPROXY_APP_PASSWORD", "x")
    checked = dbproxy("check", tmp_path / "new" / "dbproxy.yaml")
    assert (checked.code, checked.out) == (0, f"{tmp_path}/new/dbproxy.yaml: ok (0 errors, 0 warnings)\n")
    assert dbproxy("check", "--strict", tmp_path / "new" / "dbproxy.yaml").code == 0
    monkeypatch.delenv("DBPROXY_APP_PASSWORD")
    checked = dbproxy("check", tmp_path / "new" / "dbproxy.yaml")
    assert checked.code == 0
    assert "warning: targets[0].accounts[0].password" in checked.out
    assert dbproxy("check", "--strict", tmp_path / "new" / "dbproxy.yaml").code == 1


def test_init_overwrites_nothing(dbproxy: CommandLine, tmp_path: Path) -> None:
    write(tmp_path / "policy.yaml", "mine")
    result = dbproxy("init", tmp_path)
    assert (result.code, result.err) == (2, f"{tmp_path}: policy.yaml exist already; nothing was written\n")
    assert [path.name for path in tmp_path.iterdir()] == ["policy.yaml"]
    result = dbproxy("init", tmp_path / "policy.yaml" / "x")
    assert result.code == 2
    assert "Traceback" not in result.err


def test_init_is_not_swayed_by_the_umask(tmp_path: Path) -> None:
    command = f"umask 000; exec {sys.executable} -m dbproxy init {tmp_path}/new"
    subprocess.run(["sh", "-c", command], check=True, capture_output=True, timeout=60)
    assert {path.stat().st_mode & 0o022 for path in (tmp_path / "new").iterdir()} == {0}


def test_check_reports_settings_users_and_policies_together(dbproxy: CommandLine, tmp_path: Path) -> None:
    write(tmp_path / "p.yaml", "version: 1\nrules: [{name: a, match: {kind: dll}, action: block}]\n", 0o644)
    settings = (
        GOOD.replace("port", "prt").replace("host: 127", "hosts: 127")
        + "policies: {files: [p.yaml, none.yaml]}\nlimitz: {}\n"
    )
    path = good_directory(tmp_path, settings, "version: 1\npeople: [{name: a b}]\n")
    result = dbproxy("check", path)
    lines = result.out.replace(f"{tmp_path}/", "").splitlines()
    assert lines == [
        "dbproxy.yaml:8:5: targets[0].host: this key is required",
        "dbproxy.yaml:9:5: targets[0].hosts: unknown key (did you mean 'host'?)",
        "dbproxy.yaml:17:1: limitz: unknown key (did you mean 'limits'?)",
        "dbproxy.yaml: not usable (3 errors, 0 warnings)",
    ]
    path = good_directory(tmp_path, settings.replace("hosts:", "host:"), "version: 1\npeople: [{name: a b}]\n")
    result = dbproxy("check", path)
    lines = result.out.replace(f"{tmp_path}/", "").splitlines()
    assert [line.split(": ")[0] for line in lines] == [
        "dbproxy.yaml:17:1",
        "users.yaml:2:17",
        "none.yaml",
        "p.yaml:2:33",
        "dbproxy.yaml",
    ]
    assert result.code == 1
    as_json = dbproxy("check", path, "--json")
    assert as_json.code == 1
    assert as_json.json["ok"] is False
    assert as_json.json["problems"][3] == {
        "file": f"{tmp_path}/p.yaml",
        "line": 2,
        "column": 33,
        "key": "rules[0].match.kind",
        "text": "unknown kind 'dll' (did you mean 'ddl'?)",
        "severity": "error",
    }


def test_check_warns_about_rules_that_nothing_in_the_settings_answers_to(dbproxy: CommandLine, tmp_path: Path) -> None:
    rules = "version: 1\nrules:\n  - {name: a, match: {kind: ddl, env: prd, target: shp, account: [app, apq], group: dba}, action: block}\n"
    write(tmp_path / "p.yaml", rules, 0o644)
    path = good_directory(tmp_path, GOOD + "policies: {files: [p.yaml]}\n")
    result = dbproxy("check", path)
    assert result.code == 0
    assert result.out.replace(f"{tmp_path}/", "").splitlines()[:-1] == [
        "p.yaml:3:39: warning: rules[0].match.env: nothing in the settings has the env 'prd' (did you mean 'prod'?)",
        "p.yaml:3:52: warning: rules[0].match.target: nothing in the settings has the target 'shp' (did you mean 'shop'?)",
        "p.yaml:3:66: warning: rules[0].match.account: nothing in the settings has the account 'apq' (did you mean 'app'?)",
        "p.yaml:3:85: warning: rules[0].match.group: nothing in the settings has the group 'dba'",
    ]


def test_check_refuses_settings_that_others_may_write(dbproxy: CommandLine, tmp_path: Path) -> None:
    path = good_directory(tmp_path)
    path.chmod(0o664)
    result = dbproxy("check", path)
    assert (result.code, result.out.splitlines()[0]) == (1, f"{path}: its group may write to it; run chmod go-w")


def test_the_settings_file_can_be_named_by_the_environment(
    dbproxy: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DBPROXY_SETTINGS", str(good_directory(tmp_path)))
    assert dbproxy("check").code == 0
    monkeypatch.delenv("DBPROXY_SETTINGS")
    monkeypatch.chdir(tmp_path)
    assert dbproxy("check").out == "dbproxy.yaml: ok (0 errors, 0 warnings)\n"


@pytest.mark.parametrize("what", ["settings", "users", "policy", "audit"])
def test_schemas_are_valid_json_schemas(dbproxy: CommandLine, what: str) -> None:
    result = dbproxy("schema", what)
    assert result.code == 0
    assert "2020-12" in result.json["$schema"]
    Draft202012Validator.check_schema(result.json)


def test_the_policy_schema_accepts_the_shipped_policies_and_names_the_vocabulary(dbproxy: CommandLine) -> None:
    from config.document import parse_document
    from config.settings import SHIPPED_POLICIES

    schema = dbproxy("schema", "policy").json
    for path in (*SHIPPED_POLICIES.glob("*.yaml"), SHIPPED_POLICIES.parent / "example-policy.yaml"):
        Draft202012Validator(schema).validate(parse_document(path.read_bytes(), path.name).root.plain())
    bad = {"version": 1, "rules": [{"name": "a", "match": {"kind": "dll"}, "action": "block"}]}
    assert not Draft202012Validator(schema).is_valid(bad)


def test_version_and_help_say_what_people_need(dbproxy: CommandLine) -> None:
    assert re.match(r"dbproxy \S+", dbproxy("version").out)
    assert dbproxy("version", "--json").json["python"] == sys.version.split()[0]
    shown = dbproxy("--help")
    assert shown.code == 0
    assert "Exit codes: 0 done" in shown.out
    for name in COMMANDS:
        assert re.search(rf"^. {name} ", shown.out, re.MULTILINE), name
    unknown = dbproxy("chekc")
    assert unknown.code == 2
    assert "check" in unknown.err


def test_a_command_loads_only_what_it_needs() -> None:
    script = (
        "import sys\nfrom dbproxy.cli.main import main\n"
        "try:\n    main(['version'])\nexcept SystemExit: pass\n"
        "print([name for name in ('sqlglot', 'uvloop', 'starlette', 'asyncio', 'cryptography') if name in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True, timeout=60).stdout
    assert out.splitlines()[-1] == "[]"
