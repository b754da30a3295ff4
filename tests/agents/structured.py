"""Structured tasks: a schema, values that fulfil it and that do not, and what is said and answered."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import httpx
import pytest

from clasper.gateways.llm.registry import PROVIDER_SPECS
from fakes.llm import WIRE_FORMATS, FakeProvider
from tests.world import ACME, Server

SCHEMA = {
    "type": "object",
    "properties": {"intent": {"type": "string"}, "entities": {"type": "array", "items": {"type": "string"}}},
    "required": ["intent"],
}
GOOD = {"intent": "schedule_meeting", "entities": ["Tuesday"]}
USAGE = {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120}


def task(server: Server, *, key: str | None = None, headers: dict[str, str] | None = None, **fields: Any) -> Any:
    """A task of acme's; a field given as None is left out."""
    body = {"prompt": "Extract the intent", "schema": SCHEMA, "tenant_id": ACME, **fields}
    sent = {name: value for name, value in body.items() if value is not None}
    return server.post("/llm-task", sent, key=key, headers=headers or {})


def done(response: httpx.Response) -> dict[str, Any]:
    assert response.status_code == 200, response.text
    body: dict[str, Any] = response.json()
    return body


def failed(response: httpx.Response, status: int, code: str) -> dict[str, Any]:
    assert (response.status_code, response.json()["code"]) == (status, code), response.text
    body: dict[str, Any] = response.json()
    return body


def sent(fake: FakeProvider, number: int = 0) -> str:
    """A request's body as text."""
    return json.dumps(fake.requests[number].body, ensure_ascii=False)


def own_host(name: str, settings: Any, monkeypatch: pytest.MonkeyPatch) -> FakeProvider:
    """A host that speaks the provider's wire and is taken for the provider's own; the server asks it."""
    fake = FakeProvider.start(WIRE_FORMATS[name])
    monkeypatch.setitem(PROVIDER_SPECS, name, replace(PROVIDER_SPECS[name], url=fake.url))
    setattr(settings, f"{name.upper()}_API_KEY", "key-of-its-own")
    setattr(settings, f"{name.upper()}_BASE_URL", fake.url)
    settings.LLM_PROVIDER = name
    settings.LLM_MODEL_DEFAULT = f"{name}/{PROVIDER_SPECS[name].model}"
    return fake
