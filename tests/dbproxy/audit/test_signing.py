"""Key files: made with care, refused when others may read them, never written over."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from support.requirements import go_without

from dbproxy.audit.signing import (
    KeyUnusable,
    SigningKey,
    load_public_key,
    load_signing_key,
    public_path,
    save_signing_key,
)


def test_a_key_comes_back_from_its_files(tmp_path: Path) -> None:
    key = SigningKey.generate()
    save_signing_key(key, tmp_path / "signing.key")
    assert (tmp_path / "signing.key").stat().st_mode & 0o777 == 0o600
    loaded = load_signing_key(tmp_path / "signing.key")
    public = load_public_key(public_path(tmp_path / "signing.key"))
    assert loaded.id == public.id == key.id
    assert public.has_signed(b"text", loaded.sign(b"text"))
    assert not public.has_signed(b"texu", loaded.sign(b"text"))
    assert not SigningKey.generate().public.has_signed(b"text", loaded.sign(b"text"))


def test_the_id_is_made_from_the_raw_public_key(tmp_path: Path) -> None:
    key = SigningKey.generate()
    save_signing_key(key, tmp_path / "k")
    openssl = shutil.which("openssl")
    if openssl is None:
        go_without("the program openssl is missing")
    der = subprocess.run(
        [openssl, "pkey", "-pubin", "-in", tmp_path / "k.pub", "-outform", "DER"], capture_output=True, check=True
    ).stdout
    assert der[-32:] == key.public.raw


def test_a_key_is_never_written_over(tmp_path: Path) -> None:
    save_signing_key(SigningKey.generate(), tmp_path / "k")
    before = (tmp_path / "k").read_bytes()
    with pytest.raises(FileExistsError):
        save_signing_key(SigningKey.generate(), tmp_path / "k")
    assert (tmp_path / "k").read_bytes() == before


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o666])
def test_a_key_that_others_may_read_or_change_is_refused(tmp_path: Path, mode: int) -> None:
    save_signing_key(SigningKey.generate(), tmp_path / "k")
    (tmp_path / "k").chmod(mode)
    with pytest.raises(KeyUnusable, match="chmod 600"):
        load_signing_key(tmp_path / "k")


def test_other_files_are_no_keys(tmp_path: Path) -> None:
    rsa = generate_private_key(65537, 2048).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    for data in (b"", b"junk", rsa):
        path = tmp_path / "k"
        path.write_bytes(data)
        path.chmod(0o600)
        with pytest.raises(KeyUnusable):
            load_signing_key(path)
        with pytest.raises(KeyUnusable):
            load_public_key(path)
    with pytest.raises(FileNotFoundError):
        load_signing_key(tmp_path / "missing")
    with pytest.raises(KeyUnusable):
        load_public_key(tmp_path / "missing")
    with pytest.raises(KeyUnusable, match="not a regular file"):
        load_signing_key(Path("/dev/null"))


def test_a_private_key_is_not_taken_for_a_public_one(tmp_path: Path) -> None:
    save_signing_key(SigningKey.generate(), tmp_path / "k")
    with pytest.raises(KeyUnusable, match=r"private key; give k\.pub"):
        load_public_key(tmp_path / "k")


def test_a_key_never_shows_its_secret() -> None:
    key = SigningKey.generate()
    assert repr(key) == f"SigningKey({key.id})"
