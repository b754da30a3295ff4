"""Session keys: whom a run is for and in which role the agent acts."""

from __future__ import annotations

import re
from dataclasses import dataclass

from apps.workspaces.domain.workspace import is_role

MAX_USER_ID_CHARS = 128

_FORBIDDEN = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class SessionKey:
    """The parts of a session key."""

    user_id: str
    role: str


def parse_session_key(text: str) -> SessionKey:
    """The parts of `user:{userId}:{role}`. A user id may contain colons; the role is what follows the last one.

    Raises ValueError that names the expected format.
    """
    kind, _, rest = text.partition(":")
    user_id, _, role = rest.rpartition(":")
    if kind != "user" or not user_id.strip():
        raise ValueError("session_key must have the format user:{userId}:{role}")
    if len(user_id) > MAX_USER_ID_CHARS or _FORBIDDEN.search(user_id):
        raise ValueError(
            f"session_key must have the format user:{{userId}}:{{role}} with a userId of at most {MAX_USER_ID_CHARS} "
            "characters and no control characters"
        )
    if not is_role(role):
        raise ValueError(
            "session_key must have the format user:{userId}:{role} with a role of 1 to 64 letters, digits, _ or -"
        )
    return SessionKey(user_id, role)
