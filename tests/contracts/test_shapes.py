"""The ruler of the golden tests measures right."""

from __future__ import annotations

from typing import Any

import pytest

from tests.contracts.shapes import differences


@pytest.mark.parametrize(
    ("sample", "actual", "expected"),
    [
        ({"a": 1}, {"a": 2, "b": None}, []),
        ({"a": 1}, {}, ["a: missing"]),
        ({"a": 1}, {"a": "1"}, ["a: string instead of integer"]),
        ({"a": 1}, {"a": 1.0}, ["a: number instead of integer"]),
        ({"a": 1}, {"a": True}, ["a: boolean instead of integer"]),
        ({"a": 0.5}, {"a": 1}, []),
        ({"a": "x"}, {"a": None}, ["a: null"]),
        ({"a": {"b": "x"}}, {"a": {"b": None}}, ["a.b: null"]),
        ({"a": {"b": "x"}}, {"a": []}, ["a: array instead of object"]),
        ({"a": {"$any": True}}, {"a": {}}, []),
        ({"a": {"$any": True}}, {"a": "x"}, ["a: string instead of object"]),
        ({"a": []}, {"a": [1, "x"]}, []),
        ({"a": []}, {"a": {}}, ["a: object instead of array"]),
        ({"a": [{"b": 1}]}, {"a": []}, ["a: empty, so nothing is shown"]),
        ({"a": [{"b": 1}, {"c": 1}]}, {"a": [{"b": 1}, {"c": 1}, {"b": 2}]}, []),
        ({"a": [{"b": 1}, {"c": 1}]}, {"a": [{"b": 1}]}, ["a[].c: missing"]),
        ({"a": [{"b": 1}]}, {"a": [{"b": 1}, {"b": "x"}]}, ["a[].b: string instead of integer"]),
    ],
)
def test_differences(sample: Any, actual: Any, expected: list[str]) -> None:
    assert differences(sample, actual) == expected


def test_data_and_nullable_paths() -> None:
    assert differences({"labels": {"baseline": "true"}}, {"labels": {"other": "x"}}, data=["labels"]) == []
    assert differences({"labels": {"baseline": "true"}}, {"labels": {"other": 1}}, data=["labels"]) == [
        "labels.*: integer instead of string"
    ]
    assert differences({"a": [{"b": 1}]}, {"a": [{"b": None}]}, nullable=["a[].b"]) == []
