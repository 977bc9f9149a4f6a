"""From an Authorization to what the server's leg of a login needs: role, credential and what to accept from the server."""

from __future__ import annotations

from config.secret import SecretError
from config.settings import Target
from dbproxy.identity.authorization import Authorization
from protocol.contract import Refusal, Why
from protocol.login import LoginRefused, ServerAccess
from protocol.scram import MIN_ITERATIONS

NO_CREDENTIAL = "credential_unavailable"


def server_access(authorization: Authorization, target: Target) -> ServerAccess:
    """Read the credential now, so that a rotated one is used by the next login. Raises LoginRefused if it cannot be read."""
    password = authorization.password
    if authorization.account is not None:
        account = next((account for account in target.accounts if account.name == authorization.account), None)
        try:
            password = account.password.resolve() if account is not None and account.password is not None else None
        except SecretError as error:
            text = f'the proxy could not log in to the database with the account "{authorization.account}"'
            refusal = Refusal(Why.SERVER_LOST, text, hint="Ask the operator of the proxy.")
            raise LoginRefused(refusal, str(error), NO_CREDENTIAL) from error
    return ServerAccess(
        user=authorization.server_user,
        database=authorization.database,
        tls=target.tls.mode.value,
        allowed=frozenset(method.value for method in target.accept_auth),
        max_scram_iterations=target.max_scram_iterations,
        password=password,
        min_scram_iterations=MIN_ITERATIONS,
        is_personal=authorization.is_personal,
    )
