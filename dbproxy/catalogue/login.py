"""How the proxy logs in as a target's monitor account."""

from __future__ import annotations

import ssl

from config.secret import SecretError
from config.settings import Target, TargetTLSMode
from dbproxy.catalogue.postgres import CatalogueError, Login


def monitor_login(target: Target, database: str, context: ssl.SSLContext | None) -> Login:
    """context: of the target's TLS settings. Raises CatalogueError if the target has no monitor account, or its password cannot be had."""
    account = next((each for each in target.accounts if each.name == target.monitor), None)
    if account is None:
        raise CatalogueError(f"target {target.name} has no monitor account; set targets[].monitor")
    try:
        password = account.password.resolve().decode() if account.password is not None else None
    except (SecretError, UnicodeDecodeError) as error:
        raise CatalogueError(f"the password of account {account.name}: {error}") from None
    how: ssl.SSLContext | str | bool = False if context is None else context
    if target.tls.mode is TargetTLSMode.PREFER:
        how = "prefer"
    return Login(target.host, target.port, account.user, password, database, how)
