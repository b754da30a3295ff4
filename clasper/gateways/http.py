"""The one HTTP client session of each event loop, for hosts that the operator has configured.

URLs given by callers (webhooks, compatibility checks) never go through this session: the guard has its own.
Deadlines, sizes and meanings of answers belong to the gateway that makes the request.
"""

from __future__ import annotations

import asyncio
from asyncio import AbstractEventLoop

from aiohttp import ClientSession, ClientTimeout, DummyCookieJar, TCPConnector

from clasper import __version__

CONNECT_SECONDS = 10.0
"""Name resolution, TCP and TLS together; a host that needs longer is down."""

_KEEPALIVE_SECONDS = 30.0
_DEFAULT_DEADLINE_SECONDS = 60.0

_sessions: dict[AbstractEventLoop, ClientSession] = {}


def session() -> ClientSession:
    """The session of the running event loop, opened on first use.

    Whoever owns the loop calls `close_session` before it ends. Raises RuntimeError outside an event loop.
    """
    loop = asyncio.get_running_loop()
    found = _sessions.get(loop)
    if found is None or found.closed:
        _forget_dead_loops()
        found = _sessions[loop] = _open_session()
    return found


async def close_session() -> None:
    """Closes the running loop's session and its connections; without one it does nothing."""
    found = _sessions.pop(asyncio.get_running_loop(), None)
    if found is not None:
        await found.close()


def deadline(seconds: float) -> ClientTimeout:
    """A total deadline for one exchange: connecting, sending, and reading to the end of the answer."""
    # aiohttp would round deadlines from five seconds on up to a whole second.
    return ClientTimeout(total=seconds, connect=CONNECT_SECONDS, ceil_threshold=float("inf"))


def _open_session() -> ClientSession:
    return ClientSession(
        # The engine bounds its own concurrency; a limit here would only queue runs unseen.
        connector=TCPConnector(limit=0, keepalive_timeout=_KEEPALIVE_SECONDS),
        cookie_jar=DummyCookieJar(),
        headers={"User-Agent": f"Clasper/{__version__}"},
        timeout=deadline(_DEFAULT_DEADLINE_SECONDS),
        trust_env=False,
    )


def _forget_dead_loops() -> None:
    # A session refers to its loop, so neither would ever be freed.
    for loop in [loop for loop in _sessions if loop.is_closed()]:
        del _sessions[loop]
