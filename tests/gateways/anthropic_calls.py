"""A call of Anthropic's messages wire, and a client of a fake host."""

from __future__ import annotations

import json
from typing import Any

from yarl import URL

from clasper.gateways.llm.anthropic import AnthropicFormat
from clasper.gateways.llm.base import Message, ModelCall, ToolSpec
from clasper.gateways.llm.exchange import HttpProvider
from fakes.llm import FakeProvider
from fakes.llm.anthropic import FakeAnthropic

WIRE = AnthropicFormat("anthropic", URL("https://api.anthropic.com/v1"))
HOST = FakeAnthropic()
TOOLS = (
    ToolSpec("orders:lookup", "Finds an order.", {"type": "object", "properties": {"order": {"type": "integer"}}}),
    ToolSpec("now", "", {}),
)
CALL = ModelCall(model="claude-sonnet-4-5", messages=(Message("user", "Hi"),), max_output_tokens=100, timeout=5)
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}


def encoded(call: ModelCall, *, stream: bool = False) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(WIRE.encode(call, stream=stream))
    assert HOST.problem(WIRE.headers("key"), body) is None
    return body


def text_block(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def client(fake: FakeProvider, key: str = "sk-ant-none") -> HttpProvider:
    return HttpProvider(AnthropicFormat("anthropic", URL(fake.url)), key, "")


KEPT = [
    {"type": "thinking", "thinking": "a", "signature": "EqEE"},
    {"type": "text", "length": 4},
    {"type": "tool_use", "id": "t1"},
    {"type": "redacted_thinking", "data": "Emwk"},
    {"type": "text", "length": 3},
    {"type": "tool_use", "id": "t2"},
    {"type": "thinking", "thinking": "b", "signature": "EqEF"},
]
