"""What a fake provider must know of one wire format: the other side of `clasper.gateways.llm.wire_format`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from clasper.core.usage import Usage
from clasper.gateways.llm.base import Finish


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """An answer as a test means it; every wire format writes it in its own way.

    `calls` are pairs of a tool's name and the raw text of its arguments. `thinking` comes before the text, with a
    signature the provider wants back. `usage` None leaves the counts out; a mapping is the format's own object, sent
    unchanged. `call_ids` False leaves out the ids of tool calls, where the format allows that.
    """

    text: str = ""
    calls: Sequence[tuple[str, str]] = ()
    finish: Finish = "stop"
    usage: Usage | Mapping[str, Any] | None = None
    model: str = ""
    thinking: str = ""
    call_ids: bool = True


class FakeWireFormat(Protocol):
    """One wire format, as a server speaks it."""

    @property
    def base_path(self) -> str:
        """The path of the base URL to configure, such as `/v1`."""
        ...

    def takes(self, path: str) -> bool:
        """Whether the path (without query) is the one that model calls are posted to."""
        ...

    def wants_stream(self, path: str, body: Mapping[str, Any]) -> bool: ...

    def model(self, path: str, body: Mapping[str, Any]) -> str:
        """The model asked for."""
        ...

    def problem(self, headers: Mapping[str, str], body: Mapping[str, Any]) -> tuple[int, str] | None:
        """Why the real provider would refuse this request, as a status and a sentence; None when it would not."""
        ...

    def prompt_tokens(self, body: Mapping[str, Any]) -> int:
        """A rough count of the prompt: a quarter of its bytes."""
        ...

    def whole(self, answer: Answer) -> dict[str, Any]:
        """The body of a response that is not streamed."""
        ...

    def chunks(self, answer: Answer) -> list[bytes]:
        """The server-sent events of a streamed answer, text word by word, as bytes ready to be written."""
        ...

    def opening(self, words: Sequence[str]) -> list[bytes]:
        """The events of a stream that has begun and sent these words, one event a word, and has not ended."""
        ...

    def error(self, status: int, message: str, *, code: str = "") -> dict[str, Any]:
        """The body of an error; `code` defaults to the one of the status."""
        ...

    def stream_error(self, message: str, *, code: str = "") -> bytes:
        """An error as an event in the middle of a stream."""
        ...
