"""Canonical JSON: the fast path gives the reference library's bytes, and what JSON cannot carry is refused."""

from __future__ import annotations

import hashlib
import json
import math
from typing import Any

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from clasper.core.canonical import canonical_json, digest

SAFE = 2**53 - 1

text = st.text(st.characters(codec="utf-8"))
ascii_text = st.text(st.characters(codec="ascii"))
scalars = st.none() | st.booleans() | st.integers(-SAFE, SAFE) | text
floats = st.floats(allow_nan=False, allow_infinity=False)


def trees(leaves: st.SearchStrategy[Any], keys: st.SearchStrategy[str]) -> st.SearchStrategy[Any]:
    return st.recursive(leaves, lambda inner: st.lists(inner) | st.dictionaries(keys, inner), max_leaves=20)


@given(trees(scalars, ascii_text))
def test_the_fast_path_is_the_reference(value: Any) -> None:
    found = canonical_json(value)
    assert found == rfc8785.dumps(value)
    assert json.loads(found) == value


@given(trees(scalars | floats, text))
def test_any_json_value_is_the_reference(value: Any) -> None:
    assert canonical_json(value) == rfc8785.dumps(value)


@given(st.dictionaries(text, scalars))
def test_the_order_of_keys_does_not_matter(value: dict[str, Any]) -> None:
    assert canonical_json(dict(reversed(list(value.items())))) == canonical_json(value)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"b": 1, "a": [True, None, "x"]}, b'{"a":[true,null,"x"],"b":1}'),
        ({"€": "€", "a": '\u0001\n"'}, '{"a":"\\u0001\\n\\"","€":"€"}'.encode()),
        # RFC 8785, 3.2.3: keys are ordered by UTF-16 code units, so U+1F600 comes before U+FB33.
        ({"\ufb33": 1, "\U0001f600": 2}, '{"\U0001f600":2,"\ufb33":1}'.encode()),
        ([1.0, 0.1, 1e21, -0.0], b"[1,0.1,1e+21,0]"),
        ({}, b"{}"),
    ],
)
def test_known_bytes(value: Any, expected: bytes) -> None:
    assert canonical_json(value) == expected
    assert digest(value) == hashlib.sha256(expected).hexdigest()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, SAFE + 1, -SAFE - 1, {"a": [SAFE + 1]}, {1, 2}, b"x"])
def test_what_json_cannot_carry_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match=r"."):
        canonical_json(value)
