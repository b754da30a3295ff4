"""The client of the control plane: the backend that keeps tasks, messages and documents, and runs tools.

Every control plane is called through this client, including the embedded one. `control_plane()` is the configured one.
"""

from __future__ import annotations

import asyncio
from functools import lru_cache

from django.conf import settings
from yarl import URL

from clasper.gateways.control_plane.capabilities import Capabilities, Compatibility, check_capabilities
from clasper.gateways.control_plane.client import ControlPlane
from clasper.gateways.control_plane.tokens import TokenMinter, mint_agent_token
from clasper.gateways.control_plane.tools import Tool, ToolOutcome
from clasper.gateways.control_plane.transport import Caller
from clasper.gateways.ssrf import Allowlist, allowlist, check_url, guarded_session, is_listed

__all__ = [
    "Caller",
    "Capabilities",
    "Compatibility",
    "ControlPlane",
    "TokenMinter",
    "Tool",
    "ToolOutcome",
    "backend_url",
    "check_compatibility",
    "control_plane",
    "mint_agent_token",
]

COMPATIBILITY_SECONDS = 5.0
_SYSTEM = Caller(user_id="clasper", agent_role="system", tenant_id="clasper")


def backend_url() -> str:
    """Where the control plane is: `BACKEND_URL`, or this very server with its embedded one."""
    return str(settings.BACKEND_URL or f"http://127.0.0.1:{settings.CLASPER_PORT}").rstrip("/")


def control_plane() -> ControlPlane:
    """The configured control plane; one client, with its caches, for as long as the settings stay the same."""
    return _client(backend_url(), settings.AGENT_JWT_SECRET, settings.AGENT_JWT_ALGORITHM)


@lru_cache(maxsize=8)
def _client(url: str, secret: str, algorithm: str) -> ControlPlane:
    return ControlPlane(url, TokenMinter(secret=secret, algorithm=algorithm))


async def check_compatibility(url: str | None = None, *, allowed: Allowlist | None = None) -> Compatibility:
    """Whether Clasper can work with the control plane at `url`, or with the configured one.

    Any other URL is fetched with SSRF protection, and gets no agent token unless the operator listed its host: whoever
    named the address would receive the token. Raises UrlRefused for a URL that must not be fetched, and Unavailable
    when no agent secret is configured.
    """
    deadline = asyncio.get_running_loop().time() + COMPATIBILITY_SECONDS
    if url is None or url.rstrip("/") == backend_url():
        return check_capabilities(await control_plane().capabilities(_SYSTEM, deadline=deadline))
    permitted = allowlist() if allowed is None else allowed
    check_url(url, permitted)
    tokens = TokenMinter(secret=settings.AGENT_JWT_SECRET, algorithm=settings.AGENT_JWT_ALGORITHM)
    async with guarded_session(permitted, timeout=COMPATIBILITY_SECONDS) as session:
        base = str(URL(url).with_query(None).with_fragment(None))
        foreign = ControlPlane(base, tokens if is_listed(url, permitted) else None, session=lambda: session)
        return check_capabilities(await foreign.capabilities(_SYSTEM, deadline=deadline))
