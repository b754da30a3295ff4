"""The agent token, which tells a control plane for whom and in which role Clasper calls."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from datetime import datetime, timedelta

import jwt

from clasper.core.clock import utc_now
from clasper.core.errors import Unavailable
from clasper.core.ids import new_id

LIFETIME = timedelta(minutes=10)
REUSE = timedelta(minutes=5)
"""A token is used for half its life: minting one costs more than the rest of a call, and every token that is sent still
has the other half left."""
MAX_TOKENS = 4096
AUDIENCE = "control-plane"


def mint_agent_token(
    *,
    user_id: str,
    agent_role: str,
    tenant_id: str,
    secret: str,
    algorithm: str,
    now: datetime,
    agent_id: str | None = None,
) -> str:
    """A signed JWT of ten minutes: `type`, `user_id`, `agent_role`, `tenant_id`, `sub`, `aud`, `jti`, `iat`, `exp`.

    `aud` is "control-plane", which the embedded control plane checks; other backends may ignore it. Raises Unavailable
    when no secret is configured.
    """
    if not secret:
        raise Unavailable("AGENT_JWT_SECRET is not configured, so the control plane cannot be called.")
    claims = {
        "type": "agent",
        "user_id": user_id,
        "agent_role": agent_role,
        "tenant_id": tenant_id,
        "sub": f"clasper:{agent_role}",
        "aud": AUDIENCE,
        "jti": new_id(),
        "iat": int(now.timestamp()),
        "exp": int((now + LIFETIME).timestamp()),
    }
    if agent_id is not None:
        claims["agent_id"] = agent_id
    return jwt.encode(claims, secret, algorithm=algorithm)


class TokenMinter:
    """Mints a token per user, role and tenant, and returns the same one for up to five minutes."""

    def __init__(self, *, secret: str, algorithm: str, clock: Callable[[], datetime] = utc_now) -> None:
        self._secret = secret
        self._algorithm = algorithm
        self._clock = clock
        self._tokens: OrderedDict[tuple[str, str, str], tuple[str, datetime]] = OrderedDict()

    def token(self, *, user_id: str, agent_role: str, tenant_id: str) -> str:
        """A token with at least five minutes to live. Raises Unavailable when no secret is configured."""
        now = self._clock()
        key = (user_id, agent_role, tenant_id)
        cached = self._tokens.get(key)
        if cached is not None and timedelta(0) <= now - cached[1] < REUSE:
            return cached[0]
        token = mint_agent_token(
            user_id=user_id,
            agent_role=agent_role,
            tenant_id=tenant_id,
            secret=self._secret,
            algorithm=self._algorithm,
            now=now,
        )
        self._tokens[key] = (token, now)
        self._tokens.move_to_end(key)
        if len(self._tokens) > MAX_TOKENS:
            self._tokens.popitem(last=False)
        return token
