"""The parts of the container quickstart that run without containers."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest
import yaml
from support.servers import PostgresServer, find_program

PASSWORD = "it's a \"pass\\word"


@pytest.mark.skipif(os.geteuid() != 0, reason="hands files over to other accounts, as root in the container does")
def test_quickstart_makes_secrets_once_and_for_one_reader_each(tmp_path: Path, project_root: Path) -> None:
    folders = [tmp_path / name for name in ("postgres", "proxy", "state")]
    for folder in folders:
        folder.mkdir()
    command = [sys.executable, project_root / "docker" / "quickstart.py", *folders]
    environment = {**os.environ, "PYTHONPATH": str(project_root)}
    subprocess.run(command, check=True, capture_output=True, env=environment, timeout=60)
    first = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    again = subprocess.run(command, check=True, capture_output=True, env=environment, timeout=60)
    assert again.stdout == b""
    assert {path: path.read_bytes() for path in first} == first
    assert all(path.stat().st_mode & 0o077 == 0 for path in first if path.suffix != ".crt")
    assert (folders[0] / "shop_app").read_text() == (folders[1] / "shop_app").read_text()
    assert (folders[0] / "shop_app").stat().st_uid == 999
    assert (folders[1] / "shop_app").stat().st_uid == 10001


def test_shop_script_makes_the_shop_and_the_proxys_account(
    postgres: PostgresServer, tmp_path: Path, project_root: Path
) -> None:
    (tmp_path / "shop_app").write_text(PASSWORD)
    postgres.execute("drop database if exists quickstart", "create database quickstart")
    environment = {
        **postgres.environment("quickstart", postgres.superuser),
        "PATH": f"{find_program('psql').parent}:/usr/bin:/bin",
        "POSTGRES_USER": postgres.superuser,
        "POSTGRES_DB": "quickstart",
        "SECRETS": str(tmp_path),
    }
    try:
        subprocess.run(
            [project_root / "docker" / "shop.sh"], check=True, capture_output=True, env=environment, timeout=60
        )
        with contextlib.closing(
            psycopg.connect(
                host=postgres.host, port=postgres.port, dbname="quickstart", user="shop_app", password=PASSWORD
            )
        ) as connection:
            assert connection.execute(
                "select count(*) from customers join orders on customers.id = customer_id"
            ).fetchone() == (1000,)
    finally:
        postgres.execute("drop database quickstart with (force)", "drop role if exists shop_app")


def test_compose_file_keeps_the_database_private_and_the_proxy_confined(project_root: Path) -> None:
    services = yaml.safe_load((project_root / "docker" / "compose.yaml").read_text())["services"]
    assert "ports" not in services["postgres"]
    assert services["postgres"]["networks"] == ["database"]
    assert services["dbproxy"]["ports"] == ["127.0.0.1:6432:6432"]
    assert services["dbproxy"]["read_only"] is True
    assert services["dbproxy"]["cap_drop"] == ["ALL"]
