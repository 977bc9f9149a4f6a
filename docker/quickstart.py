"""Make what the quickstart needs and does not have yet: passwords, a certificate, an empty users file.

Run by compose.yaml in the image of the proxy, as root without network, before everything else. It changes nothing
that exists, so it may run at every start. Arguments (for trying it out): the folders for the secrets of PostgreSQL and
of the proxy, and the proxy's state.
"""

from __future__ import annotations

import os
import secrets
import sys
from pathlib import Path

from dbproxy.embedded.certificates import LOCAL_NAMES, CertificateAuthority

POSTGRES_UID = 999
DBPROXY_UID = 10001


def make(path: Path, uid: int, content: str) -> None:
    """Write a file that only uid can read, unless it is there."""
    if path.exists():
        return
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(content)
    os.chown(path, uid, uid)
    print(f"made {path}")


def main(postgres: Path, proxy: Path, state: Path) -> None:
    """Make everything, in folders that exist."""
    os.chown(state, DBPROXY_UID, DBPROXY_UID)
    make(postgres / "superuser", POSTGRES_UID, secrets.token_urlsafe(24))
    make(proxy / "shop_app", DBPROXY_UID, secrets.token_urlsafe(24))
    make(postgres / "shop_app", POSTGRES_UID, (proxy / "shop_app").read_text())
    make(state / "users.yaml", DBPROXY_UID, "version: 1\npeople: []\n")
    tls = state / "tls"
    if not tls.exists():
        tls.mkdir(mode=0o700)
        CertificateAuthority(tls, name="dbproxy quickstart CA").issue("proxy", "localhost", (*LOCAL_NAMES, "dbproxy"))
        for path in (tls, *tls.iterdir()):
            os.chown(path, DBPROXY_UID, DBPROXY_UID)
        print(f"made {tls}/proxy.crt, signed by {tls}/ca.crt")


if __name__ == "__main__":
    folders = sys.argv[1:] or ["/secrets/postgres", "/secrets/dbproxy", "/var/lib/dbproxy"]
    main(*(Path(folder) for folder in folders))
