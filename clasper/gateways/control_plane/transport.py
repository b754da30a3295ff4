"""One HTTP call to a control plane: headers, deadline, retries and size limit, but not what requests mean."""

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
"""The deadline here already covers the whole exchange; a second timer would only cost time."""
_UNAUTHORISED = frozenset({401, 403})


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """For whom a call is made; `trace_id` is that of the run."""

    user_id: str
    agent_role: str
    tenant_id: str
    workspace_id: str = "default"
    trace_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One operation of the contract.

    `replayable`: repeating it has no second effect. `scoped` names tenant and workspace in headers too, as tools
    expect.
    """

    operation: str
    method: str
    path: str
    caller: Caller | None
    body: bytes | None = None
    replayable: bool = True
    scoped: bool = False
    attempts: int = ATTEMPTS
    max_bytes: int = MAX_RESPONSE_BYTES


@dataclass(frozen=True, slots=True)
class Response:
    """What the backend answered. `wait` is the pause it asks for, in seconds; `too_large` means that the body exceeded
    the limit and was not kept."""

    status: int
    body: bytes
    wait: float = 0.0
    too_large: bool = False

    @property
    def ok(self) -> bool:
        return 200 <= self.status < 300

    def may_retry(self, *, replayable: bool) -> bool:
        return self.status in _NOT_PROCESSED or (replayable and is_retryable(self.status))


class NoResponse(Exception):
    """Nothing usable came back. `connected` is False when the request certainly never reached the backend."""

    wait = 0.0

    def __init__(self, *, connected: bool, timed_out: bool = False) -> None:
        self.connected = connected
        self.reason = "did not answer in time" if timed_out else "could not be reached"
        super().__init__(self.reason)

    def may_retry(self, *, replayable: bool) -> bool:
        return replayable or not self.connected


class Transport:
    """Sends requests to one base URL. Without `tokens`, for addresses that must not see one, no token is sent."""

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
        self._url = lru_cache(maxsize=1024)(lambda path: URL(self._base + path, encoded=True))

    async def send(self, request: Request, deadline: float) -> Response:
        """The last response of up to `request.attempts` attempts before `deadline` (seconds of the loop's clock).

        Only what may succeed later is tried again; when it is not replayable, only what certainly had no effect. Raises
        NoResponse when the last attempt brought none.
        """
        headers = self._headers(request)
        loop = asyncio.get_running_loop()
        attempt = 1
        while True:
            outcome = await self._attempt(request, headers, min(deadline, loop.time() + ATTEMPT_SECONDS))
            if attempt >= request.attempts or not outcome.may_retry(replayable=request.replayable):
                break
            pause = max(self._pause(attempt), outcome.wait)
            if loop.time() + pause >= deadline:
                break
            attempt += 1
            await asyncio.sleep(pause)
        if isinstance(outcome, NoResponse):
            raise outcome
        return outcome

    async def _attempt(self, request: Request, headers: Mapping[str, str], ends: float) -> Response | NoResponse:
        try:
            async with (
                asyncio.timeout_at(ends),
                self._session().request(
                    request.method,
                    self._url(request.path),
                    data=request.body,
                    headers=headers,
                    allow_redirects=False,
                    timeout=_NO_TIMER,
                ) as response,
            ):
                if "Warning" in response.headers:
                    self._warn_once(request.operation, response.headers["Warning"])
                body = await read_body(response, request.max_bytes)
        except aiohttp.ClientConnectorError:
            return NoResponse(connected=False)
        except TimeoutError:
            return NoResponse(connected=True, timed_out=True)
        except (aiohttp.ClientError, OSError):
            return NoResponse(connected=True)
        wait = retry_after(response.headers) if is_retryable(response.status) else None
        return Response(response.status, body or b"", wait or 0.0, too_large=body is None)

    def _headers(self, request: Request) -> dict[str, str]:
        headers: dict[str, str] = {}
        if request.body is not None:
            headers["Content-Type"] = "application/json"
        caller = request.caller
        if caller is None:
            return headers
        if caller.trace_id:
            headers["X-Trace-ID"] = _header(caller.trace_id)
        if request.scoped:
            headers["X-Tenant-ID"] = _header(caller.tenant_id)
            headers["X-Workspace-ID"] = _header(caller.workspace_id)
        if self._tokens is not None:
            headers["X-Agent-Token"] = self._tokens.token(
                user_id=caller.user_id, agent_role=caller.agent_role, tenant_id=caller.tenant_id
            )
        return headers

    def _pause(self, attempt: int) -> float:
        longest: float = min(self._first_pause * 2 ** (attempt - 1), LONGEST_PAUSE)
        return longest * (0.5 + secrets.randbelow(1000) / 2000)

    def _warn_once(self, operation: str, warning: str) -> None:
        if operation not in self._warned:
            self._warned.add(operation)
            logger.warning("the control plane warns about %s: %.200s", operation, warning)


def backend_failed(operation: str, status: int = 0, reason: str = "") -> BackendFailed:
    """The error of an operation; `status` is the backend's, 0 without a usable response."""
    if not reason:
        reason = f"the backend answered {status}" if status else "the backend returned no usable answer"
        if status in _UNAUTHORISED:
            reason = "the backend refused the agent token"
    return BackendFailed(
        f"The control plane failed to {operation}: {reason}.", details={"operation": operation, "status": status}
    )


def _header(value: str) -> str:
    """A header value: ids come from callers and may contain anything, line breaks included."""
    return value if value.isascii() and value.isprintable() else quote(value, safe=" ")
