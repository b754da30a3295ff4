"""Recorded generateContent exchanges: our request means the same, and the answer is read right."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from yarl import URL

from clasper.core.usage import Usage
from clasper.gateways.http import close_session
from clasper.gateways.llm.base import Completion, Message, ModelCall, TextDelta, ToolSpec
from clasper.gateways.llm.exchange import HttpProvider
from clasper.gateways.llm.gemini import GeminiFormat
from fakes.llm import FakeProvider, raw
from fakes.llm.gemini import FakeGemini
from tests.gateways.wire_formats import RECORDINGS, needs_recordings, recorded

FOLDER = RECORDINGS / "google"
pytestmark = needs_recordings

Expected = tuple[str, tuple[tuple[str, str], ...], str, Usage]
"""Text, tool calls (name, arguments), finish, usage."""

ANSWERS: dict[tuple[str, int], Expected] = {
    ("google_model_armor_response_template_real_block", 0): (
        "",
        (),
        "content_filter",
        Usage(input=19, output=33, reasoning=27),
    ),
    ("google_model_instructions", 0): ("The capital of France is Paris.\n", (), "stop", Usage(input=13, output=8)),
    ("google_model_max_tokens", 0): ("The capital of France is", (), "length", Usage(input=15, output=5)),
    ("google_model_stream", 0): ("The capital of France is Paris.\n", (), "stop", Usage(input=13, output=8)),
    ("google_streaming_tool_call_thought_signature", 0): (
        "",
        (("get_country", "{}"),),
        "tool_calls",
        Usage(input=29, output=212, reasoning=202),
    ),
    ("google_streaming_tool_call_thought_signature", 1): (
        "The capital of Mexico is Mexico City.",
        (),
        "stop",
        Usage(input=257, output=8),
    ),
    ("google_tool_output", 0): ("", (("get_user_country", "{}"),), "tool_calls", Usage(input=33, output=5)),
    ("google_tool_output", 1): (
        "",
        (("final_result", '{"city":"Mexico City","country":"Mexico"}'),),
        "tool_calls",
        Usage(input=47, output=8),
    ),
}

UNSAID = {"responseModalities", "thinkingConfig"}
"""Generation settings of the recorded requests that our calls never set."""

LIMIT = 500


def name_of(key: tuple[str, int]) -> str:
    return f"{key[0]}-{key[1]}"


def is_stream(exchange: dict[str, Any]) -> bool:
    return ":streamGenerateContent" in exchange["request"]["url"]


def body_of(exchange: dict[str, Any]) -> bytes:
    answer = exchange["response"]
    text: str = answer["text"] if "text" in answer else json.dumps(answer["json"])
    return text.encode()


@pytest.fixture
async def fake() -> AsyncIterator[FakeProvider]:
    async with FakeProvider(FakeGemini()) as host:
        yield host
        await close_session()


async def answer(fake: FakeProvider, exchange: dict[str, Any], call: ModelCall) -> tuple[list[str], Completion]:
    fake.script(raw(body_of(exchange), content_type=exchange["response"]["content_type"]))
    provider = HttpProvider(GeminiFormat("gemini", URL(fake.url)), "key", fake.url)
    if not is_stream(exchange):
        return [], await provider.complete(call)
    events = [event async for event in provider.stream(call)]
    last = events.pop()
    assert isinstance(last, Completion)
    return [event.text for event in events if isinstance(event, TextDelta)], last


async def call_of(fake: FakeProvider, key: tuple[str, int]) -> ModelCall:
    """The call that we would make where the recorded client made this request; turns of the model are what we read
    from the recorded answers before it."""
    exchange = recorded(f"google/{key[0]}", key[1])
    body = exchange["request"]["body"]
    earlier = iter(range(key[1]))
    messages = [Message("system", part["text"]) for part in body.get("systemInstruction", {}).get("parts", ())]
    for turn in body["contents"]:
        if turn["role"] == "model":
            before = (key[0], next(earlier))
            _, completion = await answer(fake, recorded(f"google/{before[0]}", before[1]), await call_of(fake, before))
            messages.append(Message("assistant", completion.text, completion.tool_calls, extra=completion.extra))
            continue
        for part in turn["parts"]:
            if "text" in part:
                messages.append(Message("user", part["text"]))
            else:
                calls = iter(messages[-1].tool_calls)
                result = part["functionResponse"]["response"]["return_value"]
                messages.append(Message("tool", result, tool_call_id=next(calls).id))
    model = exchange["request"]["url"].rpartition("/")[2].partition(":")[0]
    temperature = body["generationConfig"].get("temperature")
    limit = body["generationConfig"].get("maxOutputTokens", LIMIT)
    return ModelCall(
        model=model,
        messages=tuple(messages),
        tools=tuple(ToolSpec(*each) for each in declarations(body)),
        max_output_tokens=limit,
        temperature=temperature,
        timeout=5,
    )


def declarations(body: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    """Name, description and JSON schema; a schema without properties says nothing."""
    spellings = ("parametersJsonSchema", "parameters_json_schema", "parameters")
    found = []
    for each in (each for tool in body.get("tools", ()) for each in tool["functionDeclarations"]):
        schema: dict[str, Any] = next((each[key] for key in spellings if key in each), {})
        found.append((each["name"], each["description"], lower(schema) if schema.get("properties") else {}))
    return found


def lower(schema: Any) -> Any:
    """A schema of Google's own dialect, which writes types in capitals, as JSON Schema."""
    if isinstance(schema, list):
        return [lower(each) for each in schema]
    if isinstance(schema, dict):
        return {key: value.lower() if key == "type" else lower(value) for key, value in schema.items()}
    return schema


