"""Structured tasks: the body, what is asked of the model, and how its answer is read."""

from __future__ import annotations

import json
import time
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from apps.agents.domain.json_output import MAX_REPAIR_PROBLEMS, OutputSpec, decode_output, repair_message
from apps.agents.domain.llm_task import TaskBody, read_schema, task_instructions, task_message
from apps.agents.domain.schema import compile_schema
from clasper.core.validation import read
from tests.bodies import errors_of

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner),
    max_leaves=20,
)


def test_a_body_has_its_defaults() -> None:
    body = read(TaskBody, {"prompt": "Extract"})
    assert (body.input, body.schema, body.model, body.temperature, body.max_tokens) == (
        msgspec.UNSET,
        *(None, None, 0.3, None),
    )


def test_null_is_an_input() -> None:
    body = read(TaskBody, {"prompt": "Extract", "input": None})
    assert body.input is None
    assert task_message(body.prompt, body.input) == "Extract\n\nInput:\n\nnull"


BAD_BODIES: list[tuple[str, dict[str, Any], str]] = [
    ("prompt missing", {"prompt": None}, "prompt"),
    ("prompt empty", {"prompt": ""}, "prompt"),
    ("prompt blank", {"prompt": " \n"}, "prompt"),
    ("schema no object", {"schema": "object"}, "schema"),
    ("invalid schema", {"schema": {"type": "objekt"}}, "schema"),
    ("temperature too high", {"temperature": 2.1}, "temperature"),
    ("temperature below zero", {"temperature": -0.1}, "temperature"),
    ("temperature no number", {"temperature": "0.3"}, "temperature"),
    ("no tokens", {"max_tokens": 0}, "max_tokens"),
    ("too many tokens", {"max_tokens": 1_000_001}, "max_tokens"),
    ("half a token", {"max_tokens": 1.5}, "max_tokens"),
    ("role climbs", {"agent_role": "../AGENTS"}, "agent_role"),
    ("user with control character", {"user_id": "u\x01"}, "user_id"),
    ("metadata no object", {"metadata": []}, "metadata"),
]


@pytest.mark.parametrize(("change", "field"), [case[1:] for case in BAD_BODIES], ids=[case[0] for case in BAD_BODIES])
def test_an_invalid_body(change: dict[str, Any], field: str) -> None:
    raw = {"prompt": "Extract", **change}
    assert errors_of(TaskBody, raw, also=read_schema(raw.get("schema"))[1]).keys() == {field}


def test_a_good_body_has_no_errors() -> None:
    raw = {"prompt": "x", "schema": {"type": "object"}, "temperature": 2, "max_tokens": 1, "agent_role": "planner"}
    assert read(TaskBody, raw).max_tokens == 1
    schema, problems = read_schema(raw["schema"])
    assert (schema is not None and schema.raw, problems) == (raw["schema"], {})


def test_what_is_asked() -> None:
    plain = task_instructions(None)
    assert "one JSON value" in plain
    asked = task_instructions({"type": "object", "required": ["intent"]})
    assert asked.startswith(plain)
    assert asked.endswith('{\n  "type": "object",\n  "required": [\n    "intent"\n  ]\n}')
    assert task_message("Extract") == "Extract"
    assert task_message("Extract", {"a": [1]}) == 'Extract\n\nInput:\n\n{\n  "a": [\n    1\n  ]\n}'


READ: list[tuple[str, str, Any]] = [
    ("plain", '{"a": 1}', {"a": 1}),
    ("white space", ' \n\t{"a": 1}\r\n ', {"a": 1}),
    ("byte order mark", '\ufeff {"a": 1}', {"a": 1}),
    ("number", "42", 42),
    ("null", "null", None),
    ("fence", "```\n[1, 2]\n```", [1, 2]),
    ("fence with a language", '```json\n{"a": 1}\n```', {"a": 1}),
    ("fence in prose", 'Here you are:\n\n```json\n{"a": 1}\n```\nAnything else?', {"a": 1}),
    ("fence around a word", "Sure:\n```json\ntrue\n```", True),
    ("fence on one line", 'Sure: ```json {"a": 1}``` done', {"a": 1}),
    ("fence that never closes", '```json\n{"a": 1}', {"a": 1}),
    ("fence inside a string", 'So:\n```json\n{"code": "```py\\nx\\n```"}\n```', {"code": "```py\nx\n```"}),
    ("object in prose", 'The answer is {"a": {"b": [1]}}. Good luck!', {"a": {"b": [1]}}),
    ("array in prose", 'The answer is [{"a": 1}, {"a": 2}] as asked', [{"a": 1}, {"a": 2}]),
    ("prose in brackets before it", 'The [final] answer: {"a": [1]}', {"a": [1]}),
    ("closing brace in a string", 'So: {"a": "}", "b": [1]} there', {"a": "}", "b": [1]}),
    ("large number", "1" * 30, int("1" * 30)),
]


