"""What one wire format must tell: how a call is spelled and how answers are read. No network here.

A wire is one frozen object of a provider; `exchange.HttpProvider` carries its requests and answers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from yarl import URL

from clasper.core.usage import Usage
from clasper.gateways.llm.base import Completion, ModelCall


class Assembly(Protocol):
    """One stream, put together from the payloads of its `data:` lines.

    `done`: the provider said that nothing follows. A provider that says no such thing leaves it False to the end.
    """

    done: bool

    @property
    def finished(self) -> bool:
        """Whether the model has ended its answer; what may follow are counts and farewells."""
        ...

    @property
    def usage(self) -> Usage | None:
        """What the provider has said so far of the tokens, None while it has said nothing."""
        ...

    def add(self, payload: bytes) -> str:
        """Takes one payload and gives its text, mostly a few letters or nothing. Raises ProviderError."""
        ...

    def completion(self) -> Completion:
        """The whole answer. Raises ProviderError `connection` when the stream ended before the model did."""
        ...


class Wire(Protocol):
    """The wire format of one provider at one address."""

    @property
    def provider(self) -> str:
        """The provider's name, for messages and as the key of `Completion.extra`."""
        ...

    def address(self, call: ModelCall, *, stream: bool) -> URL:
        """Where the call is posted."""
        ...

    def headers(self, api_key: str) -> Mapping[str, str]:
        """Credentials and whatever else every request of this wire carries, without the content type."""
        ...

    def encode(self, call: ModelCall, *, stream: bool) -> bytes:
        """The request body. Raises ProviderError `invalid_request` for what the wire cannot carry."""
        ...

    def decode(self, body: bytes, call: ModelCall) -> Completion:
        """The completion of a whole answer. Raises ProviderError for anything else, also for an error in a 200."""
        ...

    def assembly(self, call: ModelCall) -> Assembly:
        """A stream that has not begun."""
        ...
