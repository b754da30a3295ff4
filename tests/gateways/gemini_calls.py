"""A call of the generateContent wire, how its requests and answers are read, and a client of a fake host."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from yarl import URL

from clasper.gateways.llm.base import Completion, Message, ModelCall, ToolSpec
from clasper.gateways.llm.exchange import HttpProvider
from clasper.gateways.llm.gemini import GeminiFormat
from fakes.llm import FakeProvider
from tests.gateways.wire_formats import streamed

BASE = URL("https://generativelanguage.googleapis.com/v1beta")
WIRE = GeminiFormat("gemini", BASE)
ORDER = ToolSpec("shop:order", "Finds an order.", {"type": "object", "properties": {"id": {"type": "integer"}}})
CLOCK = ToolSpec("clock", "Tells the time.", {})
CALL = ModelCall(model="gemini-2.5-flash", messages=(Message("user", "Hi"),), max_output_tokens=100, timeout=5)


def conversation(*messages: Message, tools: tuple[ToolSpec, ...] = (), model: str = CALL.model) -> ModelCall:
    return replace(CALL, messages=messages, tools=tools, model=model)


def encoded(call: ModelCall) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(WIRE.encode(call, stream=False))
    return body


def contents(*messages: Message, model: str = CALL.model) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = encoded(conversation(*messages, model=model))["contents"]
    return found


def client(fake: FakeProvider) -> HttpProvider:
    return HttpProvider(GeminiFormat("gemini", URL(fake.url)), "a-key", fake.url)


async def asked(provider: HttpProvider, call: ModelCall, *, streaming: bool) -> Completion:
    return (await streamed(provider, call))[1] if streaming else await provider.complete(call)


both = pytest.mark.parametrize("streaming", [False, True], ids=["complete", "stream"])


def chunk(parts: Sequence[dict[str, Any]], *, finish: str = "", usage: dict[str, int] | None = None) -> bytes:
    candidate: dict[str, Any] = {"content": {"parts": parts, "role": "model"}}
    if finish:
        candidate["finishReason"] = finish
    return json.dumps({"candidates": [candidate], "usageMetadata": usage}).encode()


def signed(text: str, mark: str) -> dict[str, Any]:
    return {"text": text, "thoughtSignature": mark} if mark else {"text": text}


def answered(completion: Completion) -> Message:
    return Message("assistant", completion.text, completion.tool_calls, extra=completion.extra)


def user(*texts: str) -> dict[str, Any]:
    return {"role": "user", "parts": [{"text": text} for text in texts]}


def model(*parts: dict[str, Any]) -> dict[str, Any]:
    return {"role": "model", "parts": list(parts)}
