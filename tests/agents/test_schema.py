"""A caller's JSON Schema: what is refused, what is found in a value, and that no schema makes endless work."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apps.agents.domain.schema import (
    DRAFTS,
    MAX_ERRORS,
    MAX_MESSAGE_CHARS,
    MAX_PATH_CHARS,
    InvalidSchema,
    OutputSchema,
    compile_schema,
)
from apps.agents.domain.schema_work import Workload

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)
EMAIL = {
    "type": "object",
    "properties": {"intent": {"type": "string"}, "entities": {"type": "array", "items": {"type": "string"}}},
    "required": ["intent"],
}
TREE = {
    "$defs": {
        "node": {
            "type": "object",
            "properties": {"value": {"type": "integer"}, "next": {"$ref": "#/$defs/node"}},
            "required": ["value"],
        }
    },
    "$ref": "#/$defs/node",
}


def doubling(levels: int, keyword: str) -> dict[str, Any]:
    """A schema of some lines that visits its value 2 to the power of `levels` times."""
    names = {f"a{n}": {keyword: [{"$ref": f"#/$defs/a{n + 1}"}, {"$ref": f"#/$defs/a{n + 1}"}]} for n in range(levels)}
    return {"$defs": {**names, f"a{levels}": {"type": "string"}}, "$ref": "#/$defs/a0"}


def nested(levels: int, value: Any = None) -> Any:
    for _ in range(levels):
        value = {"a": value}
    return value


def listed(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


def problems_of(schema: dict[str, Any]) -> tuple[str, ...]:
    with pytest.raises(InvalidSchema) as caught:
        compile_schema(schema)
    return caught.value.problems


def paths(schema: OutputSchema, value: Any) -> list[str]:
    return [each["path"] for each in schema.errors(value)]


BAD: list[tuple[str, dict[str, Any], str]] = [
    ("unknown type", {"type": "objekt"}, r"\$\.type: .*one of the types"),
    ("type of another kind", {"properties": {"a": {"type": 5}}}, r"\$\.properties\.a\.type: "),
    ("required no list", {"required": "a"}, r"\$\.required: "),
    ("properties no object", {"properties": []}, r"\$\.properties: "),
    ("negative length", {"minLength": -1}, r"\$\.minLength: .*minimum"),
    ("enum no list", {"enum": 1}, r"\$\.enum: "),
    ("unknown draft", {"$schema": "http://example.com/mine"}, r"\$\.\$schema: Unknown draft"),
    ("draft by address", {"$schema": "http://127.0.0.1:9/x"}, r"\$\.\$schema: Unknown draft"),
    ("draft no text", {"$schema": 7}, r"\$\.\$schema: Unknown draft"),
    ("reference by http", {"$ref": "http://127.0.0.1:9/x"}, r"`\$ref` must lead to a place inside"),
    ("reference to a file", {"items": {"$ref": "file:///etc/passwd"}}, r"`\$ref` must lead to a place inside"),
    ("reference to a name", {"$ref": "urn:example:x"}, r"`\$ref` must lead to a place inside"),
    ("reference to a neighbour", {"$ref": "other.json"}, r"`\$ref` must lead to a place inside"),
    ("reference to nothing", {"$ref": "#/$defs/none"}, r"`\$ref` must lead to a place inside"),
    ("reference to a draft", {"$ref": DRAFTS[0]}, r"`\$ref` must lead to a place inside"),
    ("reference in a circle", {"$ref": "#"}, "leads back to itself"),
    (
        "circle of two",
        {"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"not": {"$ref": "#/$defs/a"}}}, "items": {"$ref": "#/$defs/a"}},
        "leads back to itself",
    ),
    ("dynamic reference by http", {"$dynamicRef": "http://127.0.0.1:9/x"}, r"must lead to a place inside"),
    ("second root", {"$defs": {"a": {"$id": "http://x/y"}}, "$ref": "#/$defs/a"}, "Only the root"),
    ("broken pattern", {"pattern": "("}, r"\$\.pattern: Not a pattern"),
    ("look-ahead", {"pattern": "(?=a)b"}, r"\$\.pattern: Not a pattern"),
    ("back-reference", {"patternProperties": {"(a)\\1": True}}, r"\$\.patternProperties.*Not a pattern"),
    ("pattern of gigabytes", {"pattern": "((a{100}){100}){100}"}, r"\$\.pattern: Not a pattern"),
    ("too deep", nested(65), "more than 64 levels"),
    ("endlessly deep", nested(100_000), "more than 64 levels"),
    ("too large", {"const": "x" * 65_536}, "larger than 65536 bytes"),
    ("no Unicode", {"const": "\ud800"}, "not JSON"),
]


@pytest.mark.parametrize(("schema", "problem"), [case[1:] for case in BAD], ids=[case[0] for case in BAD])
def test_an_invalid_schema(schema: dict[str, Any], problem: str) -> None:
    with pytest.raises(InvalidSchema, match=problem):
        compile_schema(schema)


def test_problems_are_reported_together() -> None:
    problems = problems_of({"type": "objekt", "minLength": -1, "properties": {"a": {"required": 1}}})
    assert sorted(problem.split(":")[0] for problem in problems) == ["$.minLength", "$.properties.a.required", "$.type"]


def test_a_large_schema_with_many_problems_is_refused_at_once() -> None:
    began = time.monotonic()
    assert len(problems_of({"allOf": [5] * 25_000})) == 1
    assert time.monotonic() - began < 1


def test_nothing_is_read_from_outside(socket_disabled: None, tmp_path: Any) -> None:
    target = tmp_path / "schema.json"
    target.write_text('{"type": "string"}')
    assert "inside" in problems_of({"$ref": target.as_uri()})[0]
    assert "inside" in problems_of({"$ref": "https://json.schemastore.org/package"})[0]


GOOD: list[tuple[str, dict[str, Any], Any, list[str]]] = [
    ("as asked", EMAIL, {"intent": "x", "entities": ["a"]}, []),
    ("missing", EMAIL, {}, ["$"]),
    ("deep inside", EMAIL, {"intent": "x", "entities": ["a", 2, {}]}, ["$.entities[1]", "$.entities[2]"]),
    ("another type", EMAIL, [], ["$"]),
    ("name with a space", {"properties": {"a b": {"type": "null"}}}, {"a b": 1}, ['$["a b"]']),
    ("integer", {"type": "integer"}, 1.5, ["$"]),
    ("whole float", {"type": "integer"}, 1.0, []),
    ("null", {"type": "null"}, None, []),
    ("enum", {"enum": ["a", None]}, "b", ["$"]),
    ("format", {"format": "date"}, "tomorrow", ["$"]),
    ("format unknown", {"format": "poem"}, "tomorrow", []),
    ("tree", TREE, {"value": 1, "next": {"value": 2, "next": {"value": "3"}}}, ["$.next.next.value"]),
    ("anchor", {"$defs": {"x": {"$anchor": "name", "type": "string"}}, "items": {"$ref": "#name"}}, [1], ["$[0]"]),
    ("own id", {"$id": "http://x/a", "items": {"$ref": "http://x/a#/$defs/q"}, "$defs": {"q": False}}, [1], ["$[0]"]),
    ("quoted pointer", {"$defs": {"a/b%": {"type": "null"}}, "items": {"$ref": "#/$defs/a~1b%25"}}, [1], ["$[0]"]),
    ("draft 7", {"$schema": "http://json-schema.org/draft-07/schema#", "items": [{"type": "null"}]}, [1], ["$[0]"]),
    ("draft 2020-12", {"prefixItems": [{"type": "null"}], "items": False}, [None, 1], ["$[1]"]),
    ("list of items is no keyword of 2020-12", {"$schema": DRAFTS[1], "items": [{"type": "null"}]}, [1], ["$[0]"]),
    ("dependent", {"dependentSchemas": {"a": {"required": ["b"]}}}, {"a": 1}, ["$"]),
    ("names", {"propertyNames": {"maxLength": 1}}, {"ab": 1}, ["$"]),
]


@pytest.mark.parametrize(("schema", "value", "found"), [case[1:] for case in GOOD], ids=[case[0] for case in GOOD])
def test_what_is_wrong_with_a_value(schema: dict[str, Any], value: Any, found: list[str]) -> None:
    compiled = compile_schema(schema)
    assert paths(compiled, value) == found
    assert bool(compiled.errors(value)) == bool(found)


def test_errors_are_few_short_and_hold_no_value() -> None:
    compiled = compile_schema({"items": {"type": "string"}})
    errors = compiled.errors([{"secret": "x" * 1000}] * 30)
    assert len(errors) == MAX_ERRORS
    assert "secret" not in str(errors)
    strict = compile_schema({"additionalProperties": False, "patternProperties": {"^y": {"type": "null"}}})
    for error in strict.errors({f"name {n}": n for n in range(500)} | {"y" * 5000: 1}):
        assert len(error["message"]) <= MAX_MESSAGE_CHARS
        assert len(error["path"]) <= MAX_PATH_CHARS
    assert len(compiled.errors([1])) == 1


BOMBS: list[tuple[str, dict[str, Any], Any]] = [
    ("doubling allOf", doubling(60, "allOf"), "x"),
    ("doubling anyOf", doubling(60, "anyOf"), 1),
    ("doubling oneOf", doubling(20, "oneOf"), 1),
    (
        "doubling with each level",
        {
            "$defs": {"n": {"anyOf": [{"properties": {"a": {"$ref": "#/$defs/n"}}, "required": [x]} for x in "yz"]}},
            "$ref": "#/$defs/n",
        },
        nested(60, {}),
    ),
    ("copies of a large value", {"allOf": [{"type": "string"}] * 1000}, [{"k": "v" * 10} for _ in range(20_000)]),
    ("very many errors", {"items": {"type": "string"}}, list(range(500_000))),
    ("long errors", {"items": {"enum": [str(n) for n in range(6000)]}}, [str(-n - 1) for n in range(50_000)]),
    ("backtracking", {"pattern": "^(a+)+$"}, "a" * 200_000 + "!"),
    ("many patterns", {"allOf": [{"pattern": f"^(x|{n})*$"} for n in range(2000)]}, "x" * 1_000_000 + "!"),
    ("pattern names", {"patternProperties": {f"^x{n}": False for n in range(2000)}}, {f"x{n}": n for n in range(9999)}),
    ("too deep a value", {"$defs": {"n": {"items": {"$ref": "#/$defs/n"}}}, "$ref": "#/$defs/n"}, listed(100_000)),
]


@pytest.mark.parametrize(("schema", "value"), [case[1:] for case in BOMBS], ids=[case[0] for case in BOMBS])
def test_no_schema_makes_endless_work(schema: dict[str, Any], value: Any) -> None:
    began = time.monotonic()
    errors = compile_schema(schema).errors(value)
    assert time.monotonic() - began < 8
    assert len(errors) == 1


NODE = {"$ref": "#/$defs/n"}
RECURSIVE: list[tuple[str, dict[str, Any], Any]] = [
    ("children", {"properties": {"of": {"type": "array", "items": NODE}}}, {"of": [{"of": [{"of": []}] * 9}] * 9}),
    ("two names", {"properties": {"a": NODE, "b": NODE}}, nested(200, {"b": {}})),
    ("other names too", {"properties": {"a": NODE}, "additionalProperties": NODE}, nested(200, {"b": {}})),
    ("list and its head", {"type": "array", "prefixItems": [NODE], "items": NODE}, [listed(200) for _ in range(3)]),
    ("kinds", {"anyOf": [{"properties": {"a": NODE}}, {"properties": {"b": NODE}}]}, nested(200, {"b": {}})),
    ("kinds of names", {"patternProperties": {"^a": NODE, "^b": NODE}, "propertyNames": {"maxLength": 9}}, nested(15)),
]


@pytest.mark.parametrize(("node", "value"), [case[1:] for case in RECURSIVE], ids=[case[0] for case in RECURSIVE])
def test_recursive_schemas_may_be_used(node: dict[str, Any], value: Any) -> None:
    kind = ["object", "array", "null", "integer"]
    errors = compile_schema({"$defs": {"n": {"type": kind, **node}}, **NODE}).errors(value)
    assert [error for error in errors if "too large" in error["message"]] == []


UNKNOWN = {"prefixItems": 7, "dependentSchemas": ["x"], "dependencies": {"a": ["b"]}, "unevaluatedItems": "x"}


@pytest.mark.parametrize("draft", DRAFTS[2:])
def test_keywords_of_later_drafts_may_be_anything(draft: str) -> None:
    compiled = compile_schema({"$schema": draft, "type": "array", "items": {**UNKNOWN, "type": "string"}})
    assert paths(compiled, ["a", 1]) == ["$[1]"]


def test_the_limit_of_the_work_is_exact() -> None:
    workload = Workload({"items": {"enum": ["a", "b"]}})
    assert workload.of(["a", "b"], limit=10**6) == (8 + 3) + 2 * (1 + 3) * (8 + 1)
    assert workload.of(["a", "b"], limit=83) == 83
    assert workload.of(["a"] * 10**6, limit=83) > 83


def test_an_endless_chain_of_references_is_refused() -> None:
    links = {f"a{n}": {"$ref": f"#/$defs/a{n + 1}"} for n in range(1500)}
    assert problems_of({"$defs": {**links, "a1500": {}}, "$ref": "#/$defs/a0"})


def test_text_that_is_not_unicode_is_reported() -> None:
    assert "Unicode" in compile_schema({"type": "string"}).errors("\ud800")[0]["message"]


@given(JSON, JSON)
def test_any_object_is_a_schema_or_refused_and_any_value_can_be_checked(raw: Any, value: Any) -> None:
    schema = {"properties": raw, "enum": [value]} if isinstance(raw, dict) else {"enum": [value]}
    try:
        compiled = compile_schema(schema)
    except InvalidSchema:
        assert problems_of(schema)
        return
    for each in compiled.errors(value):
        assert each["path"].startswith("$")


@given(JSON)
def test_a_value_is_what_it_is(value: Any) -> None:
    assert not compile_schema({"const": value}).errors(value)
    assert compile_schema({"not": {"const": value}}).errors(value)