def meaning(body: dict[str, Any]) -> dict[str, Any]:
    """What a request asks, without the spellings that mean the same."""
    config = {key: value for key, value in body["generationConfig"].items() if key not in UNSAID}
    return {
        "system": [part["text"] for part in body.get("systemInstruction", {}).get("parts", ())],
        "turns": [(turn["role"], [part_meaning(part) for part in turn["parts"]]) for turn in body["contents"]],
        "tools": declarations(body),
        "config": {"maxOutputTokens": LIMIT, **config},
    }


def part_meaning(part: dict[str, Any]) -> dict[str, Any]:
    meant = dict(part)
    if "thoughtSignature" in part:
        # Both alphabets of Base64 mean the same bytes.
        meant["thoughtSignature"] = part["thoughtSignature"].replace("-", "+").replace("_", "/")
    for kind in ("functionCall", "functionResponse"):
        if kind in part:
            # The recorded client made up ids where the host gave none.
            meant[kind] = {key: value for key, value in part[kind].items() if key != "id"}
    if "functionResponse" in part:
        (meant["functionResponse"]["response"],) = part["functionResponse"]["response"].values()
    return meant


@pytest.mark.parametrize("key", ANSWERS, ids=name_of)
async def test_a_recorded_answer(fake: FakeProvider, key: tuple[str, int]) -> None:
    exchange = recorded(f"google/{key[0]}", key[1])
    deltas, completion = await answer(fake, exchange, await call_of(fake, key))
    text, tool_calls, finish, usage = ANSWERS[key]
    assert completion.text == text
    assert tuple((call.name, call.arguments) for call in completion.tool_calls) == tool_calls
    assert all(call.id for call in completion.tool_calls)
    assert (completion.finish, completion.usage, completion.usage_reported) == (finish, usage, True)
    assert f"/models/{completion.model}:" in exchange["request"]["url"]
    if is_stream(exchange):
        assert "".join(deltas) == text
        assert len(deltas) > 1 or not text


@pytest.mark.parametrize("key", ANSWERS, ids=name_of)
async def test_our_request_means_what_the_recorded_one_means(fake: FakeProvider, key: tuple[str, int]) -> None:
    exchange = recorded(f"google/{key[0]}", key[1])
    call = await call_of(fake, key)
    await answer(fake, exchange, call)
    assert fake.problems == []
    theirs = exchange["request"]["body"]
    ours = fake.requests[-1].body
    assert meaning(ours) == meaning(theirs)
    assert theirs.keys() - ours.keys() <= {"toolConfig", "modelArmorConfig"}
    base = URL(exchange["request"]["url"].partition("/models/")[0])
    assert str(GeminiFormat("gemini", base).address(call, stream=is_stream(exchange))) == exchange["request"]["url"]


async def test_the_signature_of_a_recorded_call_goes_back(fake: FakeProvider) -> None:
    call = await call_of(fake, ("google_streaming_tool_call_thought_signature", 1))
    assert len(call.messages[1].extra["gemini"][0]["signature"]) > 1000


def test_every_recorded_exchange_of_this_wire_is_tested() -> None:
    found = {
        (path.stem, index) for path in FOLDER.glob("*.json") for index, _ in enumerate(json.loads(path.read_text()))
    }
    assert found == ANSWERS.keys()
