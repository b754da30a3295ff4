"""The chat-completions wire, which OpenAI began and most hosts and local servers imitate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from yarl import URL

from clasper.gateways.llm.base import Completion, ModelCall
from clasper.gateways.llm.openai_chat.answer import StreamAssembly, decode_completion
from clasper.gateways.llm.openai_chat.dialects import Dialect
from clasper.gateways.llm.openai_chat.request import encode_request


@dataclass(frozen=True, slots=True)
class ChatWire:
    """Chat completions as `provider` speaks them at `endpoint`, the whole address that calls are posted to."""

    provider: str
    endpoint: URL
    dialect: Dialect

    def address(self, call: ModelCall, *, stream: bool) -> URL:
        return self.endpoint

    def headers(self, api_key: str) -> Mapping[str, str]:
        return {"Authorization": f"Bearer {api_key}"} if api_key else {}

    def encode(self, call: ModelCall, *, stream: bool) -> bytes:
        return encode_request(call, self.dialect, stream=stream, provider=self.provider)

    def decode(self, body: bytes, call: ModelCall) -> Completion:
        return decode_completion(body, call, self.provider)

    def assembly(self, call: ModelCall) -> StreamAssembly:
        return StreamAssembly(call, self.provider)
