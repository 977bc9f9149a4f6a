"""Settings and users files: what is accepted, and every way in which they are refused."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from support.settings_files import GOOD, good_directory, problems_of, write

from config.errors import ConfigError
from config.load import check_settings, check_users_file, load_settings, load_users, save_users
from config.settings import ListenerTLSMode, ServerAuth, TargetTLSMode
from config.users import Person, Users

VERIFIER = f"SCRAM-SHA-256$4096:c2FsdHNhbHQ=${'A' * 43}=:{'B' * 42}A="
NEEDS_ACCOUNT = "the account needs a password; write ${env:NAME} or ${file:/path}, or accept trust or cert"


def test_good_settings_load_with_safe_defaults(tmp_path: Path) -> None:
    settings = load_settings(
        good_directory(tmp_path, GOOD.replace("    tls: {mode: disable}\n    accounts", "    accounts"))
    )
    assert settings.target("shop").env == "prod"
    assert settings.target("shop").tls.mode is TargetTLSMode.VERIFY_FULL
    assert settings.target("shop").accept_auth == (ServerAuth.SCRAM_SHA_256_PLUS, ServerAuth.SCRAM_SHA_256)
    assert not settings.target("shop").allow_replication
    assert settings.audit.directory == tmp_path / "audit"
    assert settings.users.file == tmp_path / "users.yaml"
    assert settings.admin.address.is_loopback
    assert [path.name for path in settings.policies.files] == ["default.yaml"]
    with pytest.raises(KeyError):
        settings.target("other")


def test_listeners_require_tls_unless_told_otherwise(tmp_path: Path) -> None:
    text = GOOD.replace("    tls: {mode: disable}\ntargets", "targets")
    assert problems_of(tmp_path, ("    tls: {mode: disable}\ntargets", "targets")) == [
        "dbproxy.yaml:3:5: listeners[0].tls.certificate: is needed with mode require",
        "dbproxy.yaml:3:5: listeners[0].tls.key: is needed with mode require",
    ]
    checked = check_settings(good_directory(tmp_path, text))
    assert checked.rough is not None
    assert checked.rough.listeners[0].tls.mode is ListenerTLSMode.REQUIRE


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("version: 1\n", "", "1:1: version: this key is required"),
        ("version: 1", "version: 2", "1:10: version: unknown value; expected 1"),
        ("target: shop", "target: shpo", "5:13: listeners[0].target: there is no target 'shpo' (did you mean 'shop'?)"),
        ("    target: shop\n", "", "3:5: listeners[0].target: this key is required"),
        ("target: shop", "targets: shop", "3:5: listeners[0].target: this key is required|5:5: listeners[0].targets: unknown key (did you mean 'target'?)"),
        ("mode: disable}\ntargets", "mode: disabled}\ntargets", "6:17: listeners[0].tls.mode: unknown value 'disabled'; expected 'require', 'allow' or 'disable' (did you mean 'disable'?)"),
        ("127.0.0.1:6432", "127.0.0.1", "4:14: listeners[0].address: must be HOST:PORT, for example 127.0.0.1:6432 or [::1]:6432"),
        ("127.0.0.1:6432", "127.0.0.1:99999", "4:14: listeners[0].address: must be HOST:PORT, for example 127.0.0.1:6432 or [::1]:6432"),
        ("127.0.0.1:6432", "db.example:1", "4:14: listeners[0].address: the host must be an IP address to listen on (0.0.0.0 for all), or localhost"),
        ("127.0.0.1:6432", "6432", "4:14: listeners[0].address: must be text; put it in quotes"),
        ("127.0.0.1:6432", "0.0.0.0:6432", "6:17: warning: listeners[0].tls.mode: without TLS everyone on the network path can read statements and results"),
        ("127.0.0.1:6432", "127.0.0.1:9464", "1:1: admin.address: 127.0.0.1:9464 is taken by listeners[0]"),
        ("name: pg", "name: a+b", "3:11: listeners[0].name: must be a name of 1 to 63 characters without blanks, quotes and any of + % : / \\ $"),
        ("tls: {mode: disable}\ntargets", "tls: {mode: disable}\n    proxy_protocol_from: [10.0.0.1/8]\ntargets", "7:27: listeners[0].proxy_protocol_from[0]: must be a network such as 10.0.0.0/8 (no host bits set) or an address"),
        ("host: 127.0.0.1", "host: 127.0.0.1\n    port: '5432'", "10:11: targets[0].port: must be a whole number"),
        ("host: 127.0.0.1", "host: 127.0.0.1\n    port: 70000", "10:11: targets[0].port: must be at most 65535"),
        ("host: 127.0.0.1", "host: 127.0.0.1\n    port: 0", "10:11: targets[0].port: must be at least 1"),
        ("host: 127.0.0.1", "host: 127.0.0.1\n    allow_replication: yes", "10:24: targets[0].allow_replication: must be true or false"),
        ("host: 127.0.0.1", "host: ''", "9:11: targets[0].host: must not be empty"),
        ('"${file:secret}"', "hunter2", "12:42: targets[0].accounts[0].password: a secret must not be written here: put it elsewhere and refer to it with ${env:NAME} or ${file:/path}"),
        (', password: "${file:secret}"', "", f"12:9: targets[0].accounts[0].password: {NEEDS_ACCOUNT}"),
        ('"${file:secret}"', "'${file:none}'", "12:42: warning: targets[0].accounts[0].password: nobody can log in with the account \"app\" of \"shop\" now: ${file:none}: No such file or directory"),
        ('"${file:secret}"', "'${env:DBPROXY_NOT_SET}'", "12:42: warning: targets[0].accounts[0].password: nobody can log in with the account \"app\" of \"shop\" now: ${env:DBPROXY_NOT_SET}: environment variable is not set or empty"),
        ("default_account: app", "default_account: ap", "13:22: targets[0].default_account: there is no account 'ap' (did you mean 'app'?)"),
        ("default_account: app", "accept_auth: [scram-sha-256, password]", "13:18: targets[0].accept_auth: password sends passwords in clear; it needs tls.mode require or stronger"),
        ("default_account: app", "accept_auth: [scram-sha-256-plus]", "13:18: targets[0].accept_auth: scram-sha-256-plus alone needs tls.mode require or stronger"),
        ("default_account: app", "accept_auth: [cert]", "13:18: targets[0].accept_auth: cert needs tls.certificate and tls.key"),
        ("default_account: app", "accept_auth: []", "13:18: targets[0].accept_auth: must have at least 1 entry"),
        ("default_account: app", "accept_auth: [scram]", "13:19: targets[0].accept_auth[0]: unknown value 'scram'; expected 'scram-sha-256-plus', 'scram-sha-256', 'md5', 'password', 'trust', 'cert', 'caching_sha2_password', 'client_ed25519', 'sha256_password' or 'mysql_native_password'"),
        ("audit: {directory: audit}", "audit: {}", "15:8: audit.directory: this key is required"),
        ("audit: {directory: audit}", "audit: {directory: audit, parameters: of}", "15:39: audit.parameters: unknown value 'of'; expected 'digest', 'values' or 'off' (did you mean 'off'?)"),
        ("audit: {directory: audit}", "audit: {directory: audit, durability: sometimes}", "15:39: audit.durability: unknown value 'sometimes'; expected 'tiered', 'durable' or 'written'"),
        ("audit: {directory: audit}", "audit: {directory: audit}\nlimit: {}", "16:1: limit: unknown key (did you mean 'limits'?)"),
        ("audit: {directory: audit}", "audit: {directory: audit}\nlimits: {max_statement_bytes: 100000000}", "16:31: limits.max_statement_bytes: must not be more than max_message_bytes"),
        ("audit: {directory: audit}", "audit: {directory: audit}\nlimits: {held_max_bytes: 100000000}", "16:26: limits.held_max_bytes: must not be more than max_message_bytes"),
        ("audit: {directory: audit}", "audit: {directory: audit}\ntimeouts: {login_s: 0}", "16:21: timeouts.login_s: must be more than 0"),
        ("audit: {directory: audit}", "audit: {directory: audit}\ntimeouts: {login_s: null}", "16:21: timeouts.login_s: must be a number"),
        ("audit: {directory: audit}", "audit: {directory: audit}\nadmin: {address: '0.0.0.0:9464'}", "16:18: warning: admin.address: metrics and health have no log-in; keep them on a private address"),
        ("audit: {directory: audit}", "audit: {directory: audit}\npolicies: {files: []}", "16:19: policies.files: must have at least 1 entry"),
        ("audit: {directory: audit}", "audit: {directory: audit}\npolicies: {files: ['builtin:defualt']}", "16:20: policies.files[0]: no such shipped policy; there are: builtin:default, builtin:observe"),
        ("audit: {directory: audit}", "audit: {directory: audit}\npolicies: {files: ['builtin:../example']}", "16:20: policies.files[0]: no such shipped policy; there are: builtin:default, builtin:observe"),
        ("directory: audit}", "directory: audit, anchors: [{file: a, http: 'https://a'}]}", "15:44: audit.anchors[0].file: an anchor needs exactly one of file, syslog and http"),
        ("directory: audit}", "directory: audit, anchors: [{}]}", "15:37: audit.anchors[0].file: an anchor needs exactly one of file, syslog and http"),
        ("directory: audit}", "directory: audit, anchors: [{file: audit/x}]}", "15:44: audit.anchors[0].file: an anchor must be outside of audit.directory"),
        ("directory: audit}", "directory: audit, anchors: [{syslog: localhost}]}", "15:46: audit.anchors[0].syslog: must be unix:/dev/log, udp:HOST:PORT or tcp:HOST:PORT"),
        ("directory: audit}", "directory: audit, anchors: [{http: 'ftp://x'}]}", "15:44: audit.anchors[0].http: must be a URL such as https://anchors.example/dbproxy, without user and password"),
        ("directory: audit}", "directory: audit, anchors: [{http: 'http://x', token: '${file:secret}'}]}", "15:63: audit.anchors[0].token: a token is sent over https only"),
        ("directory: audit}", "directory: audit, anchors: [{file: a, token: '${file:secret}'}]}", "15:37: audit.anchors[0].http: token and ca go with http only"),
        ("directory: audit}", "directory: audit, retention: {max_bytes: 10}}", "15:50: audit.retention.max_bytes: must be at least 1048576"),
        ("audit: {directory: audit}", "audit: audit", "15:8: audit: must be a mapping of keys to values"),
        ("users: {auth: local, file: users.yaml}", "users: {auth: local}", "14:8: users.file: auth local needs a users file; `dbproxy init` writes one"),
        ("users: {auth: local, file: users.yaml}", "users: {file: nobody.yaml}", "14:15: users.file: nobody.yaml: cannot be read: No such file or directory"),
        ("users: {auth: local, file: users.yaml}", "users: {auth: upstream}", "6:17: listeners[0].tls.mode: users.auth upstream needs mode require: passwords pass through the proxy in clear inside TLS"),
        ("target: shop\n", "target: shop\n    mysql_native_password: true\n", "6:28: listeners[0].mysql_native_password: only for listeners with protocol mysql or mariadb"),
        ("targets:", "targets: []\nx:", "7:10: targets: must have at least 1 entry|8:1: x: unknown key"),
    ],
)  # fmt: skip
def test_each_mistake_is_reported_at_its_place(tmp_path: Path, old: str, new: str, expected: str) -> None:
    assert problems_of(tmp_path, (old, new)) == [f"dbproxy.yaml:{each}" for each in expected.split("|")]


def test_all_mistakes_are_reported_at_once(tmp_path: Path) -> None:
    found = problems_of(
        tmp_path,
        ("target: shop", "target: shp\n    bogus: 1"),
        ("host: 127.0.0.1", "host: 127.0.0.1\n    port: x"),
        ("default_account: app", "default_account: ap"),
        ("audit: {directory: audit}", "audit: {directory: audit, parameters: on}\naudits: {}"),
    )
    assert [line.split(": ", 2)[:2] for line in found] == [
        ["dbproxy.yaml:5:13", "listeners[0].target"],
        ["dbproxy.yaml:6:5", "listeners[0].bogus"],
        ["dbproxy.yaml:11:11", "targets[0].port"],
        ["dbproxy.yaml:15:22", "targets[0].default_account"],
        ["dbproxy.yaml:17:39", "audit.parameters"],
        ["dbproxy.yaml:18:1", "audits"],
    ]


def test_names_are_unique_and_addresses_do_not_overlap(tmp_path: Path) -> None:
    second = '  - {name: pg, address: "0.0.0.0:6432", target: shop, tls: {mode: disable}}\ntargets'
    found = problems_of(
        tmp_path,
        ("targets", second),
        ("    default_account", '      - {name: app, user: b, password: "${file:secret}"}\n    default_account'),
    )
    assert found == [
        "dbproxy.yaml:7:12: listeners[1].name: 'pg' is already the name of [0]",
        "dbproxy.yaml:7:25: listeners[1].address: 0.0.0.0:6432 is taken by listeners[0]",
        "dbproxy.yaml:7:67: warning: listeners[1].tls.mode: without TLS everyone on the network path can read statements and results",
        "dbproxy.yaml:14:16: targets[0].accounts[1].name: 'app' is already the name of [0]",
    ]


def test_certificates_must_be_there_and_fit(tmp_path: Path) -> None:
    write(tmp_path / "c.pem", "no certificate")
    write(tmp_path / "k.pem", "no key", 0o644)
    old = "tls: {mode: disable}\ntargets"
    assert problems_of(tmp_path, (old, "tls: {certificate: none.pem, key: k.pem}\ntargets")) == [
        "dbproxy.yaml:6:24: listeners[0].tls.certificate: none.pem cannot be read: No such file or directory",
        "dbproxy.yaml:6:39: listeners[0].tls.key: everyone may read or change k.pem; run chmod o=",
    ]
    (tmp_path / "k.pem").chmod(0o640)
    assert problems_of(tmp_path, (old, "tls: {certificate: c.pem, key: k.pem}\ntargets")) == [
        "dbproxy.yaml:6:24: listeners[0].tls.certificate: certificate and key are not a valid PEM pair without passphrase"
    ]
    target_tls = "tls: {mode: disable}\n    accounts"
    assert problems_of(tmp_path, (target_tls, "tls: {ca: c.pem, certificate: c.pem}\n    accounts")) == [
        "dbproxy.yaml:10:10: targets[0].tls.key: certificate and key go together",
        "dbproxy.yaml:10:15: targets[0].tls.ca: c.pem holds no certificate in PEM form",
    ]


def test_a_secret_is_never_repeated(tmp_path: Path) -> None:
    said = "\n".join(
        problems_of(tmp_path, ('"${file:secret}"', "canary-5bf0"))
        + problems_of(tmp_path, ('"${file:secret}"', "{a: canary-5bf0}"))
    )
    assert "password" in said
    assert "canary-5bf0" not in said
    settings = load_settings(good_directory(tmp_path))
    write(tmp_path / "secret", "canary-5bf0")
    assert settings.targets[0].accounts[0].password is not None
    assert settings.targets[0].accounts[0].password.resolve() == b"canary-5bf0"
    assert "canary-5bf0" not in repr(settings) + settings.model_dump_json() + str(
        settings.targets[0].accounts[0].password
    )


PEOPLE = "version: 1\npeople:\n"


@pytest.mark.parametrize(
    ("people", "expected"),
    [
        ("  - {name: a}\n  - {name: a}", ["users.yaml:4:12: people[1].name: 'a' is already the name of [0]"]),
        ("  - {name: a b}", ["users.yaml:3:12: people[0].name: must be a name of 1 to 63 characters without blanks, quotes and any of + % : / \\ $"]),
        ("  - {name: alice}\n  - {name: Alice}", ["users.yaml:3:12: warning: people[0].name: differs from another name only in case", "users.yaml:4:12: warning: people[1].name: differs from another name only in case"]),
        ("  - {name: a, verifier: secret}", ["users.yaml:3:25: people[0].verifier: must be SCRAM-SHA-256$iterations:salt$stored:server; set it with `dbproxy user passwd`"]),
        (f"  - {{name: a, verifier: '{VERIFIER.replace('4096', '1')}'}}", ["users.yaml:3:25: people[0].verifier: the iteration count must be between 4096 and 100000"]),
        ("  - {name: a, expires: tomorrow}", ["users.yaml:3:24: people[0].expires: must be a date or time such as 2030-01-31 or 2030-01-31T18:00:00+01:00"]),
        ("  - {name: a, disabled: maybe}", ["users.yaml:3:25: people[0].disabled: must be true or false"]),
        ("  - {name: a, group: x}", ["users.yaml:3:15: people[0].group: unknown key (did you mean 'groups'?)"]),
        ("  - {name: a, accounts: {shop: app}}", ["users.yaml:3:32: people[0].accounts.shop: must be a list"]),
        ("  - {name: a, accounts: {shop: [app]}, default_account: ap}", ["users.yaml:3:57: people[0].default_account: 'ap' is not among the person's accounts (did you mean 'app'?)"]),
    ],
)  # fmt: skip
def test_each_mistake_in_the_users_file_is_reported_at_its_place(
    tmp_path: Path, people: str, expected: list[str]
) -> None:
    path = write(tmp_path / "users.yaml", PEOPLE + people)
    assert [str(problem).replace(f"{tmp_path}/", "") for problem in check_users_file(path).problems] == expected


def test_the_users_file_is_held_against_the_settings(tmp_path: Path) -> None:
    people = f"  - {{name: a, verifier: '{VERIFIER}', accounts: {{shpo: [app], shop: [app, apq]}}}}\n  - {{name: b}}\n"
    found = check_settings(good_directory(tmp_path, users=PEOPLE + people)).problems
    assert [str(problem).replace(f"{tmp_path}/", "") for problem in found] == [
        "users.yaml:3:161: warning: people[0].accounts.shpo: there is no target 'shpo' (did you mean 'shop'?)",
        "users.yaml:3:186: warning: people[0].accounts.shop[1]: target 'shop' has no account 'apq' (did you mean 'app'?)",
        "users.yaml:4:12: warning: people[1].name: has no verifier and cannot log in; run `dbproxy user passwd b`",
    ]


def test_a_bad_users_file_makes_the_settings_unusable(tmp_path: Path) -> None:
    path = good_directory(tmp_path, users=PEOPLE + "  - {nam: a}\n")
    with pytest.raises(ConfigError, match=r"users.yaml:3:6: people\[0\].nam: unknown key"):
        load_settings(path)


def test_users_are_written_whole_private_and_in_order(tmp_path: Path) -> None:
    path = write(tmp_path / "users.yaml", PEOPLE)
    users = Users(
        people=tuple(Person(name=name, verifier=VERIFIER, groups=("on", "1e5")) for name in ("zoe", "off", "007"))
    )
    save_users(path, users)
    assert load_users(path) == users
    assert path.stat().st_mode & 0o777 == 0o600
    assert [person.name for person in load_users(path).people] == ["zoe", "off", "007"]
    assert sorted(each.name for each in tmp_path.iterdir()) == ["users.yaml"]
    assert VERIFIER not in repr(users)


def test_writing_users_through_a_link_keeps_the_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    path = write(tmp_path / "real" / "users.yaml", PEOPLE)
    link = tmp_path / "users.yaml"
    link.symlink_to(path)
    save_users(link, Users(people=(Person(name="a"),)))
    assert link.is_symlink()
    assert load_users(link).person("a") is not None
    assert load_users(link).person("b") is None


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
def test_the_owner_of_the_users_file_stays(tmp_path: Path) -> None:
    path = write(tmp_path / "users.yaml", PEOPLE)
    os.chown(path, 12345, 23456)
    save_users(path, Users())
    assert (path.stat().st_uid, path.stat().st_gid) == (12345, 23456)


@pytest.mark.parametrize(
    ("person", "asked", "expected"),
    [
        ({}, None, "app"),
        ({}, "app", "app"),
        ({}, "admin", None),
        ({"accounts": {}}, None, None),
        ({"accounts": {"shop": ("admin",)}}, None, "admin"),
        ({"accounts": {"shop": ("admin", "app")}}, None, "app"),
        ({"accounts": {"shop": ("admin", "ro")}}, None, None),
        ({"accounts": {"shop": ("admin", "ro")}, "default_account": "ro"}, None, "ro"),
        ({"accounts": {"shop": ("admin", "ro")}}, "admin", "admin"),
        ({"accounts": {"shop": ("admin", "ro")}}, "app", None),
        ({"accounts": {"other": ("app",)}}, None, None),
    ],
)
def test_the_account_of_a_person(person: dict[str, object], asked: str | None, expected: str | None) -> None:
    assert Person.model_validate({"name": "a", **person}).account_for("shop", "app", asked) == expected


def test_without_a_default_account_people_without_a_list_get_none() -> None:
    assert Person(name="a").account_for("shop", None, None) is None
