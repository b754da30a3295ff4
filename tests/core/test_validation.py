"""`read`: a Struct or every fault of every field at once."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clasper.core.errors import InvalidRequest
from clasper.core.schemas import Errors, Input
from clasper.core.validation import read


class Inner(msgspec.Struct, frozen=True):
    kind: Literal["a", "b"]
    size: Annotated[int, msgspec.Meta(ge=0)] = 0


class Body(Input, frozen=True, kw_only=True, forbid_unknown_fields=False):
    name: Annotated[str, msgspec.Meta(min_length=1, max_length=5)]
    wire: Annotated[str, msgspec.Meta(pattern=r"^[a-z]+$")] = msgspec.field(default="x", name="wireName")
    items: Annotated[list[Inner], msgspec.Meta(max_length=3)] | None = None
    inner: Inner | None = None
    count: int | None = None
    extra: dict[str, Any] = {}


def convert(value: Any, kind: type[Body]) -> tuple[Body | None, dict[str, list[str]]]:
    """The body, or None and its errors by field."""
    try:
        return read(kind, value), {}
    except InvalidRequest as error:
        if error.details["formErrors"]:
            raise
        return None, error.details["fieldErrors"]


GOOD: list[tuple[dict[str, Any], Body]] = [
    ({"name": "a"}, Body(name="a")),
    ({"name": "a", "unknown": 1}, Body(name="a")),
    (
        {"name": "a", "wireName": "y", "items": [{"kind": "b", "size": 2}], "count": None, "extra": {"k": [1]}},
        Body(name="a", wire="y", items=[Inner("b", 2)], extra={"k": [1]}),
    ),
]


@pytest.mark.parametrize(("value", "expected"), GOOD, ids=range(len(GOOD)))
def test_a_good_value(value: dict[str, Any], expected: Body) -> None:
    assert convert(value, Body) == (expected, {})


REQUIRED = "This field is required."
BAD: list[tuple[dict[str, Any], dict[str, list[str]]]] = [
    ({}, {"name": [REQUIRED]}),
    ({"name": None}, {"name": ["a string, got null"]}),
    ({"name": ""}, {"name": ["length >= 1"]}),
    ({"name": "abcdef"}, {"name": ["length <= 5"]}),
    ({"name": "a", "wire": 1}, {}),
    ({"name": "a", "wireName": "A"}, {"wireName": ["regex"]}),
    ({"name": "a", "count": "1"}, {"count": ["an integer or null, got a string"]}),
    ({"name": "a", "count": True}, {"count": ["an integer or null, got a boolean"]}),
    ({"name": "a", "extra": []}, {"extra": ["an object, got a list"]}),
    ({"name": "a", "inner": {"kind": "c", "size": -1}}, {"inner": ["kind: Must be one of a, b.", "size: "]}),
    ({"name": "a", "inner": {}}, {"inner": [f"kind: {REQUIRED}"]}),
    ({"name": "a", "inner": "x"}, {"inner": ["an object or null, got a string"]}),
    (
        {"name": "a", "items": [{"kind": "a"}, {}, {"kind": "a", "size": "2"}]},
        {"items": [f"[1].kind: {REQUIRED}", "[2].size: Expected an integer, got a string"]},
    ),
    ({"name": "a", "items": [{"kind": "a"}] * 4}, {"items": ["length <= 3"]}),
    (
        {"wireName": "A", "items": "x", "count": 1.5},
        {"name": [REQUIRED], "wireName": ["regex"], "items": ["got a string"], "count": ["got a number"]},
    ),
]


@pytest.mark.parametrize(("value", "expected"), BAD, ids=range(len(BAD)))
def test_all_errors_at_once(value: dict[str, Any], expected: dict[str, list[str]]) -> None:
    found, faults = convert(value, Body)
    assert (found is None) == bool(expected)
    assert faults.keys() == expected.keys()
    for field, parts in expected.items():
        assert len(faults[field]) == len(parts)
        assert all(part in text for part, text in zip(parts, faults[field], strict=True)), faults[field]


@pytest.mark.parametrize("value", [None, [], [{}], "text", 1, True])
def test_what_is_no_object(value: Any) -> None:
    with pytest.raises(InvalidRequest) as caught:
        convert(value, Body)
    assert caught.value.details == {"fieldErrors": {}, "formErrors": ["Expected a JSON object."]}


json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["kind", "size", "x"]), inner),
    max_leaves=8,
)
field_names = st.sampled_from(["name", "wireName", "items", "inner", "count", "extra", "other"])


@given(st.dictionaries(field_names, json_values))
def test_any_object_converts_or_names_its_wrong_fields(value: dict[str, Any]) -> None:
    found, faults = convert(value, Body)
    good: Errors = {}
    if found is not None:
        assert faults == good
        assert found == msgspec.convert(value, Body)
        return
    assert faults
    assert faults.keys() <= {"name", "wireName", "items", "inner", "count", "extra"}
    mended = {name: each for name, each in value.items() if name not in faults} | {"name": "a"}
    assert convert(mended, Body)[0] is not None, "the other fields are not to blame"
