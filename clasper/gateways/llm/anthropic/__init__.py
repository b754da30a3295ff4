"""The messages format of Anthropic."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from yarl import URL

from clasper.gateways.llm.anthropic.request import encode_request
from clasper.gateways.llm.anthropic.response import AnthropicAccumulator
from clasper.gateways.llm.base import ModelCall
from clasper.gateways.llm.wire_format import WireFormat

_VERSION = "2023-06-01"


@dataclass(frozen=True, slots=True)
class AnthropicFormat(WireFormat):
    """Messages as `provider` speaks them below `base`, such as `https://api.anthropic.com/v1`, whose query is kept."""

    accumulator_class = AnthropicAccumulator

    base: URL
    endpoint: URL = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "endpoint", (self.base / "messages").with_query(self.base.query))

    def address(self, call: ModelCall, *, stream: bool) -> URL:
        return self.endpoint

    def headers(self, api_key: str) -> Mapping[str, str]:
        version = {"anthropic-version": _VERSION}
        return {"x-api-key": api_key, **version} if api_key else version

    def encode(self, call: ModelCall, *, stream: bool) -> bytes:
        return encode_request(call, stream=stream, provider=self.provider)
