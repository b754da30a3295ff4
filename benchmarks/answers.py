"""What the fake model says, in each wire format: chat completions, Anthropic's messages, Gemini's generateContent."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from benchmarks.rendering import ID, NUMBER, numbered, rendered, stream_parts
from clasper.core.usage import Usage
from fakes.llm import Answer, FakeAnthropic, FakeChat, FakeGemini, FakeWireFormat

_SENTENCE = "The quarter closed well ahead of plan, and the team agreed on three next steps for the coming week. "
ANSWER = f"Report {NUMBER}. {_SENTENCE * 4}"[:400]
"""What the model says. Whole answers are numbered, streams are not."""
USAGE = Usage(input=1250, output=150)
TOOL_NAME = "lookup"

CHAT_PATH = b"/v1/chat/completions"
MESSAGES_PATH = b"/v1/messages"
GEMINI_PATH = b"/v1beta/models/"
"""Followed by the model and `:generateContent` or `:streamGenerateContent`."""
_FORMATS = {CHAT_PATH: "chat", MESSAGES_PATH: "messages"}
_STREAMED = re.compile(rb'"stream": ?true')


@dataclass(frozen=True, slots=True)
class Provider:
    """Who answers in a wire format: the model asked, and what a body's id and a stream's beginning look like."""

    fake: FakeWireFormat
    model: str
    id_field: str
    opening_events: int


PROVIDERS: Mapping[str, Provider] = {
    "chat": Provider(FakeChat(), "gpt-4o-mini", "id", 1),
    "messages": Provider(FakeAnthropic(), "claude-haiku-4-5", "id", 3),
    "gemini": Provider(FakeGemini(), "gemini-2.5-flash", "responseId", 0),
}
"""By wire format."""


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer of the model: `whole` is a format (see `numbered`), `parts` are a stream's, written in turn."""

    whole: bytes
    parts: tuple[bytes, ...]
    at_once: bytes

    @classmethod
    def of(cls, provider: Provider, answer: Answer) -> Reply:
        """The answer as the provider writes it: a stream's first part opens it, then comes one piece a part."""
        answer = replace(answer, model=provider.model)
        body = provider.fake.whole(answer) | {provider.id_field: f"answer-{ID}"}
        events, begin = provider.fake.chunks(answer), provider.opening_events
        end = begin + max(1, len(answer.pieces))
        parts = stream_parts(b"".join(events[:begin]), events[begin:end], b"".join(events[end:]))
        return cls(numbered(rendered(body)), parts, b"".join(parts))


@dataclass(frozen=True, slots=True)
class Answers:
    """Everything said in one wire format. Only chat completions know `tool_call`."""

    wire_format: str
    text: Reply
    tool_call: Reply | None = None


def answers(pieces: Sequence[str]) -> dict[str, Answers]:
    """The answers in each wire format; a stream says `pieces`, one a chunk."""
    text = Answer(text=ANSWER, pieces=pieces, usage=USAGE)
    call = Answer(calls=[(TOOL_NAME, '{"query":"quarter"}')], finish="tool_calls", usage=USAGE)
    found = {name: Answers(name, Reply.of(provider, text)) for name, provider in PROVIDERS.items()}
    return found | {"chat": replace(found["chat"], tool_call=Reply.of(PROVIDERS["chat"], call))}


def wire_format_of(path: bytes) -> str:
    """The wire format that is spoken at the path; empty without one."""
    return _FORMATS.get(path) or ("gemini" if path.startswith(GEMINI_PATH) else "")


def wants_stream(wire_format: str, path: bytes, body: bytes) -> bool:
    """Whether the request asks for a stream."""
    if wire_format == "gemini":
        return path.endswith(b":streamGenerateContent")
    return b'"stream"' in body and _STREAMED.search(body) is not None


def pieces_of(chunks: int, chars: int = 0) -> list[str]:
    """A stream's text in so many pieces: ANSWER cut evenly, or as much text as fills pieces of `chars` characters."""
    if chars:
        text = "".join(itertools.islice(itertools.cycle(_SENTENCE), chunks * chars))
        return [text[start : start + chars] for start in range(0, len(text), chars)]
    cuts = [len(ANSWER) * n // chunks for n in range(chunks + 1)]
    return [ANSWER[start:end] for start, end in itertools.pairwise(cuts)]
