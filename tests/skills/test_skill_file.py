"""Skills of every quality: each one is read, and what could open a gate by mistake disables the skill instead."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apps.skills.domain.skill_file import SkillFile, parse_skill_file
from apps.skills.domain.text import MAX_CHARS_PER_FILE, decode_text, truncate


def skill(text: str | bytes, directory: str = "web-search") -> SkillFile:
    return parse_skill_file(directory, text.encode() if isinstance(text, str) else text)


def front(block: str, body: str = "Do it.") -> SkillFile:
    return skill(f"---\n{block}\n---\n{body}")


def test_everything_a_good_skill_says() -> None:
    read = front(
        """
name: order-support
version: 1.10
description: Finds orders.
metadata:
  clasper:
    emoji: "📦"
    always: false
    tools: [orders:lookup, "customers:*"]
    os: [linux, darwin]
    requires:
      env: [A, B]
      bins: [git]
      anyBins: [rg, grep]
      config: [default.task]
""",
        "\nFirst.\n\nSecond.\n",
    )
    assert read == SkillFile(
        directory="web-search",
        name="order-support",
        version="1.10",
        description="Finds orders.",
        instructions="First.\n\nSecond.",
        emoji="📦",
        tools=("orders:lookup", "customers:*"),
        env=("A", "B"),
        bins=("git",),
        any_bins=("rg", "grep"),
        config=("default.task",),
        os=("linux", "darwin"),
        metadata=read.metadata,
    )
    assert read.metadata == {
        "clasper": {
            "emoji": "📦",
            "always": False,
            "tools": ["orders:lookup", "customers:*"],
            "os": ["linux", "darwin"],
            "requires": {"env": ["A", "B"], "bins": ["git"], "anyBins": ["rg", "grep"], "config": ["default.task"]},
        }
    }


HARMLESS: list[tuple[str | bytes, dict[str, Any]]] = [
    ("", {"name": "web-search", "description": "", "instructions": "", "metadata": None}),
    ("\n\n", {"name": "web-search", "instructions": ""}),
    ("Only words.", {"name": "web-search", "description": "", "instructions": "Only words.", "metadata": None}),
    ("---\n---\nBody", {"name": "web-search", "instructions": "Body"}),
    ("---\nname: x\n---", {"name": "x", "instructions": ""}),
    ("\ufeff---\nname: x\n---\nBody", {"name": "x", "instructions": "Body"}),
    ("---\r\nname: x\r\nversion: 2\r\n---\r\nA\r\nB", {"name": "x", "version": "2", "instructions": "A\nB"}),
    ("---\rname: x\r---\rA", {"name": "x", "instructions": "A"}),
    ("\n\n---\nname: x\n---\nBody", {"name": "x"}),
    ("---\nname:\n---\n", {"name": "web-search"}),
    ("---\nname: ''\n---\n", {"name": "web-search"}),
    ("---\nname: '   '\n---\n", {"name": "web-search"}),
    ("---\nname: [a, b]\n---\n", {"name": "web-search"}),
    ("---\nname: {a: b}\n---\n", {"name": "web-search"}),
    ("---\nname: 42\n---\n", {"name": "42"}),
    ("---\nname: 1.50\n---\n", {"name": "1.50"}),
    ("---\nname: true\n---\n", {"name": "true"}),
    ("---\nname: no\n---\n", {"name": "no"}),
    ("---\nname: 2026-02-10\n---\n", {"name": "2026-02-10"}),
    ("---\nname: 'a\n\n  b\tc'\n---\n", {"name": "a b c"}),
    ("---\nname: 🔍 search\n---\n", {"name": "🔍 search"}),
    ("---\nname: 検索\n---\n", {"name": "検索"}),
    (f"---\nname: {'n' * 500}\n---\n", {"name": "n" * 128}),
    ("---\nName: x\n---\n", {"name": "web-search"}),
    ("---\ndescription: 7\n---\n", {"description": "7"}),
    ("---\ndescription: [a]\n---\n", {"description": ""}),
    ("---\ndescription: >\n  two\n  lines\n---\n", {"description": "two lines"}),
    ("---\ndescription: |\n  two\n  lines\n---\n", {"description": "two lines"}),
    (f"---\ndescription: {'d' * 9000}\n---\n", {"description": "d" * 2000}),
    ("---\nversion: 1.0\n---\n", {"version": "1.0"}),
    ("---\nversion: v2\n---\n", {"version": "v2"}),
    ("---\nmetadata: {version: 3.20}\n---\n", {"version": "3.20"}),
    ("---\nversion: [1]\nmetadata: {version: 4}\n---\n", {"version": "4"}),
    ("---\nmetadata:\n---\n", {"metadata": None}),
    ("---\nmetadata: {}\n---\n", {"metadata": {}}),
    ("---\nmetadata: ''\n---\n", {"metadata": {}}),
    ("---\nmetadata: {clasper: }\n---\n", {"metadata": {"clasper": None}}),
    ("---\nmetadata: {other: [1, 0.5, null]}\n---\n", {"metadata": {"other": [1, 0.5, None]}}),
    ('---\nmetadata: {"openclaw":{"emoji":"\\ud83d\\udd0d"}}\n---\n', {"emoji": "🔍"}),
    ('---\nmetadata: \'{"openclaw": {"emoji": "🔍"}}\'\n---\n', {"emoji": "🔍"}),
    ('---\nmetadata:\n  {\n\t"openclaw": {"always": true,},\n  }\n---\n', {"always": True}),
    ("---\nmetadata: {clasper: {emoji: [x]}}\n---\n", {"emoji": ""}),
    ("---\nmetadata: {clasper: {always: yes}}\n---\n", {"always": True}),
    ("---\nmetadata: {clasper: {always: 'maybe'}}\n---\n", {"always": False}),
    ("---\nmetadata: {clasper: {always: [true]}}\n---\n", {"always": False}),
    ("---\nmetadata: {clasper: {tools: 'a:b, c , ,a:b'}}\n---\n", {"tools": ("a:b", "c")}),
    ("---\nmetadata: {clasper: {tools: []}}\n---\n", {"tools": ()}),
    ("---\nmetadata: {openclaw: {tools: ['*']}}\n---\n", {"tools": ("*",)}),
    ("---\nmetadata: {openclaw: {tools: [a]}, clasper: {tools: [b]}}\n---\n", {"tools": ("b",)}),
    ("---\nmetadata: {openclaw: {tools: [a]}, clasper: {tools: []}}\n---\n", {"tools": ()}),
    ("---\nmetadata: {clasper: {os: linux}}\n---\n", {"os": ("linux",)}),
    ("---\nmetadata: {clasper: {requires: {env: 'A, B'}}}\n---\n", {"env": ("A", "B")}),
    ("---\nmetadata: {clasper: {requires: {env: [NO, 1]}}}\n---\n", {"env": ("NO", "1")}),
    ("---\nmetadata: {clasper: {requires: {any_bins: [x]}}}\n---\n", {"any_bins": ("x",)}),
    ("---\nunknown: {deep: [1, {2: 3}]}\n---\nBody", {"instructions": "Body"}),
    (b"---\nname: caf\xe9\n---\nBody \xff\xfe", {"name": "caf\ufffd", "instructions": "Body \ufffd\ufffd"}),
    (b"---\nname: a\x00b\n---\nx\x00y", {"name": "a\ufffdb", "instructions": "x\ufffdy"}),
    ("---\nname: x\n---\nBody\n---\nmore\n---\n", {"instructions": "Body\n---\nmore\n---"}),
    ("---\nname: x\n---\nline\u2028sep\x0bvt", {"instructions": "line\u2028sep\x0bvt"}),
]


@pytest.mark.parametrize(("text", "expected"), HARMLESS)
def test_what_is_missing_or_odd_has_a_default(text: str | bytes, expected: dict[str, Any]) -> None:
    read = skill(text)
    assert {key: getattr(read, key) for key in expected} == expected
    assert read.problem == ""


FAULTS = [
    ("---\nname: x", "its closing --- is missing"),
    ("---", "its closing --- is missing"),
    ("---\nname: x\n----\nBody", "its closing --- is missing"),
    ("---\n- a\n---\n", "not a mapping"),
    ("---\nwords\n---\n", "not a mapping"),
    ("---\na: b: c\n---\n", "not valid YAML in its line 1"),
    ("---\nname: x\nname: y\n---\n", "appears twice"),
    ("---\na: &x 1\nb: *x\n---\n", "aliases are not allowed"),
    ("---\nname: !!str x\n---\n", "tags are not allowed"),
    ("---\nname: '\x07'\n---\n", "characters that YAML does not allow"),
    ("---\nx: " + "y" * 70_000 + "\n---\n", "larger than 64 KiB"),
    ("---\nmetadata: [a]\n---\n", "it must be a mapping"),
    ("---\nmetadata: 7\n---\n", "it must be a mapping"),
    ("---\nmetadata: words\n---\n", "not a mapping"),
    ("---\nmetadata: '{broken'\n---\n", "not valid YAML"),
    ("---\nmetadata: '[[[[" + "[" * 9000 + "'\n---\n", "nested more than 32"),
    ("---\nmetadata: {clasper: 1}\n---\n", "clasper must be a mapping"),
    ("---\nmetadata: {openclaw: [x]}\n---\n", "openclaw must be a mapping"),
    ("---\nmetadata: {clasper: {requires: [git]}}\n---\n", "requires must be a mapping"),
    ("---\nmetadata: {clasper: {requires: {env: {A: 1}}}}\n---\n", "requires.env must be a list of names"),
    ("---\nmetadata: {clasper: {requires: {env: [[A]]}}}\n---\n", "requires.env must be a list of names"),
    ("---\nmetadata: {clasper: {requires: {env: [null]}}}\n---\n", "requires.env must be a list of names"),
    ("---\nmetadata: {clasper: {requires: {bins: true}}}\n---\n", "requires.bins must be a list of names"),
    ("---\nmetadata: {clasper: {requires: {anyBins: 3}}}\n---\n", "requires.anyBins must be a list of names"),
    ("---\nmetadata: {clasper: {requires: {config: {a: b}}}}\n---\n", "requires.config must be a list of names"),
    ("---\nmetadata: {clasper: {os: 3}}\n---\n", "os must be a list of names"),
    ("---\nmetadata: {clasper: {tools: {a: b}}}\n---\n", "tools must be a list of names"),
]


@pytest.mark.parametrize(("text", "problem"), FAULTS)
def test_what_cannot_be_trusted_is_a_problem(text: str, problem: str) -> None:
    read = skill(text)
    assert problem in read.problem
    assert (read.name or "") != ""
    assert (read.tools, read.always, read.metadata) == ((), False, None)


def test_a_problem_in_metadata_keeps_name_and_description() -> None:
    read = front("name: x\ndescription: d\nversion: 3\nmetadata: [1]")
    assert (read.name, read.description, read.version) == ("x", "d", "3")


def test_without_a_version_the_content_is_the_version() -> None:
    one, two = skill("Body"), skill("Body.")
    assert one.version == skill("Body").version != two.version
    assert one.version.startswith("sha256:")
    assert len(one.version) == len("sha256:") + 12


def test_gigantic_instructions_are_cut_like_any_file() -> None:
    started = time.process_time()
    read = front("name: x", "y" * 2_000_000)
    assert len(read.instructions) == MAX_CHARS_PER_FILE
    assert "[... content truncated" in read.instructions
    assert time.process_time() - started < 1


@pytest.mark.parametrize(
    ("length", "expected"), [(0, 0), (19_999, 19_999), (20_000, 20_000), (20_001, 20_000), (99_999, 20_000)]
)
def test_truncation_leaves_exactly_the_limit(length: int, expected: int) -> None:
    text = truncate("x" * length)
    assert len(text) == expected
    assert ("[... content truncated" in text) == (length > 20_000)


def test_decoding_never_fails() -> None:
    assert decode_text(b"\xef\xbb\xbfa\x00\xffb") == "a\ufffd\ufffdb"


def check(content: bytes) -> None:
    read = parse_skill_file("d", content)
    assert read.name
    assert read.version
    assert len(read.instructions) <= MAX_CHARS_PER_FILE
    assert "\x00" not in read.name + read.description + read.instructions
    assert "\n" not in read.name + read.description + read.emoji
    json.dumps(read.metadata, allow_nan=False).encode()
    (read.name + read.description + read.instructions + read.problem).encode()


@given(st.binary(max_size=400))
def test_no_bytes_ever_raise(content: bytes) -> None:
    check(content)
    check(b"---\n" + content + b"\n---\nBody")


yaml_words = (
    "name version metadata clasper openclaw requires env tools ~ 1.10 true --- &a *a !!int [ ] { } , ' | > : << = ? %"
)
yaml_breaks = ("\n", "\n  ", "\n    ", "\n---\n", "\r\n", "\t", "\x00", "\x85", "\u2028")
yaml_pieces = st.sampled_from(
    [*yaml_words.split(), ": ", "- ", '"', "# x", "\\ud83d", "é", "🔍", "@", "`", *yaml_breaks]
)


@given(st.lists(yaml_pieces, max_size=40).map("".join))
def test_no_odd_frontmatter_ever_raises(text: str) -> None:
    check(f"---\n{text}\n---\nBody".encode())
    check(f"---\nmetadata:\n  clasper:\n    {text}\n---\nBody".encode())


scalars = st.none() | st.booleans() | st.integers() | st.text(max_size=8)
anything = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
)


@given(
    st.fixed_dictionaries(
        {},
        optional={
            **dict.fromkeys(("always", "os", "tools", "emoji"), anything),
            "requires": anything
            | st.fixed_dictionaries({}, optional=dict.fromkeys(("env", "bins", "anyBins", "config"), anything)),
        },
    )
)
def test_no_type_in_the_metadata_ever_raises(extension: dict[str, Any]) -> None:
    check(f"---\nmetadata: {json.dumps({'clasper': extension})}\n---\n".encode())
