"""What a fake provider must know of one wire format: the other side of `clasper.gateways.llm.wire_format`."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import msgspec

from clasper.core.usage import Usage
from clasper.gateways.llm.base import Finish


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """An answer as a test means it; every wire format writes it in its own way.

    `calls` are pairs of a tool's name and the raw text of its arguments. `thinking` comes before the text, with a
    signature the provider wants back. `usage` None leaves the counts out; a mapping is the format's own object, sent
    unchanged. `call_ids` False leaves out the ids of tool calls, where the format allows that. A stream sends the text
    in `pieces`, word by word without any.
    """

    text: str = ""
    calls: Sequence[tuple[str, str]] = ()
    finish: Finish = "stop"
    usage: Usage | Mapping[str, Any] | None = None
    model: str = ""
    thinking: str = ""
    call_ids: bool = True
    pieces: Sequence[str] = ()

    @property
    def text_pieces(self) -> Sequence[str]:
        """The text as a stream sends it."""
        return self.pieces or words_of(self.text)


class Refused(Exception):
    """Why the real provider would refuse a request, with the status of its answer."""

    def __init__(self, sentence: str, status: int = 400) -> None:
        super().__init__(sentence)
        self.status = status


def require(fine: object, sentence: str, status: int = 400) -> None:
    """Raises Refused unless the request is fine."""
    if not fine:
        raise Refused(sentence, status)


def words_of(text: str) -> list[str]:
    """The text in pieces that end with whitespace, as models write it."""
    return re.findall(r"\S+\s*|\s+", text)


def json_object(text: str) -> dict[str, Any] | None:
    """The JSON object that the text contains; None when it is something else."""
    try:
        value = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


class FakeWireFormat(ABC):
    """One wire format, as a server speaks it."""

    __slots__ = ()
    prompt_fields: ClassVar[tuple[str, ...]]
    """The fields of a request that make up its prompt."""

    @property
    @abstractmethod
    def base_path(self) -> str:
        """The path of the base URL to configure, such as `/v1`."""

    @abstractmethod
    def takes(self, path: str) -> bool:
        """Whether the path (without query) is the one that model calls are posted to."""

    def wants_stream(self, path: str, body: Mapping[str, Any]) -> bool:
        """Whether the request asks for a stream."""
        return bool(body.get("stream"))

    def model(self, path: str, body: Mapping[str, Any]) -> str:
        """The model asked for."""
        return str(body.get("model", ""))

    def problem(self, headers: Mapping[str, str], body: Mapping[str, Any]) -> tuple[int, str] | None:
        """Why the real provider would refuse this request, as a status and a sentence; None when it would not."""
        try:
            self.check({name.lower(): value for name, value in headers.items()}, body)
        except Refused as refused:
            return refused.status, str(refused)
        return None

    @abstractmethod
    def check(self, headers: Mapping[str, str], body: Mapping[str, Any]) -> None:
        """Raises Refused for a request that the real provider would refuse; names of headers are in lower case."""

    def prompt_tokens(self, body: Mapping[str, Any]) -> int:
        """A rough count of the prompt: a quarter of its bytes."""
        return sum(len(msgspec.json.encode(body.get(field, []))) for field in self.prompt_fields) // 4

    def usage(self, usage: Usage | Mapping[str, Any]) -> Mapping[str, Any]:
        """The counts as this format writes them; a mapping is returned unchanged."""
        return self.counts(usage) if isinstance(usage, Usage) else usage

    @abstractmethod
    def counts(self, usage: Usage) -> dict[str, Any]:
        """The counts as this format writes them."""

    @abstractmethod
    def whole(self, answer: Answer) -> dict[str, Any]:
        """The body of a response that is not streamed."""

    @abstractmethod
    def chunks(self, answer: Answer) -> list[bytes]:
        """The server-sent events of a streamed answer as bytes ready to be written."""

    @abstractmethod
    def opening(self, words: Sequence[str]) -> list[bytes]:
        """The events of a stream that has begun and sent these words, one event a word, and has not ended."""

    @abstractmethod
    def error(self, status: int, message: str, *, code: str = "") -> dict[str, Any]:
        """The body of an error; `code` defaults to the one of the status."""

    @abstractmethod
    def stream_error(self, message: str, *, code: str = "") -> bytes:
        """An error as an event in the middle of a stream."""