@pytest.mark.parametrize(("text", "value"), [case[1:] for case in READ], ids=[case[0] for case in READ])
def test_an_answer_is_read(text: str, value: Any) -> None:
    parsed = decode_output(text)
    assert parsed.problems == []
    assert parsed.value == value
    assert type(parsed.value) is type(value)


UNREADABLE: list[tuple[str, str]] = [
    ("empty", ""),
    ("blank", " \n\ufeff "),
    ("prose", "I cannot do that."),
    ("NaN", "NaN"),
    ("NaN inside", '{"a": NaN}'),
    ("infinity", '{"a": -Infinity}'),
    ("beyond numbers", "1e999"),
    ("trailing comma", '{"a": 1,}'),
    ("single quotes", "{'a': 1}"),
    ("cut object", '{"a": [1, 2], "b": {"c": 1}'),
    ("cut array", '[{"a": 1}'),
    ("cut array of arrays", '[{"a": [1]}'),
    ("array within a broken object", '{"a": "}", "b": [1], }'),
    ("two objects", '{"a": 1} and {"b": 2}'),
    ("object or array", 'By [1] it is {"a": 1}'),
    ("two fences", '```json\n{"a": 1}\n```\nor\n```json\n{"b": 2}\n```'),
    ("no Unicode", '{"a": "\ud800"}'),
    ("half a pair", '{"a": "\\ud800"}'),
]


@pytest.mark.parametrize("text", [case[1] for case in UNREADABLE], ids=[case[0] for case in UNREADABLE])
def test_an_answer_that_is_not_json(text: str) -> None:
    parsed = decode_output(text)
    assert parsed.value is None
    (problem,) = parsed.problems
    assert problem.endswith(".")
    assert len(problem) < 200


HOSTILE: list[tuple[str, str]] = [
    ("brackets", "[" * 10_000_000),
    ("braces", '{"a":' * 2_000_000),
    ("pairs", "[{" * 5_000_000),
    ("closed pairs", "[]{}" * 2_500_000),
    ("fences", "```" * 3_300_000),
    ("fence and space", "```" + " " * 10_000_000 + "x"),
    ("fence lines", "```json\n" * 1_250_000),
    ("digits", "1" * 10_000_000),
    ("quotes", '"\\' * 5_000_000),
    ("space", " " * 10_000_000 + "x"),
]


@pytest.mark.parametrize("text", [case[1] for case in HOSTILE], ids=[case[0] for case in HOSTILE])
def test_hostile_answers_take_linear_time(text: str) -> None:
    began = time.monotonic()
    assert decode_output(text).problems
    assert time.monotonic() - began < 2


@given(JSON, st.sampled_from(["{}", "\ufeff\n{}\n", "```json\n{}\n```", "Here:\n```\n{}\n```\nDone."]), st.booleans())
def test_any_value_is_read_back(value: Any, around: str, escaped: bool) -> None:
    text = around.replace("{}", json.dumps(value, ensure_ascii=escaped))
    parsed = decode_output(text)
    assert (parsed.problems, parsed.value) == ([], value)


@given(st.text())
def test_any_text_is_a_value_or_an_error(text: str) -> None:
    parsed = decode_output(text)
    assert parsed.value is None or not parsed.problems


def test_a_repair_lists_problems_up_to_a_point() -> None:
    assert repair_message(["$.a: wrong"]).count("\n- ") == 1
    text = repair_message([f"$.f{n}: wrong" for n in range(25)])
    assert text.count("wrong") == MAX_REPAIR_PROBLEMS
    assert "- and 15 more" in text


def test_an_answer_is_checked_by_its_schema() -> None:
    schema = compile_schema({"type": "object", "required": ["intent"]})
    assert OutputSpec(schema).parse('{"intent": "x"}').validated
    unchecked = OutputSpec().parse('{"intent": "x"}')
    assert (unchecked.validated, unchecked.errors, unchecked.value) == (False, (), {"intent": "x"})
    wrong = OutputSpec(schema).parse("{}")
    assert wrong.is_json
    assert not wrong.validated
    assert wrong.problems == [f"$: {wrong.errors[0]['message']}"]
    assert "intent" in wrong.problems[0]
    prose = OutputSpec(schema).parse("No.")
    assert (prose.is_json, prose.problems) == (False, [prose.errors[0]["message"]])
