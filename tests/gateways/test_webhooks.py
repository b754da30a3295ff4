"""Webhooks: the payload's keys, the signature, which headers travel, and what an answer means for the next attempt."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import datetime

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from clasper.gateways import webhooks
from clasper.gateways.ssrf import allowlist
from clasper.gateways.webhooks import (
    WebhookFailed,
    build_payload,
    deliver,
    encode_payload,
    header_problems,
    sign,
)

HERE = allowlist(["127.0.0.1"])
SECRET = "whsec-of-acme"


@dataclass
class Receiver:
    """A customer's endpoint: answers with `status` and remembers what came."""

    url: str = ""
    status: int = 200
    hang: asyncio.Event | None = None
    seen: list[tuple[dict[str, str], bytes]] = field(default_factory=list)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.seen.append((dict(request.headers), await request.read()))
        if self.hang is not None:
            await self.hang.wait()
        headers = {"Location": "/elsewhere"} if 300 <= self.status < 400 else {}
        return web.Response(status=self.status, headers=headers)


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    found = Receiver()
    application = web.Application()
    application.router.add_post("/{tail:.*}", found.answer)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    found.url = f"http://127.0.0.1:{runner.addresses[0][1]}/callback"
    yield found
    await runner.cleanup()


def payload(now: datetime, **changes: str) -> dict[str, object]:
    return build_payload(
        now=now,
        trace_id="0194c8f0-7e1a-7000-8000-000000000001",
        task_id="task-1",
        user_id="user-1",
        role="assistant",
        response="Done.",
        usage={"total_tokens": 3},
        cost={"totalCost": 0.1},
        **changes,
    )


def test_completed_has_the_contracts_keys(now: datetime) -> None:
    assert payload(now) == {
        "event": "agent.completed",
        "timestamp": "2026-02-10T12:00:00.000Z",
        "trace_id": "0194c8f0-7e1a-7000-8000-000000000001",
        "task_id": "task-1",
        "user_id": "user-1",
        "role": "assistant",
        "response": "Done.",
        "usage": {"total_tokens": 3},
        "cost": {"totalCost": 0.1},
    }


def test_error_says_what_happened_and_nothing_else(now: datetime) -> None:
    found = payload(now, error="The model provider failed.", code="provider_error")
    assert found["event"] == "agent.error"
    assert found["response"] == ""
    assert (found["error"], found["code"]) == ("The model provider failed.", "provider_error")


@given(st.text(), st.binary())
def test_the_signature_is_an_hmac_of_the_bytes(secret: str, body: bytes) -> None:
    secret = secret.encode("utf-8", "replace").decode()
    assert sign(secret, body) == hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()


async def test_a_delivery_carries_body_signature_and_headers(receiver: Receiver, now: datetime) -> None:
    body = encode_payload(payload(now))
    await deliver(
        receiver.url,
        body,
        secret=SECRET,
        headers={"X-Custom-Header": "value", "Authorization": "Bearer theirs"},
        delivery_id="delivery-1",
        now=now,
        allowed=HERE,
    )
    headers, received = receiver.seen[0]
    assert received == body
    assert json.loads(received)["event"] == "agent.completed"
    assert headers["X-Clasper-Signature"] == sign(SECRET, received)
    assert headers["X-Clasper-Delivery"] == "delivery-1"
    assert headers["X-Clasper-Timestamp"] == "2026-02-10T12:00:00.000Z"
    assert headers["User-Agent"] == "Clasper-Webhook/1.0"
    assert headers["Content-Type"] == "application/json"
    assert headers["X-Custom-Header"] == "value"
    assert headers["Authorization"] == "Bearer theirs"


async def test_without_a_secret_nothing_is_signed(receiver: Receiver, now: datetime) -> None:
    await deliver(receiver.url, b"{}", delivery_id="d", now=now, allowed=HERE)
    assert "X-Clasper-Signature" not in receiver.seen[0][0]


@pytest.mark.parametrize(
    ("status", "retryable"),
    [
        *((status, False) for status in (301, 302, 307, 308, 400, 401, 403, 404, 410, 413)),
        *((status, True) for status in (408, 425, 429, 500, 502, 503, 504)),
    ],
)
async def test_what_an_answer_means(receiver: Receiver, now: datetime, status: int, retryable: bool) -> None:
    receiver.status = status
    with pytest.raises(WebhookFailed) as failed:
        await deliver(receiver.url, b"{}", delivery_id="d", now=now, allowed=HERE)
    assert (failed.value.status, failed.value.retryable) == (status, retryable)
    assert len(receiver.seen) == 1


async def test_a_receiver_that_hangs(receiver: Receiver, now: datetime, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhooks, "TIMEOUT_SECONDS", 0.05)
    receiver.hang = asyncio.Event()
    with pytest.raises(WebhookFailed) as failed:
        await deliver(receiver.url, b"{}", delivery_id="d", now=now, allowed=HERE)
    assert failed.value.retryable
    receiver.hang.set()


async def test_nobody_listens(now: datetime, unused_tcp_port: int) -> None:
    with pytest.raises(WebhookFailed) as failed:
        await deliver(f"http://127.0.0.1:{unused_tcp_port}/", b"{}", delivery_id="d", now=now, allowed=HERE)
    assert failed.value.retryable


async def test_our_own_network_is_refused_for_good(receiver: Receiver, now: datetime) -> None:
    for url in (receiver.url, "not a url", "ftp://example.com/"):
        with pytest.raises(WebhookFailed) as failed:
            await deliver(url, b"{}", delivery_id="d", now=now, allowed=allowlist([]))
        assert not failed.value.retryable
    assert receiver.seen == []


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "internal"},
        {"content-length": "0"},
        {"Content-Type": "text/plain"},
        {"Transfer-Encoding": "chunked"},
        {"Connection": "close"},
        {"Proxy-Authorization": "x"},
        {"X-Clasper-Signature": "forged"},
        {"X-Clasper-Anything": "x"},
        {"X-A": "b\r\nX-B: c"},
        {"X-A": "b\nX-B: c"},
        {"X-A": "naïve"},
        {"X-A\r\nX-B": "c"},
        {"": "x"},
        {"X A": "x"},
        {"X-A": "x" * 4097},
        {f"X-{number}": "x" for number in range(33)},
    ],
)
async def test_headers_that_callers_may_not_give(receiver: Receiver, now: datetime, headers: dict[str, str]) -> None:
    assert header_problems(headers)
    with pytest.raises(WebhookFailed) as failed:
        await deliver(receiver.url, b"{}", headers=headers, delivery_id="d", now=now, allowed=HERE)
    assert not failed.value.retryable
    assert receiver.seen == []


def test_headers_report_all_errors_and_accept_good_ones() -> None:
    assert len(header_problems({"Host": "a", "X-B": "\x00", "X-C": "fine"})) == 2
    assert header_problems({"X-Custom-Header": "value", "Authorization": "Bearer x", "User-Agent": "mine"}) == []
