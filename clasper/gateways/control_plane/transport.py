"""One HTTP call to a control plane: headers, deadline, retries and size limit, and nothing about what is said."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import quote

import aiohttp
from yarl import URL

from clasper.core.errors import BackendFailed
from clasper.gateways.control_plane.tokens import TokenMinter
from clasper.gateways.http import is_retryable, read_body, retry_after

logger = logging.getLogger("clasper.control_plane")

ATTEMPTS = 3
ATTEMPT_SECONDS = 30.0
MAX_RESPONSE_BYTES = 5 * 1024 * 1024
FIRST_PAUSE = 0.2
LONGEST_PAUSE = 5.0

_NOT_PROCESSED = frozenset({408, 425, 429, 503})
"""Statuses which say that the request was turned away before anything happened."""
_NO_TIMER = aiohttp.ClientTimeout(total=None)
"""The deadline here already covers the whole exchange; a second timer would only cost."""
_UNAUTHORISED = frozenset({401, 403})


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """For whom a call is made; `trace_id` names the run."""

    user_id: str
    agent_role: str
    tenant_id: str
    workspace_id: str = "default"
    trace_id: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back. `wait` is the pause the backend asks for, in seconds; `too_large` means that the body was over
    the limit and is not here."""

    status: int
    body: bytes
    wait: float = 0.0
    too_large: bool = False

    @property
    def ok(self) -> bool:
        return 200 <= self.status < 300

    def may_repeat(self, *, replayable: bool) -> bool:
        return self.status in _NOT_PROCESSED or (replayable and is_retryable(self.status))


class NoAnswer(Exception):
    """Nothing usable came back. `connected` is False when the request surely never reached the backend."""

    wait = 0.0

    def __init__(self, *, connected: bool, timed_out: bool = False) -> None:
        self.connected = connected
        self.timed_out = timed_out
        super().__init__("no answer")

    def may_repeat(self, *, replayable: bool) -> bool:
        return replayable or not self.connected


class Transport:
    """Sends requests to one base URL. The tokens are left out for addresses that must not see one."""

    def __init__(
        self,
        base_url: str,
        *,
        tokens: TokenMinter | None,
        session: Callable[[], aiohttp.ClientSession],
        first_pause: float = FIRST_PAUSE,
    ) -> None:
        self._base = base_url.rstrip("/")
        self._tokens = tokens
        self._session = session
        self._first_pause = first_pause
        self._warned: set[str] = set()
        self._url = lru_cache(maxsize=1024)(self._build_url)

    async def call(
        self,
        operation: str,
        method: str,
        path: str,
        *,
        caller: Caller | None,
        deadline: float,
        body: bytes | None = None,
        scoped: bool = False,
        replayable: bool = True,
        attempts: int = ATTEMPTS,
        max_bytes: int = MAX_RESPONSE_BYTES,
    ) -> Answer:
        """The last answer of up to `attempts` tries before `deadline` (seconds of the loop's clock).

        Only what may succeed later is tried again; with `replayable` off, only what surely did not happen. `scoped`
        names tenant and workspace in headers too, as tools want it. Raises NoAnswer when the last try brought none.
        """
        headers = self._headers(caller, body, scoped=scoped)
        loop = asyncio.get_running_loop()
        attempt = 1
        while True:
            ends = min(deadline, loop.time() + ATTEMPT_SECONDS)
            outcome = await self._try(operation, method, path, headers, body, ends, max_bytes)
            if attempt >= attempts or not outcome.may_repeat(replayable=replayable):
                break
            pause = max(self._pause(attempt), outcome.wait)
            if loop.time() + pause >= deadline:
                break
            attempt += 1
            await asyncio.sleep(pause)
        if isinstance(outcome, NoAnswer):
            raise outcome
        return outcome

    async def _try(
        self,
        operation: str,
        method: str,
        path: str,
        headers: Mapping[str, str],
        body: bytes | None,
        ends: float,
        max_bytes: int,
    ) -> Answer | NoAnswer:
        try:
            async with (
                asyncio.timeout_at(ends),
                self._session().request(
                    method, self._url(path), data=body, headers=headers, allow_redirects=False, timeout=_NO_TIMER
                ) as response,
            ):
                if "Warning" in response.headers:
                    self._warn_once(operation, response.headers["Warning"])
                content = await read_body(response, max_bytes)
        except aiohttp.ClientConnectorError:
            return NoAnswer(connected=False)
        except TimeoutError:
            return NoAnswer(connected=True, timed_out=True)
        except (aiohttp.ClientError, OSError):
            return NoAnswer(connected=True)
        wait = retry_after(response.headers) if is_retryable(response.status) else None
        return Answer(response.status, content or b"", wait or 0.0, too_large=content is None)

    def _headers(self, caller: Caller | None, body: bytes | None, *, scoped: bool) -> dict[str, str]:
        headers: dict[str, str] = {}
        if body is not None:
            headers["Content-Type"] = "application/json"
        if caller is None:
            return headers
        if caller.trace_id:
            headers["X-Trace-ID"] = _header(caller.trace_id)
        if scoped:
            headers["X-Tenant-ID"] = _header(caller.tenant_id)
            headers["X-Workspace-ID"] = _header(caller.workspace_id)
        if self._tokens is not None:
            headers["X-Agent-Token"] = self._tokens.token(
                user_id=caller.user_id, agent_role=caller.agent_role, tenant_id=caller.tenant_id
            )
        return headers

    def _build_url(self, path: str) -> URL:
        return URL(self._base + path, encoded=True)

    def _pause(self, attempt: int) -> float:
        longest: float = min(self._first_pause * 2 ** (attempt - 1), LONGEST_PAUSE)
        return longest * (0.5 + secrets.randbelow(1000) / 2000)

    def _warn_once(self, operation: str, warning: str) -> None:
        if operation not in self._warned:
            self._warned.add(operation)
            logger.warning("the control plane warns about %s: %.200s", operation, warning)


def failed(operation: str, status: int = 0, reason: str = "") -> BackendFailed:
    """The error of an operation; `status` is the backend's, 0 when there was no usable answer."""
    if not reason:
        reason = f"the backend answered {status}" if status else "the backend gave no usable answer"
        if status in _UNAUTHORISED:
            reason = "the backend refused the agent token"
    return BackendFailed(
        f"The control plane failed to {operation}: {reason}.", details={"operation": operation, "status": status}
    )


def _header(value: str) -> str:
    """A header value: ids come from callers and may hold anything, line breaks included."""
    return value if value.isascii() and value.isprintable() else quote(value, safe=" ")
