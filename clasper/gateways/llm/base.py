"""What all model providers have in common: the call, the answer, the events of a stream, and how a call fails.

Pure values; nothing here knows a wire format.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from clasper.core.usage import Usage

Role = Literal["system", "user", "assistant", "tool"]
Finish = Literal["stop", "tool_calls", "length", "refusal", "content_filter", "error"]
FailureKind = Literal[
    "rate_limited",
    "unavailable",
    "timeout",
    "connection",
    "auth",
    "unknown_model",
    "context_too_long",
    "invalid_request",
    "bad_response",
    "circuit_open",
    "at_capacity",
]

_TRANSIENT: frozenset[FailureKind] = frozenset({"rate_limited", "unavailable", "timeout", "connection", "bad_response"})
_CURED_BY_ANOTHER_MODEL: frozenset[FailureKind] = frozenset(
    {"unknown_model", "context_too_long", "circuit_open", "at_capacity"}
)

MAX_MESSAGE_CHARS = 200
MAX_DETAIL_CHARS = 2000


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A tool the model wants to use. `arguments` is the raw JSON text as the model wrote it, possibly broken."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class ToolSpec:
    """A tool offered to the model; `parameters` is a JSON schema of an object."""

    name: str
    description: str
    parameters: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a conversation.

    `tool_call_id` identifies the call that a message of role `tool` answers, `failed` says that the call failed.
    `extra` is what a provider wants back with its own earlier answer: copy `Completion.extra` here, unread, when the
    answer becomes part of the conversation.
    """

    role: Role
    content: str
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict)
    failed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCall:
    """One call of a model. `timeout` is what remains of the run, in seconds, and bounds the whole exchange.

    `schema` is a JSON schema that the answer's text should satisfy, `{}` for any JSON. It is sent to providers that can
    enforce it and left out otherwise, so the prompt must ask for it, too, and the caller must check the answer.
    """

    model: str
    messages: tuple[Message, ...]
    tools: tuple[ToolSpec, ...] = ()
    max_output_tokens: int
    temperature: float | None = None
    schema: Mapping[str, Any] | None = None
    timeout: float

    def new_tool_call_id(self, position: int) -> str:
        """An id for a tool call that came without one. Calls are counted through the conversation, so it is unique."""
        return f"call_{sum(len(message.tool_calls) for message in self.messages) + position}"


@dataclass(frozen=True, slots=True)
class TextDelta:
    """The next piece of a streamed answer."""

    text: str


@dataclass(frozen=True, slots=True)
class Completion:
    """A whole answer; the last event of a stream.

    `text` is the joined text of the stream's deltas; only for a refusal without content it is the refusal's words.
    `usage_reported` is False when the provider reported no token counts; `usage` is empty then. `model` is the one that
    answered, under the provider's name for it.
    """

    text: str
    tool_calls: tuple[ToolCall, ...]
    finish: Finish
    usage: Usage
    usage_reported: bool
    model: str
    extra: Mapping[str, Any] = field(default_factory=dict)


StreamEvent = TextDelta | Completion


class Provider(Protocol):
    """A provider of models. Both methods raise ProviderError, and nothing else, when a call fails.

    Cancelling the task, or closing the generator, closes the upstream connection at once.
    """

    @property
    def name(self) -> str: ...

    @property
    def base_url(self) -> str:
        """Where it is reached."""
        ...

    async def complete(self, call: ModelCall) -> Completion:
        """The whole answer at once."""
        ...

    def stream(self, call: ModelCall) -> AsyncGenerator[StreamEvent, None]:
        """Text as it arrives, then exactly one Completion. Close it (`aclosing`) when you leave it early."""
        ...


class ProviderError(Exception):
    """A model call that failed.

    `str()` of it is fit for callers. `detail` contains the provider's own words and must be redacted before it is
    stored or shown. `status` is the HTTP status, if there was one. `retry_after` is how many seconds the provider asks
    to wait. `usage` is what the provider reported before it failed, if anything. `retryable`: the same call may succeed
    later. `fallback`: another model may succeed.
    """

    def __init__(
        self,
        kind: FailureKind,
        message: str,
        *,
        status: int | None = None,
        retry_after: float | None = None,
        detail: str = "",
        usage: Usage | None = None,
    ) -> None:
        super().__init__(message[:MAX_MESSAGE_CHARS])
        self.kind: FailureKind = kind
        self.status = status
        self.retry_after = retry_after
        self.detail = detail[:MAX_DETAIL_CHARS]
        self.usage = usage

    @property
    def retryable(self) -> bool:
        return self.kind in _TRANSIENT

    @property
    def fallback(self) -> bool:
        return self.retryable or self.kind in _CURED_BY_ANOTHER_MODEL
