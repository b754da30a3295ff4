"""The same behaviours of every provider, over its own wire, against a host that speaks it and refuses what it would.

One table: each behaviour is a function, each provider a column. What differs between providers stands in `Host`.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from clasper.core.model_ref import PROVIDERS
from clasper.core.usage import Usage
from clasper.gateways.llm.base import Completion, Message, ToolCall, ToolSpec
from clasper.gateways.llm.registry import PROVIDER_SPECS
from fakes.llm import WIRE_FORMATS, reply, tool_calls
from tests.gateways.every_host import KEY, Behaves, Behaviours, Host, hosting

USAGE = Usage(input=70, cached=20, output=40)

WEATHER = ToolSpec(
    "weather:now",
    "The weather of a city.",
    {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
)
CLOCK = ToolSpec("clock", "The time.", {})
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}

WANTS_THOUGHTS_BACK = ("anthropic", "gemini", "openrouter")
"""Providers that want what they signed back in the next round of a tool loop."""

behaviour = Behaviours()


# --- Answers ---------------------------------------------------------------------------------------------------------


@behaviour
async def text(host: Host) -> None:
    completion = await host.both(reply("Hello, world. Grüße, 世界 🌍!", usage=USAGE))
    assert (completion.text, completion.finish) == ("Hello, world. Grüße, 世界 🌍!", "stop")
    assert (completion.tool_calls, completion.model) == ((), "m-1")
    assert (completion.usage, completion.usage_reported) == (USAGE, True)


@behaviour
async def stream_arrives_in_pieces(host: Host) -> None:
    host.fake.script(reply("one two three four"))
    deltas, completion = await host.ask(streaming=True)
    assert deltas == ["one ", "two ", "three ", "four"]
    assert completion.text == "one two three four"


@behaviour
async def credentials_and_own_headers_are_sent(host: Host) -> None:
    provider = replace(host.provider, extra_headers={"X-Team": "shop"})
    await provider.complete(host.call())
    headers = host.fake.requests[0].headers
    assert KEY in (headers.get("Authorization", "") + headers.get("x-api-key", "") + headers.get("x-goog-api-key", ""))
    assert headers["X-Team"] == "shop"
    if host.name != "anthropic":  # which refuses a call without a key, also at other addresses
        await replace(host.provider, api_key="").complete(host.call())
        assert KEY not in str(host.fake.requests[1].headers)


@behaviour
async def system_turns_reach_the_model(host: Host) -> None:
    call = host.call(
        Message("system", "Be brief."), Message("system", "Earlier: tea was ordered."), Message("user", "And now?")
    )
    completion = await host.both(reply("Coffee."), call)
    assert completion.text == "Coffee."
    sent = json.dumps(host.bodies[0])
    assert sent.index("Be brief.") < sent.index("Earlier: tea was ordered.")
    assert "And now?" in sent


@behaviour
async def history_may_begin_with_the_assistant(host: Host) -> None:
    call = host.call(
        Message("system", "Be brief."),
        Message("assistant", "How can I help?"),
        Message("user", "Tea"),
        Message("user", "please"),
    )
    assert (await host.both(reply("Coming."), call)).text == "Coming."
    sent = json.dumps(host.bodies[0])
    assert sent.index("How can I help?") < sent.index("Tea") < sent.index("please")


@behaviour
async def limits_and_temperature_are_sent(host: Host) -> None:
    await host.both(reply("ok"), host.call(max_output_tokens=77, temperature=0.25))
    assert "77" in json.dumps(host.bodies[0])
    assert "0.25" in json.dumps(host.bodies[0])
    # Out of some hosts' range: what is sent is in it.
    assert (await host.both(reply("ok"), host.call(temperature=2.0))).text == "ok"


@behaviour
async def cached_reads_are_counted_apart(host: Host) -> None:
    usage = Usage(input=100, cached=900, output=7)
    completion = await host.both(reply("ok", usage=usage))
    assert completion.usage == usage
    assert completion.usage.prompt_tokens == 1000


@behaviour
async def thoughts_are_paid_and_not_shown(host: Host) -> None:
    usage = Usage(input=10, output=50, reasoning=30)
    completion = await host.both(reply("The answer.", thinking="Hmm, let me see.", usage=usage))
    assert completion.text == "The answer."
    assert completion.usage == usage


@behaviour
async def an_answer_without_counts_says_so(host: Host) -> None:
    completion = await host.both(reply("ok", with_usage=False))
    assert (completion.usage, completion.usage_reported) == (Usage(), False)


# --- Tools -----------------------------------------------------------------------------------------------------------


@behaviour
async def a_tool_call(host: Host) -> None:
    call = host.call(tools=(WEATHER, CLOCK))
    completion = await host.both(tool_calls(("weather_now", '{"city": "Köln"}'), usage=USAGE), call)
    assert completion.finish == "tool_calls"
    assert [each.name for each in completion.tool_calls] == ["weather:now"]
    assert json.loads(completion.tool_calls[0].arguments) == {"city": "Köln"}
    assert completion.tool_calls[0].id
    assert completion.usage == USAGE


@behaviour
async def two_parallel_tool_calls(host: Host) -> None:
    wanted = (("weather_now", '{"city": "Rome"}'), ("weather_now", '{"city": "Oslo"}'))
    completion = await host.both(tool_calls(*wanted, text="Let me look."), host.call(tools=(WEATHER,)))
    assert completion.text == "Let me look."
    assert [json.loads(each.arguments)["city"] for each in completion.tool_calls] == ["Rome", "Oslo"]
    assert len({each.id for each in completion.tool_calls}) == 2


@behaviour
async def calls_without_ids_get_their_own(host: Host) -> None:
    wanted = (("weather_now", '{"city": "Rome"}'), ("clock", "{}"))
    completion = await host.both(tool_calls(*wanted, call_ids=False), host.call(tools=(WEATHER, CLOCK)))
    assert [each.name for each in completion.tool_calls] == ["weather:now", "clock"]
    assert len({each.id for each in completion.tool_calls if each.id}) == 2


async def _second_round(host: Host, results: list[Message], *, streaming: bool) -> list[dict[str, Any]]:
    """A tool loop of two rounds; gives the bodies of both requests."""
    call = host.call(Message("user", "Rome and Oslo?"), tools=(WEATHER,))
    wanted = (("weather_now", '{"city": "Rome"}'), ("weather_now", '{"city": "Oslo"}'))
    host.fake.script(tool_calls(*wanted, thinking="Both at once."), reply("Warm and cold."))
    _, first = await host.ask(call, streaming=streaming)
    said = Message("assistant", first.text, first.tool_calls, extra=first.extra)
    told = [replace(m, tool_call_id=c.id) for m, c in zip(results, first.tool_calls, strict=True)]
    _, second = await host.ask(replace(call, messages=(*call.messages, said, *told)), streaming=streaming)
    assert (second.text, second.finish) == ("Warm and cold.", "stop")
    assert host.fake.problems == []
    return host.bodies[-2:]


@behaviour
async def a_tool_loop_goes_round(host: Host) -> None:
    for streaming in (False, True):
        results = [Message("tool", '{"degrees": 31}'), Message("tool", "it snows")]
        _, second = await _second_round(host, results, streaming=streaming)
        sent = json.dumps(second)
        assert sent.index("Oslo") < sent.index("31") < sent.index("it snows")


@behaviour
async def signed_thoughts_go_back_in_the_loop(host: Host) -> None:
    for streaming in (False, True):
        results = [Message("tool", "warm"), Message("tool", "cold")]
        first, second = await _second_round(host, results, streaming=streaming)
        assert "signature" not in json.dumps(first).lower()
        assert ("signature" in json.dumps(second).lower()) == (host.name in WANTS_THOUGHTS_BACK)


@behaviour
async def a_tool_error_is_reported(host: Host) -> None:
    failed = Message("tool", '{"error": "no such city"}', failed=True)
    _, second = await _second_round(host, [failed, Message("tool", "cold")], streaming=False)
    assert "no such city" in json.dumps(second)


@behaviour
async def arguments_that_are_no_json_reach_the_engine_and_go_back(host: Host) -> None:
    """Anthropic and Gemini give parsed arguments only, so there they cannot be broken."""
    broken = '{"city": "Ro' if host.name not in ("anthropic", "gemini") else '{"city": 7}'
    completion = await host.both(tool_calls(("weather_now", broken)), host.call(tools=(WEATHER,)))
    assert completion.tool_calls[0].arguments.replace(" ", "") == broken.replace(" ", "")
    call = host.call(
        Message("user", "Rome?"),
        Message("assistant", "", tuple(replace(c, arguments='{"city": "Ro') for c in completion.tool_calls)),
        Message("tool", '{"error": "not JSON"}', tool_call_id=completion.tool_calls[0].id, failed=True),
        tools=(WEATHER,),
    )
    assert (await host.both(reply("Which city?"), call)).text == "Which city?"


@behaviour
async def another_providers_calls_can_be_answered(host: Host) -> None:
    """A fallback model goes on with a conversation that another provider began."""
    foreign = Completion(
        "", (), "tool_calls", Usage(), True, "x", {"another": {"message": {"a": 1}, "tool_calls": {}, "content": []}}
    )
    call = host.call(
        Message("user", "Rome?"),
        Message("assistant", "", (ToolCall("toolu_01XX", "weather:now", '{"city": "Rome"}'),), extra=foreign.extra),
        Message("tool", "warm", tool_call_id="toolu_01XX"),
        tools=(WEATHER,),
    )
    assert (await host.both(reply("Warm."), call)).text == "Warm."


# --- Structured output -----------------------------------------------------------------------------------------------


@behaviour
async def a_schema_is_enforced_where_the_host_can(host: Host) -> None:
    answer = reply('{"city": "Rome"}')
    if host.name == "anthropic":
        answer = tool_calls(("output", '{"city": "Rome"}'))
    completion = await host.both(answer, host.call(schema=SCHEMA))
    assert json.loads(completion.text) == {"city": "Rome"}
    assert (completion.finish, completion.tool_calls) == ("stop", ())
    native = json.dumps(host.bodies[0])
    assert ("city" in native) == (host.name != "groq")  # Groq has a mere JSON mode for most of its models
    assert "json" in native or "output" in native


# --- Answers that must not be used -----------------------------------------------------------------------------------


@behaviour
async def a_length_stop(host: Host) -> None:
    completion = await host.both(reply("Half an answ", finish="length", usage=USAGE))
    assert (completion.finish, completion.usage) == ("length", USAGE)


@behaviour
async def a_refusal(host: Host) -> None:
    completion = await host.both(reply("I cannot help with that.", finish="refusal"))
    # Gemini has no refusal of its own: it is a safety stop.
    assert completion.finish == ("content_filter" if host.name == "gemini" else "refusal")


@behaviour
async def a_safety_stop(host: Host) -> None:
    completion = await host.both(reply("", finish="content_filter", usage=USAGE))
    # Anthropic has no filter beside the model's refusal.
    assert completion.finish == ("refusal" if host.name == "anthropic" else "content_filter")
    assert completion.usage == USAGE


@behaviour
async def an_empty_answer(host: Host) -> None:
    completion = await host.both(reply("", usage=replace(USAGE, output=1)))
    assert (completion.text, completion.finish, completion.tool_calls) == ("", "stop", ())


@pytest.fixture
async def host(request: pytest.FixtureRequest) -> AsyncIterator[Host]:
    async with hosting(request.param) as found:
        yield found


@pytest.mark.parametrize("host", PROVIDERS, indirect=True)
@pytest.mark.parametrize("behaves", behaviour, ids=[each.__name__ for each in behaviour])
async def test_every_provider_behaves_the_same(behaves: Behaves, host: Host) -> None:
    await behaves(host)


def test_the_table_is_whole() -> None:
    assert len(behaviour) >= 22
    assert set(WIRE_FORMATS) == set(PROVIDER_SPECS) == set(PROVIDERS)
