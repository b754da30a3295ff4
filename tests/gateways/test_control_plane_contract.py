"""Tokens, capabilities and compatibility: what client and control plane must agree on before they work together."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from typing import Any

import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pytest_django import Settings

from clasper.core.errors import BackendFailed, Unavailable
from clasper.gateways import http
from clasper.gateways.control_plane import (
    ControlPlane,
    TokenMinter,
    backend_url,
    check_compatibility,
    control_plane,
    mint_agent_token,
)
from clasper.gateways.control_plane.capabilities import check_capabilities, parse_capabilities
from clasper.gateways.control_plane.tokens import MAX_TOKENS
from clasper.gateways.ssrf import UrlRefused, allowlist
from tests.gateways.planes import (
    ACME,
    CAPABILITIES,
    GLOBEX,
    SECRET,
    V1,
    WITH_TOOLS,
    Backend,
    Reply,
    answers,
    lost,
    raw,
    slow,
    soon,
)

# --- Tokens ------------------------------------------------------------------------------------------------------


def test_the_tokens_claims(now: datetime) -> None:
    token = mint_agent_token(
        user_id="u", agent_role="jarvis", tenant_id="acme", secret=SECRET, algorithm="HS256", now=now, agent_id="a-1"
    )
    claims = jwt.decode(token, options={"verify_signature": False})
    issued = int(now.timestamp())
    assert len(claims.pop("jti")) == 36
    assert claims == {
        "type": "agent",
        "user_id": "u",
        "agent_role": "jarvis",
        "tenant_id": "acme",
        "agent_id": "a-1",
        "sub": "clasper:jarvis",
        "aud": "control-plane",
        "iat": issued,
        "exp": issued + 600,
    }


def test_no_secret_no_token(now: datetime) -> None:
    with pytest.raises(Unavailable):
        mint_agent_token(user_id="u", agent_role="r", tenant_id="t", secret="", algorithm="HS256", now=now)


def test_a_token_is_used_for_five_minutes_by_its_owner_only(now: datetime) -> None:
    clock = [now]
    minter = TokenMinter(secret=SECRET, algorithm="HS256", clock=lambda: clock[0])

    def token(user: str = "u", role: str = "r", tenant: str = "t") -> str:
        return minter.token(user_id=user, agent_role=role, tenant_id=tenant)

    first = token()
    clock[0] = now + timedelta(minutes=4, seconds=59)
    assert token() == first
    assert len({first, token(user="v"), token(role="s"), token(tenant="x")}) == 4
    clock[0] = now + timedelta(minutes=5)
    assert token() != first
    clock[0] = now - timedelta(hours=1)
    assert jwt.decode(token(), options={"verify_signature": False})["iat"] == int(clock[0].timestamp())


def test_the_minter_forgets_the_oldest(now: datetime, monkeypatch: pytest.MonkeyPatch) -> None:
    assert MAX_TOKENS >= 1000
    monkeypatch.setattr("clasper.gateways.control_plane.tokens.MAX_TOKENS", 2)
    minter = TokenMinter(secret=SECRET, algorithm="HS256", clock=lambda: now)
    first = minter.token(user_id="0", agent_role="r", tenant_id="t")
    for user in "12":
        minter.token(user_id=user, agent_role="r", tenant_id="t")
    assert minter.token(user_id="0", agent_role="r", tenant_id="t") != first


# --- Capabilities ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("document", "version", "has", "lacks"),
    [
        (V1, "v1", {"tasks", "task_list", "documents", "document_post"}, {"tools"}),
        ({"features": {"tasks": True, "messages": False}}, "", {"tasks"}, {"messages", "message_post"}),
        ({"contract_version": "1.2.0", "features": ["task_list", "task_create", "message_post"]}, "1.2.0",
         {"tasks", "messages"}, {"documents"}),
        ({"features": ["task_list"]}, "", {"task_list"}, {"tasks"}),
        (WITH_TOOLS, "1.1.0", {"tools"}, {"documents"}),
        ({"features": {}, "tools": True}, "", {"tools", "tool_discover", "tool_execute"}, {"tasks"}),
        ({"features": {"tools": True}}, "", {"tools"}, set()),
        ({"features": {"tool_discover": True}}, "", {"tool_discover"}, {"tools"}),
        ({"features": [], "tools": "yes"}, "", set(), {"tools"}),
        ({"features": [1, None, "tasks"], "contract_version": 1}, "", {"tasks"}, set()),
    ],
)  # fmt: skip
def test_spellings_of_capabilities(document: Any, version: str, has: set[str], lacks: set[str]) -> None:
    found = parse_capabilities(document)
    assert found is not None
    assert found.contract_version == version
    assert has <= found.features
    assert not lacks & found.features


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda each: st.lists(each) | st.dictionaries(st.text(), each),
    max_leaves=10,
)


@given(JSON)
def test_any_json_is_read_or_refused(document: Any) -> None:
    found = parse_capabilities(document)
    assert found is None or check_capabilities(found).clasper_contract_version == "1.1.0"
    parse_capabilities({"features": document})


async def test_capabilities_are_asked_once_a_minute_and_tenant(plane: ControlPlane, backend: Backend) -> None:
    backend.on(f"GET {CAPABILITIES}", answers(body=V1))
    found = await asyncio.gather(*(plane.capabilities(ACME) for _ in range(20)))
    assert all(each.has("documents") and not each.tools for each in found)
    assert len(backend.seen) == 1
    await plane.capabilities(GLOBEX)
    assert len(backend.seen) == 2


@pytest.mark.parametrize("first", [answers(404), answers(401), raw(b"<html>"), answers(body={"ok": True})])
async def test_the_old_path_is_the_fallback(plane: ControlPlane, backend: Backend, first: Reply) -> None:
    backend.on(f"GET {CAPABILITIES}", first)
    backend.on("GET /api/capabilities", answers(body=WITH_TOOLS))
    assert (await plane.capabilities(ACME)).tools


async def test_without_an_answer_nothing_optional_is_assumed(plane: ControlPlane, backend: Backend) -> None:
    backend.on(f"GET {CAPABILITIES}", lost)
    found = await plane.capabilities(ACME, deadline=soon())
    assert not found.known
    assert not found.features
    asked = len(backend.seen)
    await plane.capabilities(ACME)
    assert len(backend.seen) == asked


async def test_a_cancelled_asker_takes_nothing_from_the_others(plane: ControlPlane, backend: Backend) -> None:
    backend.on(f"GET {CAPABILITIES}", slow, answers(body=V1))
    impatient = asyncio.create_task(plane.capabilities(ACME))
    patient = asyncio.create_task(plane.capabilities(ACME))
    late = await plane.capabilities(ACME, deadline=soon(0.01))
    assert not late.known
    impatient.cancel()
    backend.on("GET /api/capabilities", answers(body=V1))
    backend.hang.set()
    assert (await patient).has("tasks")


# --- Health, settings, compatibility -----------------------------------------------------------------------------


async def test_ping_asks_once_and_shows_no_token(plane: ControlPlane, backend: Backend) -> None:
    backend.on("GET /health", answers(body={"status": "ok"}))
    await plane.ping()
    assert "X-Agent-Token" not in backend.seen[0].headers
    backend.on("GET /health", answers(500))
    with pytest.raises(BackendFailed):
        await plane.ping()
    assert len(backend.seen) == 2
    backend.on("GET /health", slow)
    with pytest.raises(BackendFailed):
        await plane.ping(timeout=0.05)


def test_the_configured_control_plane_follows_the_settings(settings: Settings) -> None:
    settings.BACKEND_URL = ""
    settings.CLASPER_PORT = 8099
    assert backend_url() == "http://127.0.0.1:8099"
    settings.BACKEND_URL = "https://backend.example"
    first = control_plane()
    assert first.base_url == "https://backend.example"
    assert control_plane() is first
    settings.AGENT_JWT_SECRET = SECRET
    assert control_plane() is not first


@pytest.mark.parametrize(
    ("document", "compatible", "version", "missing", "warnings"),
    [
        (V1, True, "v1", (), 1),
        ({"contract_version": "1.1.0", "features": ["tasks", "messages"]}, True, "1.1.0", (), 2),
        (WITH_TOOLS, True, "1.1.0", (), 1),
        ({"features": {"tasks": True, "messages": True}}, True, None, (), 3),
        ({"contract_version": "v2", "features": {"tasks": True, "messages": True}}, False, "v2", (), 2),
        ({"contract_version": "one", "features": {"tasks": True, "messages": True}}, False, "one", (), 2),
        ({"contract_version": "v1", "features": {"tasks": True}}, False, "v1", ("messages",), 2),
        ({"contract_version": "v1", "features": {}}, False, "v1", ("tasks", "messages"), 2),
    ],
)
async def test_compatibility(
    backend: Backend,
    settings: Settings,
    document: Any,
    compatible: bool,
    version: str | None,
    missing: tuple[str, ...],
    warnings: int,
) -> None:
    settings.BACKEND_URL = backend.url
    settings.AGENT_JWT_SECRET = SECRET
    backend.on(f"GET {CAPABILITIES}", answers(body=document))
    found = await check_compatibility()
    assert (found.compatible, found.control_plane_contract_version, found.missing_features) == (
        compatible,
        version,
        missing,
    )
    assert len(found.warnings) == warnings
    assert bool(found.error) is not compatible
    assert found.clasper_contract_version == "1.1.0"


async def test_a_foreign_control_plane_is_asked_under_the_guard(backend: Backend, settings: Settings) -> None:
    settings.BACKEND_URL = "https://backend.example"
    backend.on(f"GET {CAPABILITIES}", answers(body=V1))
    for url in (backend.url, backend.url.replace("127.0.0.1", "localhost"), "ftp://x", "nonsense"):
        with pytest.raises(UrlRefused):
            await check_compatibility(url, allowed=allowlist([]))
    assert backend.seen == []
    found = await check_compatibility(f"{backend.url}/?x=1", allowed=allowlist(["127.0.0.1"]))
    assert found.compatible
    assert "X-Agent-Token" in backend.seen[0].headers


async def test_a_foreign_control_plane_sees_no_token(
    backend: Backend, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.BACKEND_URL = "https://backend.example"
    monkeypatch.setattr("clasper.gateways.control_plane.is_listed", lambda url, allowed: False)
    backend.on(f"GET {CAPABILITIES}", answers(body=V1))
    await check_compatibility(backend.url, allowed=allowlist(["127.0.0.1"]))
    assert "X-Agent-Token" not in backend.seen[0].headers


async def test_the_backends_own_address_needs_no_listing(backend: Backend, settings: Settings) -> None:
    settings.BACKEND_URL = backend.url
    backend.on(f"GET {CAPABILITIES}", answers(body=V1))
    assert (await check_compatibility(f"{backend.url}/", allowed=allowlist([]))).compatible
    backend.on(f"GET {CAPABILITIES}", lost)


async def test_an_unreachable_control_plane_is_incompatible(unused_tcp_port: int, settings: Settings) -> None:
    settings.BACKEND_URL = f"http://127.0.0.1:{unused_tcp_port}"
    found = await check_compatibility()
    assert not found.compatible
    assert found.error
    assert found.missing_features == ("tasks", "messages")
    await http.close_session()
