"""From settings to what prover.py is given: key file, anchors, where the note of the last checkpoint stands."""

from __future__ import annotations

from pathlib import Path

from config.settings import Settings
from dbproxy.audit.anchor import Anchor, FileAnchor, HttpAnchor, SyslogAnchor
from dbproxy.errors import StartError


def signing_key_path(settings: Settings) -> Path:
    return settings.audit.signing.key or settings.state.directory / "signing.key"


def high_water_path(settings: Settings) -> Path:
    return settings.state.directory / "audit-checkpoint.json"


def build_anchors(settings: Settings) -> list[Anchor]:
    """In the order of the settings. Raises StartError."""
    anchors: list[Anchor] = []
    for each in settings.audit.anchors:
        if each.file is not None:
            anchors.append(FileAnchor(each.file))
        elif each.syslog is not None:
            anchors.append(SyslogAnchor(each.syslog))
        elif each.http is not None:
            token = each.token
            try:
                anchors.append(HttpAnchor(each.http, read_token=token.resolve if token else None, ca=each.ca))
            except OSError as error:
                raise StartError(f"audit.anchors: {each.ca}: {error}") from error
    return anchors
