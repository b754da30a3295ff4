"""What every gateway reads from HTTP in the same way: waits, retryable statuses, bodies up to a limit."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from aiohttp import web
from multidict import CIMultiDict

from clasper.core.clock import utc_now
from clasper.gateways.http import close_session, is_retryable, read_body, retry_after, session

DAY = 24 * 3600.0


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("", None), ("3", 3.0), (" 12 ", 12.0), ("0", 0.0), ("-3", None), ("1.5", 1.5), ("soon", None), ("²", None),
     ("nan", None), ("inf", None), ("86400", DAY), ("86401", DAY), ("9" * 400, None),
     ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0), ("Wed, 21 Oct 2965 07:28:00 GMT", DAY)],
)  # fmt: skip
def test_retry_after(value: str, seconds: float | None) -> None:
    assert retry_after(CIMultiDict({"retry-after": value})) == seconds


def test_a_date_is_a_wait_from_now() -> None:
    date = utc_now().replace(microsecond=0).strftime("%a, %d %b %Y %H:%M:%S GMT")
    assert retry_after({"Retry-After": date}) == 0.0
    assert retry_after({}) is None


def test_milliseconds_are_more_exact_and_count_first() -> None:
    assert retry_after({"retry-after-ms": "250", "Retry-After": "1"}) == 0.25
    assert retry_after({"retry-after-ms": "1e12"}) == DAY
    assert retry_after({"retry-after-ms": "soon", "Retry-After": "1"}) == 1.0


@pytest.mark.parametrize(
    ("status", "again"),
    [(200, False), (400, False), (408, True), (409, False), (425, True), (429, True), (499, False), (500, True),
     (503, True), (599, True)],
)  # fmt: skip
def test_retryable_statuses(status: int, again: bool) -> None:
    assert is_retryable(status) is again


@pytest.fixture
async def url() -> AsyncIterator[str]:
    """A host that answers with eight bytes in two chunks."""

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for _ in range(2):
            await response.write(b"four")
        return response

    runner = web.ServerRunner(web.Server(answer))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield "http://{}:{}".format(*runner.addresses[0][:2])
    await close_session()
    await runner.cleanup()


@pytest.mark.parametrize(("limit", "body"), [(9, b"fourfour"), (8, b"fourfour"), (7, None), (0, None)])
async def test_a_body_is_read_up_to_a_limit(url: str, limit: int, body: bytes | None) -> None:
    async with session().get(url) as response:
        assert await read_body(response, limit) == body
        assert response.closed is True
