"""From the payloads of a response to one Completion: what all wire formats have in common. No network here."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeVar

import msgspec

from clasper.core.usage import Usage
from clasper.gateways.http import UNREADABLE_JSON
from clasper.gateways.llm.base import Completion, FailureKind, Finish, ModelCall, ProviderError, ToolCall
from clasper.gateways.llm.failures import body_failure, error_object, failure
from clasper.gateways.llm.tool_names import ToolNames

T = TypeVar("T")


class WrittenCall(NamedTuple):
    """A tool call as the provider wrote it: its id, "" without one, its name on the wire, and its JSON text."""

    id: str
    name: str
    arguments: str


class StreamAccumulator(ABC):
    """Builds one Completion from the payloads of a stream's `data:` lines, or from a whole body.

    `finish_reason` is why the model stopped, in the provider's words; None until it has. `done`: the provider said that
    nothing follows. A provider that never says so leaves it False.
    """

    __slots__ = ("_call", "_model", "_provider", "done", "finish_reason")

    def __init__(self, call: ModelCall, provider: str) -> None:
        self._call = call
        self._provider = provider
        self._model: str | None = None
        self.finish_reason: str | None = None
        self.done = False

    @property
    def finished(self) -> bool:
        """Whether the model has ended its answer; only counts and a farewell may follow."""
        return self.finish_reason is not None

    @property
    @abstractmethod
    def usage(self) -> Usage | None:
        """The tokens reported so far, None when there are none."""

    @abstractmethod
    def add(self, payload: bytes) -> str:
        """Takes one payload of a stream and returns its text, mostly a few letters or nothing. Raises ProviderError."""

    @abstractmethod
    def whole(self, body: bytes) -> Completion:
        """The completion of a whole body. Raises ProviderError for anything else, also for an error in a 200."""

    def completion(self) -> Completion:
        """The whole answer. Raises ProviderError `connection` when the stream ended before the model did."""
        if self.finish_reason is None:
            raise self._failure("the stream ended before the answer did", kind="connection")
        tool_calls, text, usage = self._tool_calls(), self._text(), self.usage
        return Completion(
            text=text,
            tool_calls=tool_calls,
            finish=self._finish(self.finish_reason, text, has_calls=bool(tool_calls)),
            usage=usage or Usage(),
            usage_reported=usage is not None,
            model=self._model or self._call.model,
            extra=self._extra(tool_calls),
        )

    @abstractmethod
    def _text(self) -> str: ...

    @abstractmethod
    def _written_calls(self) -> Sequence[WrittenCall]: ...

    @abstractmethod
    def _finish(self, reason: str, text: str, *, has_calls: bool) -> Finish: ...

    @abstractmethod
    def _extra(self, tool_calls: Sequence[ToolCall]) -> dict[str, Any]:
        """What the provider wants back with this answer; see `Completion.extra`."""

    def _tool_calls(self) -> tuple[ToolCall, ...]:
        written = self._written_calls()
        if not written:
            return ()
        names = ToolNames(self._call.tools)
        return tuple(
            ToolCall(call.id or self._call.new_tool_call_id(n), names.from_wire(call.name), call.arguments)
            for n, call in enumerate(written)
        )

    def _decode(self, decoder: msgspec.json.Decoder[T], body: bytes) -> T:
        try:
            return decoder.decode(body)
        except UNREADABLE_JSON as error:
            raise self._unreadable(body) from error

    def _unreadable(self, body: bytes) -> ProviderError:
        return self._failure(body[:200].decode("utf-8", "replace"))

    def _failure(self, detail: str, *, kind: FailureKind = "bad_response") -> ProviderError:
        return failure(kind, self._provider, detail=detail, usage=self.usage)

    def _error_inside(self, error: Any) -> ProviderError:
        """What an error object within a 200 means."""
        found = error_object({"error": error})
        if found is None:
            return self._failure(str(error))
        return body_failure(found, self._provider, usage=self.usage)
