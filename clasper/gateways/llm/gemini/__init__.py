"""Google's generateContent format, which Gemini models speak at Google's own addresses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import quote

from yarl import URL

from clasper.gateways.llm.base import ModelCall
from clasper.gateways.llm.gemini.request import encode_request
from clasper.gateways.llm.gemini.response import GeminiAccumulator
from clasper.gateways.llm.wire_format import WireFormat

_COLLECTIONS = frozenset({"models", "tunedModels"})


@dataclass(frozen=True, slots=True)
class GeminiFormat(WireFormat):
    """generateContent below `base`, such as https://generativelanguage.googleapis.com/v1beta.

    The model is a part of the address. A name without its collection is one of `models`; `models/…` and
    `tunedModels/…` are taken as they are.
    """

    accumulator_class = GeminiAccumulator

    base: URL

    def address(self, call: ModelCall, *, stream: bool) -> URL:
        return _address(self.base, call.model, stream)

    def headers(self, api_key: str) -> Mapping[str, str]:
        return {"x-goog-api-key": api_key} if api_key else {}

    def encode(self, call: ModelCall, *, stream: bool) -> bytes:
        return encode_request(call, provider=self.provider)


@lru_cache(maxsize=256)
def _address(base: URL, model: str, stream: bool) -> URL:
    collection, _, name = model.partition("/")
    if collection not in _COLLECTIONS or not name:
        collection, name = "models", model
    method = "streamGenerateContent" if stream else "generateContent"
    # Whoever may choose a model must not be able to choose another path or query with it.
    escaped = quote(name, safe="", errors="replace")
    url = base.with_path(f"{base.raw_path.rstrip('/')}/{collection}/{escaped}:{method}", encoded=True, keep_query=True)
    return url.update_query(alt="sse") if stream else url
