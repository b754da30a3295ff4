"""Fake model providers: real servers on real sockets, one for each wire format, that do what a test scripts."""

from collections.abc import Mapping

from fakes.llm.anthropic import FakeAnthropic
from fakes.llm.behaviours import (
    Behaviour,
    Exchange,
    error,
    garbage,
    half_stream,
    raw,
    reply,
    reset,
    silence,
    stream_error,
    tool_calls,
)
from fakes.llm.chat import FakeChat
from fakes.llm.gemini import FakeGemini
from fakes.llm.server import FakeProvider
from fakes.llm.wire_format import Answer, FakeWireFormat

WIRE_FORMATS: Mapping[str, FakeWireFormat] = {
    "openai": FakeChat(),
    "anthropic": FakeAnthropic(),
    "gemini": FakeGemini(),
    "xai": FakeChat("xai"),
    "groq": FakeChat("groq"),
    "mistral": FakeChat("mistral"),
    "openrouter": FakeChat("openrouter"),
}
"""The wire format of every provider, as its fake speaks it."""

__all__ = [
    "WIRE_FORMATS",
    "Answer",
    "Behaviour",
    "Exchange",
    "FakeAnthropic",
    "FakeChat",
    "FakeGemini",
    "FakeProvider",
    "FakeWireFormat",
    "error",
    "garbage",
    "half_stream",
    "raw",
    "reply",
    "reset",
    "silence",
    "stream_error",
    "tool_calls",
]
