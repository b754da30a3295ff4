"""The chat-completions format, which OpenAI began and most providers and local servers imitate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from yarl import URL

from clasper.gateways.llm.base import ModelCall
from clasper.gateways.llm.openai_chat.dialects import Dialect
from clasper.gateways.llm.openai_chat.request import encode_request
from clasper.gateways.llm.openai_chat.response import ChatAccumulator
from clasper.gateways.llm.wire_format import WireFormat


@dataclass(frozen=True, slots=True)
class ChatFormat(WireFormat):
    """Chat completions as `provider` speaks them at `endpoint`, the whole address that calls are posted to."""

    accumulator_class = ChatAccumulator

    endpoint: URL
    dialect: Dialect

    def address(self, call: ModelCall, *, stream: bool) -> URL:
        return self.endpoint

    def headers(self, api_key: str) -> Mapping[str, str]:
        return {"Authorization": f"Bearer {api_key}"} if api_key else {}

    def encode(self, call: ModelCall, *, stream: bool) -> bytes:
        return encode_request(call, self.dialect, stream=stream, provider=self.provider)
