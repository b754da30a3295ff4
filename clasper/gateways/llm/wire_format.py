"""What a wire format must provide: how a call is written. How a response is read is in its accumulator.

No network here: `exchange.HttpProvider` sends the requests and receives the responses.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import msgspec
from yarl import URL

from clasper.gateways.llm.accumulator import StreamAccumulator
from clasper.gateways.llm.base import Completion, ModelCall
from clasper.gateways.llm.failures import failure

NO_PARAMETERS: Mapping[str, Any] = {"type": "object", "properties": {}}
"""The schema of a tool that takes none, for providers that require one."""

_encoder = msgspec.json.Encoder()


@dataclass(frozen=True, slots=True)
class WireFormat(ABC):
    """The wire format of one provider at one address.

    `provider` is its name, for messages and as the key of `Completion.extra`.
    """

    accumulator_class: ClassVar[type[StreamAccumulator]]

    provider: str

    @abstractmethod
    def address(self, call: ModelCall, *, stream: bool) -> URL:
        """Where the call is posted."""

    @abstractmethod
    def headers(self, api_key: str) -> Mapping[str, str]:
        """Credentials and whatever else every request of this format carries, without the content type."""

    @abstractmethod
    def encode(self, call: ModelCall, *, stream: bool) -> bytes:
        """The request body. Raises ProviderError `invalid_request` for a call that the format cannot represent."""

    def accumulator(self, call: ModelCall) -> StreamAccumulator:
        """An accumulator for the response to this call."""
        return self.accumulator_class(call, self.provider)

    def decode(self, body: bytes, call: ModelCall) -> Completion:
        """The completion of a whole response. Raises ProviderError for anything else, also for an error in a 200."""
        return self.accumulator(call).whole(body)


def encode_body(body: Mapping[str, Any], provider: str) -> bytes:
    """The body as JSON. Raises ProviderError `invalid_request` when JSON cannot represent it."""
    try:
        return _encoder.encode(body)
    except (TypeError, ValueError, RecursionError) as error:
        raise failure("invalid_request", provider, detail="the call cannot be written as JSON") from error
