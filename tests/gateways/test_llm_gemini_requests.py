"""What the generateContent host is sent, and what a strict host takes of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from clasper.core.usage import Usage
from clasper.gateways.http import close_session
from clasper.gateways.llm.base import Message, ProviderError, ToolCall, ToolSpec
from clasper.gateways.llm.gemini import GeminiFormat
from fakes.llm import FakeProvider, error, reply, tool_calls
from fakes.llm.gemini import FakeGemini, signature
from tests.gateways.gemini_calls import (
    CALL,
    CLOCK,
    ORDER,
    WIRE,
    answered,
    asked,
    both,
    chunk,
    client,
    contents,
    conversation,
    encoded,
    model,
    signed,
    user,
)


@pytest.fixture
async def fake() -> AsyncIterator[FakeProvider]:
    async with FakeProvider(FakeGemini()) as host:
        yield host
        await close_session()


class TestAddress:
    @pytest.mark.parametrize(
        ("base", "model", "stream", "address"),
        [
            ("https://h/v1beta", "gemini-2.5-flash", False, "https://h/v1beta/models/gemini-2.5-flash:generateContent"),
            ("https://h/v1beta", "m", True, "https://h/v1beta/models/m:streamGenerateContent?alt=sse"),
            ("https://h/v1beta/", "models/m", False, "https://h/v1beta/models/m:generateContent"),
            ("https://h/v1beta", "tunedModels/m", False, "https://h/v1beta/tunedModels/m:generateContent"),
            ("https://h:8443/a/b?k=1", "m", False, "https://h:8443/a/b/models/m:generateContent?k=1"),
            ("https://h/a?k=1&alt=json", "m", True, "https://h/a/models/m:streamGenerateContent?k=1&alt=sse"),
            ("https://h/a%2Fb", "m", False, "https://h/a%2Fb/models/m:generateContent"),
            ("https://h/v1", "x/../../y", False, "https://h/v1/models/x%2F..%2F..%2Fy:generateContent"),
            ("https://h/v1", "models/../x", False, "https://h/v1/models/..%2Fx:generateContent"),
            ("https://h/v1", "..", False, "https://h/v1/models/..:generateContent"),
            ("https://h/v1", "m?k=2#f", False, "https://h/v1/models/m%3Fk%3D2%23f:generateContent"),
            ("https://h/v1", "m:countTokens", False, "https://h/v1/models/m%3AcountTokens:generateContent"),
            ("https://h/v1", "%2e%2e", False, "https://h/v1/models/%252e%252e:generateContent"),
            ("https://h/v1", "mö \ud800\n", False, "https://h/v1/models/m%C3%B6%20%3F%0A:generateContent"),
            ("https://h/v1", "models/", False, "https://h/v1/models/models%2F:generateContent"),
        ],
    )
    def test_the_model_is_one_segment_of_the_path(self, base: str, model: str, stream: bool, address: str) -> None:
        wire = GeminiFormat("gemini", URL(base))
        assert str(wire.address(replace(CALL, model=model), stream=stream)) == address

    @given(st.text())
    def test_no_model_leaves_its_segment(self, model: str) -> None:
        path = WIRE.address(replace(CALL, model=model), stream=False).raw_path
        assert path.startswith(("/v1beta/models/", "/v1beta/tunedModels/"))
        assert (path.count("/"), path.endswith(":generateContent")) == (3, True)

    def test_the_key_goes_into_a_header_if_there_is_one(self) -> None:
        assert WIRE.headers("k") == {"x-goog-api-key": "k"}
        assert WIRE.headers("") == {}


def results(*answers: dict[str, Any]) -> dict[str, Any]:
    return {"role": "user", "parts": [{"functionResponse": answer} for answer in answers]}


def asks(name: str, arguments: str = "{}", call_id: str = "c1") -> Message:
    return Message("assistant", "", (ToolCall(call_id, name, arguments),))


TURNS: dict[str, tuple[tuple[Message, ...], list[dict[str, Any]]]] = {
    "one question": ((Message("user", "Hi"),), [user("Hi")]),
    "turns of one role are joined": (
        (Message("user", "a"), Message("user", "b"), Message("assistant", "c"), Message("assistant", "d")),
        [user("a", "b"), model({"text": "c"}, {"text": "d"})],
    ),
    "the model's turn comes first": (
        (Message("system", "s"), Message("assistant", "a"), Message("user", "b")),
        [user("(earlier conversation)"), model({"text": "a"}), user("b")],
    ),
    "empty turns are left out": (
        (Message("user", "a"), Message("assistant", ""), Message("user", "b"), Message("user", "")),
        [user("a", "b")],
    ),
    "the only turn is empty": ((Message("user", ""),), [user(" ")]),
    "no turn at all": ((Message("system", "s"),), [user(" ")]),
    "a call and its result": (
        (Message("user", "a"), asks("shop:order", '{"id": 1}'), Message("tool", '{"open": true}', tool_call_id="c1")),
        [
            user("a"),
            model({"functionCall": {"name": "shop_order", "args": {"id": 1}}}),
            results({"name": "shop_order", "response": {"result": {"open": True}}}),
        ],
    ),
    "text beside a call": (
        (Message("user", "a"), Message("assistant", "I look.", (ToolCall("c1", "clock", ""),))),
        [user("a"), model({"text": "I look."}, {"functionCall": {"name": "clock", "args": {}}})],
    ),
    "parallel results are one turn with the next question": (
        (
            Message("user", "a"),
            Message("assistant", "", (ToolCall("c1", "x", "{}"), ToolCall("c2", "y", "{}"))),
            Message("tool", "one", tool_call_id="c1"),
            Message("tool", "broken", tool_call_id="c2", failed=True),
            Message("user", "b"),
        ),
        [
            user("a"),
            model({"functionCall": {"name": "x", "args": {}}}, {"functionCall": {"name": "y", "args": {}}}),
            {
                "role": "user",
                "parts": [
                    {"functionResponse": {"name": "x", "response": {"result": "one"}}},
                    {"functionResponse": {"name": "y", "response": {"error": "broken"}}},
                    {"text": "b"},
                ],
            },
        ],
    ),
    "a result of an unknown call is text": (
        (Message("user", "a"), Message("tool", "one", tool_call_id="gone"), Message("tool", "", tool_call_id="gone")),
        [user("a", "one")],
    ),
}


class TestTurns:
    @pytest.mark.parametrize("name", TURNS)
    def test_a_conversation_becomes_turns(self, name: str) -> None:
        messages, expected = TURNS[name]
        assert contents(*messages) == expected

    @pytest.mark.parametrize(
        "arguments", ["", "{", "[1]", '"x"', "null", "NaN", '{"a": 1} x', " ", "\ud800", '{"a":' * 5000], ids=repr
    )
    def test_arguments_that_are_no_object_are_sent_as_one(self, arguments: str) -> None:
        assert contents(Message("user", "a"), asks("f", arguments))[1]["parts"][0]["functionCall"]["args"] == {}

    @pytest.mark.parametrize(
        ("content", "value"),
        [
            ('{"a": [1, null]}', {"a": [1, None]}),
            ("[]", []),
            ('"x"', "x"),
            ("true", True),
            ("null", None),
            ("12345678901234567890", "12345678901234567890"),
            ("The order is open.", "The order is open."),
            ("{broken", "{broken"),
            ("", ""),
        ],
    )
    def test_results_are_sent_as_values(self, content: str, value: Any) -> None:
        sent = contents(Message("user", "a"), asks("f"), Message("tool", content, tool_call_id="c1"))[2]
        assert sent["parts"][0]["functionResponse"]["response"] == {"result": value}

    def test_changed_text_goes_unsigned_and_calls_keep_their_signatures(self) -> None:
        parts = [signed("A secret.", "c2ln"), {"functionCall": {"name": "clock"}, "thoughtSignature": "c2lnMg=="}]
        completion = WIRE.decode(chunk(parts, finish="STOP"), CALL)
        message = replace(answered(completion), content="[taken out]")
        call = {"functionCall": {"name": "clock", "args": {}}, "thoughtSignature": "c2lnMg=="}
        assert contents(Message("user", "a"), message)[1] == model({"text": "[taken out]"}, call)

    def test_calls_that_are_gone_stay_gone_and_new_ones_come_last(self) -> None:
        parts = [{"functionCall": {"name": name, "id": name}} for name in ("a", "b")]
        completion = WIRE.decode(chunk(parts, finish="STOP"), CALL)
        message = replace(answered(completion), tool_calls=(ToolCall("new", "c", "{}"), completion.tool_calls[1]))
        sent = contents(Message("user", "a"), message)[1]["parts"]
        assert [part["functionCall"] for part in sent] == [
            {"name": "b", "args": {}, "id": "b"},
            {"name": "c", "args": {}},
        ]

    @pytest.mark.parametrize("extra", [{"openai": {"message": {}, "tool_calls": {}}}, {"gemini": {"odd": 1}}], ids=repr)
    def test_what_other_wires_keep_is_ignored(self, extra: dict[str, Any]) -> None:
        message = replace(asks("f"), extra=extra, content="x")
        sent = contents(Message("user", "a"), message)[1]
        assert sent == model({"text": "x"}, {"functionCall": {"name": "f", "args": {}}})

    @pytest.mark.parametrize(
        ("name", "mark"),
        [
            ("gemini-3-pro-preview", "skip_thought_signature_validator"),
            ("models/gemini-flash-latest", "skip_thought_signature_validator"),
            ("gemini-2.5-flash", None),
            ("gemma-3-27b-it", None),
        ],
    )
    def test_calls_of_other_models_are_marked_for_models_that_demand_it(self, name: str, mark: str | None) -> None:
        message = Message("assistant", "t", (ToolCall("c1", "x", "{}"), ToolCall("c2", "y", "{}")))
        sent = contents(Message("user", "a"), message, model=name)[1]["parts"]
        assert [part.get("thoughtSignature") for part in sent] == [None, mark, None]

    def test_the_models_own_signature_is_kept(self) -> None:
        parts = [{"functionCall": {"name": "clock"}, "thoughtSignature": "c2lnMg=="}]
        completion = WIRE.decode(chunk(parts, finish="STOP"), CALL)
        sent = contents(Message("user", "a"), answered(completion), model="gemini-3-pro-preview")[1]["parts"]
        assert sent[0]["thoughtSignature"] == "c2lnMg=="


class TestRequest:
    def test_everything_at_its_place(self) -> None:
        messages = (Message("system", "Be brief."), Message("user", "Hi"), Message("system", "Be kind."))
        call = replace(CALL, messages=messages, tools=(ORDER, CLOCK), temperature=0.5)
        assert encoded(call) == {
            "systemInstruction": {"parts": [{"text": "Be brief.\n\nBe kind."}]},
            "contents": [user("Hi")],
            "generationConfig": {"maxOutputTokens": 100, "temperature": 0.5},
            "tools": [
                {
                    "functionDeclarations": [
                        {
                            "name": "shop_order",
                            "description": "Finds an order.",
                            "parametersJsonSchema": {"type": "object", "properties": {"id": {"type": "integer"}}},
                        },
                        {"name": "clock", "description": "Tells the time."},
                    ]
                }
            ],
        }

    def test_nothing_that_is_not_asked_for(self) -> None:
        assert encoded(CALL) == {"contents": [user("Hi")], "generationConfig": {"maxOutputTokens": 100}}
        assert WIRE.encode(CALL, stream=True) == WIRE.encode(CALL, stream=False)

    @pytest.mark.parametrize(("asked_for", "sent"), [(-1, 0), (0, 0), (1.5, 1.5), (2, 2), (9, 2)])
    def test_the_temperature_is_clamped(self, asked_for: float, sent: float) -> None:
        assert encoded(replace(CALL, temperature=asked_for))["generationConfig"]["temperature"] == sent

    @pytest.mark.parametrize("schema", [{"type": "object"}, {"type": "array", "items": {}}, {}], ids=repr)
    def test_a_schema_is_enforced_without_tools_only(self, schema: dict[str, Any]) -> None:
        config = encoded(replace(CALL, schema=schema))["generationConfig"]
        assert (config["responseMimeType"], config.get("responseJsonSchema", {})) == ("application/json", schema)
        assert encoded(replace(CALL, schema=schema, tools=(CLOCK,)))["generationConfig"] == {"maxOutputTokens": 100}

    @pytest.mark.parametrize("odd", ["\ud800", object()], ids=["surrogate", "object"])
    def test_what_json_cannot_carry_is_an_invalid_request(self, odd: Any) -> None:
        tool = ToolSpec("f", "", {"type": "object", "properties": {"a": {"const": odd}}})
        with pytest.raises(ProviderError) as caught:
            WIRE.encode(replace(CALL, tools=(tool,)), stream=False)
        assert caught.value.kind == "invalid_request"


class TestHost:
    @both
    async def test_text(self, fake: FakeProvider, streaming: bool) -> None:
        usage = Usage(input=10, cached=4, output=9, reasoning=3)
        fake.script(reply("Hello there, you.", usage=usage, thinking="Greet them."))
        completion = await asked(client(fake), CALL, streaming=streaming)
        assert (completion.text, completion.finish, completion.usage) == ("Hello there, you.", "stop", usage)
        assert completion.model == CALL.model
        assert (fake.problems, fake.requests[0].headers["x-goog-api-key"]) == ([], "a-key")
        assert fake.requests[0].wants_stream == streaming

    @both
    @pytest.mark.parametrize("finish", ["length", "content_filter", "error"])
    async def test_other_ends(self, fake: FakeProvider, finish: Any, streaming: bool) -> None:
        fake.script(reply("Half a", finish=finish))
        completion = await asked(client(fake), CALL, streaming=streaming)
        assert (completion.text, completion.finish) == ("Half a", finish)

    @both
    @pytest.mark.parametrize("call_ids", [True, False], ids=["ids", "no ids"])
    async def test_a_tool_loop_gives_back_what_the_host_wants(
        self, fake: FakeProvider, call_ids: bool, streaming: bool
    ) -> None:
        order = ("shop_order", '{"id":7}')
        fake.script(
            tool_calls(order, ("clock", "{}"), text="I look.", thinking="Look it up.", call_ids=call_ids),
            tool_calls(order, thinking="Once more.", call_ids=call_ids),
            reply("It is open."),
        )
        call = replace(CALL, tools=(ORDER, CLOCK))
        for _ in range(2):
            completion = await asked(client(fake), call, streaming=streaming)
            assert completion.finish == "tool_calls"
            assert completion.tool_calls[0].name == "shop:order"
            done = [Message("tool", '{"open": true}', tool_call_id=each.id) for each in completion.tool_calls]
            call = replace(call, messages=(*call.messages, answered(completion), *done))
        assert (await asked(client(fake), call, streaming=streaming)).text == "It is open."
        assert fake.problems == []
        _, first, first_results, second, second_results = fake.requests[2].body["contents"]
        assert [part.get("thoughtSignature") for part in first["parts"]] == [None, signature("Look it up."), None]
        assert second["parts"][0]["thoughtSignature"] == signature("Once more.")
        given = [part["functionCall"].get("id") for part in (*first["parts"][1:], *second["parts"])]
        returned = [part["functionResponse"].get("id") for part in (*first_results["parts"], *second_results["parts"])]
        assert given == returned
        assert all(given) if call_ids else not any(given)
        ids = [each.id for message in call.messages for each in message.tool_calls]
        assert len(set(ids)) == 3

    @both
    async def test_a_call_that_the_model_got_wrong(self, fake: FakeProvider, streaming: bool) -> None:
        fake.script(tool_calls(("clock", "{broken")))
        completion = await asked(client(fake), replace(CALL, tools=(CLOCK,)), streaming=streaming)
        assert (completion.finish, completion.tool_calls) == ("error", ())

    @both
    async def test_an_error_names_its_status(self, fake: FakeProvider, streaming: bool) -> None:
        fake.script(error(503, message="The model is overloaded."))
        with pytest.raises(ProviderError) as caught:
            await asked(client(fake), CALL, streaming=streaming)
        assert (caught.value.kind, caught.value.detail) == ("unavailable", "UNAVAILABLE: The model is overloaded.")


CALLED = {"functionCall": {"name": "f", "args": {}}}
REFUSED: dict[str, dict[str, Any]] = {
    "an unknown field": {"model": "m"},
    "no contents": {"contents": []},
    "an unknown role": {"contents": [{"role": "assistant", "parts": [{"text": "a"}]}]},
    "two turns of one role": {"contents": [user("a"), user("b")]},
    "the model's turn first": {"contents": [model({"text": "a"})]},
    "a turn without parts": {"contents": [user()]},
    "an empty part": {"contents": [user("")]},
    "a part without data": {"contents": [{"role": "user", "parts": [{"thoughtSignature": "c2ln"}]}]},
    "a signature that is none": {"contents": [user("a"), model(signed("b", "c2l"))]},
    "a call without a result": {"contents": [user("a"), model(CALLED), user("b")]},
    "a result without a call": {"contents": [user("a"), model({"text": "b"}), results({"name": "f", "response": {}})]},
    "a result of another tool": {"contents": [user("a"), model(CALLED), results({"name": "g", "response": {}})]},
    "a result that is no object": {"contents": [user("a"), model(CALLED), results({"name": "f", "response": "x"})]},
    "arguments that are no object": {"contents": [user("a"), model({"functionCall": {"name": "f", "args": "{}"}})]},
    "an empty instruction": {"systemInstruction": {"parts": [{"text": ""}]}},
    "a name that hosts refuse": {"tools": [{"functionDeclarations": [{"name": "1st"}]}]},
    "a name twice": {"tools": [{"functionDeclarations": [{"name": "f"}, {"name": "f"}]}]},
    "too hot": {"generationConfig": {"temperature": 2.1}},
    "no output": {"generationConfig": {"maxOutputTokens": 0}},
    "a schema without its type": {"generationConfig": {"responseJsonSchema": {}}},
    "a type beside tools": {
        "generationConfig": {"responseMimeType": "application/json"},
        "tools": [{"functionDeclarations": [{"name": "f"}]}],
    },
}


class TestStrictness:
    @pytest.mark.parametrize("name", REFUSED)
    def test_the_fake_refuses_what_the_host_refuses(self, name: str) -> None:
        assert FakeGemini().problem({}, {"contents": [user("a")]}) is None
        found = FakeGemini().problem({}, {"contents": [user("a")], **REFUSED[name]})
        assert found is not None
        assert found[0] == 400

    texts = st.sampled_from(["", " ", "Hi", '{"a": 1}', "[1]", "12", "é\n"])
    steps = st.one_of(
        st.tuples(st.just("system"), texts),
        st.tuples(st.just("user"), texts),
        st.tuples(st.just("assistant"), texts),
        st.tuples(st.sampled_from(["one call", "two calls"]), texts),
    )

    @given(st.lists(steps, max_size=8), st.sampled_from(["gemini-2.5-flash", "gemini-3-pro-preview"]), st.booleans())
    def test_every_conversation_is_one_that_the_host_takes(
        self, drawn: list[tuple[str, str]], name: str, has_tools: bool
    ) -> None:
        messages: list[Message] = []
        for n, (kind, text) in enumerate(drawn):
            if not kind.endswith(("call", "calls")):
                messages.append(Message(kind, text))  # type: ignore[arg-type]
                continue
            calls = tuple(ToolCall(f"c{n}-{m}", "shop:order", text) for m in range(1 + (kind == "two calls")))
            messages.append(Message("assistant", text, calls))
            messages += [Message("tool", text, tool_call_id=call.id, failed=bool(n % 2)) for call in calls]
        tools = (ORDER, CLOCK) if has_tools else ()
        body = encoded(replace(conversation(*messages, tools=tools, model=name), schema={"type": "array"}))
        assert FakeGemini().problem({}, body) is None

    @pytest.mark.parametrize(
        ("path", "takes", "name"),
        [
            ("/v1beta/models/gemini-2.5-flash:generateContent", True, "gemini-2.5-flash"),
            ("/v1beta/tunedModels/m:streamGenerateContent", True, "tunedModels/m"),
            ("/v1beta/models/:generateContent", False, ""),
            ("/v1beta/models/m:countTokens", False, ""),
            ("/v1/models/m:generateContent", False, ""),
        ],
    )
    def test_the_fake_knows_its_paths(self, path: str, takes: bool, name: str) -> None:
        assert (FakeGemini().takes(path), FakeGemini().model(path, {})) == (takes, name)
