from __future__ import annotations

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apps.skills.domain.frontmatter import FrontmatterError, parse_mapping, split_frontmatter

BOMBS = {
    "aliases": "a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]",
    "merge of an alias": "a: &a {x: 1}\nb:\n  <<: *a",
    "open lists": "x: " + "[" * 60_000,
    "open mappings": "{a: " * 12_000,
    "nested keys": "? " * 30_000,
    "many values": "x: [" + "1," * 30_000 + "]",
    "many anchors": "\n".join(f"k{n}: &a{n} v" for n in range(4_000)),
    "one huge text": "x: " + "y" * 10_000_000,
    "python tag": "x: !!python/object/apply:os.system [id]",
    "local tag": "x: !thing 1",
    "binary tag": "x: !!binary aGVsbG8=",
    "thirty-three levels": "x: " + "[" * 33 + "]" * 33,
}


@pytest.mark.parametrize("text", BOMBS.values(), ids=BOMBS.keys())
def test_a_bomb_is_refused_fast(text: str) -> None:
    started = time.process_time()
    with pytest.raises(FrontmatterError):
        parse_mapping(text)
    assert time.process_time() - started < 0.25


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("- a\n- b", "not a mapping"),
        ("just words", "not a mapping"),
        ("12", "not a mapping"),
        ("a: 1\na: 2", "appears twice"),
        ("x: {b: 1, b: 2}", "appears twice"),
        ("[a, b]: c", "not a plain text"),
        ("description: use when: asked", "not valid YAML in its line 1"),
        ("a: 1\n\tb: 2", "not valid YAML in its line 2"),
        ("a: 'never closed", "not valid YAML"),
        ("a: \x07", "characters that YAML does not allow"),
        ('a: "\\ud800"', "not valid YAML"),
        ("a: 1\n...\nb: 2", "not valid YAML"),
        ("%YAML 9.9\na: 1", "not valid YAML"),
        ("a: *unknown", "aliases"),
    ],
)
def test_a_problem_is_named(text: str, problem: str) -> None:
    with pytest.raises(FrontmatterError, match=problem):
        parse_mapping(text)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", {}),
        ("# only a comment", {}),
        ("~", {}),
        ("a: 1.10", {"a": "1.10"}),
        ("a: 1.1", {"a": 1.1}),
        ("a: 007", {"a": "007"}),
        ("a: 7", {"a": 7}),
        ("a: -3", {"a": -3}),
        ("a: -0", {"a": "-0"}),
        ("a: 9007199254740993", {"a": "9007199254740993"}),
        ("a: 1e3", {"a": "1e3"}),
        ("a: .inf", {"a": ".inf"}),
        ("a: 0x1F", {"a": "0x1F"}),
        ("a: 12:30:45", {"a": "12:30:45"}),
        ("a: 2026-02-10", {"a": "2026-02-10"}),
        ("a: no", {"a": "no"}),
        ("a: Null", {"a": None}),
        ("a: TRUE", {"a": True}),
        ("a: 'true'", {"a": "true"}),
        ('a: "1"', {"a": "1"}),
        ("a: |\n  one\n  two\n", {"a": "one\ntwo\n"}),
        ("1: x\ntrue: y\n~: z", {"1": "x", "true": "y", "~": "z"}),
        ('a: {"b": [1, "\\ud83d\\udd0d"],}', {"a": {"b": [1, "🔍"]}}),
        ("<<: {x: 1}", {"<<": {"x": 1}}),
        ("a: {x: 1}\nb: [q, {r: s}]", {"a": {"x": 1}, "b": ["q", {"r": "s"}]}),
    ],
)
def test_values_are_json_and_keep_what_was_written(text: str, value: object) -> None:
    assert parse_mapping(text) == value


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("before", ["", "\n", "  \n\n"])
@pytest.mark.parametrize("fence", ["---", "--- ", "---\t"])
def test_the_block_is_found_whatever_surrounds_it(newline: str, before: str, fence: str) -> None:
    text = f"{before}{fence}\na: 1\n---\nbody\nmore".replace("\n", newline)
    document = split_frontmatter(text)
    assert (document.yaml, document.body, document.closed) == ("a: 1", "body\nmore", True)


@pytest.mark.parametrize("text", ["", "words", "----\na: 1\n---\n", "# title\n---\na: 1\n---\n", " ---\na: 1\n---"])
def test_no_block(text: str) -> None:
    assert split_frontmatter(text).yaml is None


@pytest.mark.parametrize("text", ["---", "---\n", "---\na: 1", "---\na: 1\n ---\n", "---\na: 1\n----\n"])
def test_an_open_block_is_seen(text: str) -> None:
    assert split_frontmatter(text).closed is False


def test_an_empty_block_is_an_empty_mapping() -> None:
    document = split_frontmatter("---\n---\nbody")
    assert (document.yaml, document.body) == ("", "body")


@given(st.text(max_size=300))
def test_any_text_is_a_json_mapping_or_an_error(text: str) -> None:
    try:
        value = parse_mapping(text)
    except FrontmatterError:
        return
    json.dumps(value, allow_nan=False).encode()


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53) + 1, 2**53 - 1)
    | st.text(st.characters(codec="ascii"), max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abcxyz", min_size=1), inner, max_size=3),
    max_leaves=20,
)


@given(st.dictionaries(st.text("abcxyz", min_size=1), json_values, max_size=4))
def test_json_is_read_as_json(value: dict[str, object]) -> None:
    assert parse_mapping(json.dumps(value)) == value
