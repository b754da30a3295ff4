"""A provider under test and the host it talks to, and behaviours that every provider must show."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import pytest
from yarl import URL

from clasper.gateways.http import close_session
from clasper.gateways.llm.base import Completion, Message, ModelCall, ProviderError, TextDelta, ToolCall
from clasper.gateways.llm.exchange import HttpProvider
from clasper.gateways.llm.registry import PROVIDER_SPECS
from fakes.llm import WIRE_FORMATS, Behaviour, FakeProvider

KEY = "test-key-1234"


@dataclass
class Host:
    """A provider under test and the host it talks to."""

    name: str
    fake: FakeProvider
    provider: HttpProvider

    def call(self, *messages: Message, **facts: Any) -> ModelCall:
        conversation = messages or (Message("user", "Hello"),)
        return ModelCall(
            **{"model": "m-1", "messages": conversation, "max_output_tokens": 100, "timeout": 5.0, **facts}
        )

    async def ask(self, call: ModelCall | None = None, *, streaming: bool) -> tuple[list[str], Completion]:
        """The deltas and the completion; what came before a failure is in the exception's notes."""
        call = call or self.call()
        if not streaming:
            return [], await self.provider.complete(call)
        deltas: list[str] = []
        completion: Completion | None = None
        try:
            async for event in self.provider.stream(call):
                if isinstance(event, TextDelta):
                    assert completion is None, "text after the completion"
                    deltas.append(event.text)
                else:
                    completion = event
        except ProviderError as failure:
            failure.add_note("".join(deltas))
            raise
        assert completion is not None
        return deltas, completion

    async def both(self, behaviour: Behaviour, call: ModelCall | None = None) -> Completion:
        """The answer, which is the same whole and as a stream."""
        self.fake.script(behaviour, behaviour)
        _, whole = await self.ask(call, streaming=False)
        deltas, streamed = await self.ask(call, streaming=True)
        assert meaning(streamed) == meaning(whole)
        if whole.finish != "refusal":
            assert "".join(deltas) == streamed.text
        assert self.fake.problems == []
        return whole

    async def fails(self, behaviour: Behaviour, *, streaming: bool, **facts: Any) -> ProviderError:
        """The error of a call that fails, which has nothing secret in it."""
        self.fake.script(behaviour)
        with pytest.raises(ProviderError) as caught:
            await self.ask(self.call(**facts), streaming=streaming)
        assert self.name in str(caught.value) or caught.value.kind == "context_too_long"
        assert KEY not in str(caught.value) + caught.value.detail
        return caught.value

    async def fails_both(self, behaviour: Behaviour, kind: str, *, status: int | None = None) -> ProviderError:
        """The error, which is the same for a whole answer and a stream."""
        errors = [await self.fails(behaviour, streaming=streaming) for streaming in (False, True)]
        assert [(each.kind, each.status) for each in errors] == [(kind, status)] * 2
        return errors[0]

    @property
    def bodies(self) -> list[dict[str, Any]]:
        return [exchange.body for exchange in self.fake.requests]


def meaning(completion: Completion) -> Completion:
    """The completion without what the host makes up anew or spells as it likes: ids, signatures, blanks in JSON."""
    calls = tuple(ToolCall("", call.name, _compact(call.arguments)) for call in completion.tool_calls)
    return replace(completion, text=_compact(completion.text), tool_calls=calls, extra={})


def _compact(text: str) -> str:
    return json.dumps(json.loads(text)) if text.startswith("{") and text.endswith("}") else text


Behaves = Callable[[Host], Awaitable[None]]


class Behaviours(list[Behaves]):
    """A table's rows, in order; as a decorator it adds one."""

    def __call__(self, function: Behaves) -> Behaves:
        self.append(function)
        return function


@asynccontextmanager
async def hosting(name: str) -> AsyncIterator[Host]:
    """The provider of this name, and a host that speaks its wire meanwhile."""
    fake = FakeProvider.start(WIRE_FORMATS[name])
    yield Host(name, fake, HttpProvider(PROVIDER_SPECS[name].wire_format(name, URL(fake.url), True), KEY, fake.url))
    fake.close()
    await close_session()
