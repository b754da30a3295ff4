"""The diff of two texts: its lines, that it can be applied, its bounds."""

from __future__ import annotations

from time import perf_counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apps.traces.domain.text_diff import MAX_BYTES, MAX_LINES, text_diff

NUMBERS = [str(n) for n in range(1, 21)]
TEXTS: dict[str, tuple[str, str, list[str]]] = {
    "equal": ("a", "a", []),
    "from nothing": ("", "a", ["@@ -1,1 +1,1 @@", "-", "+a"]),
    "one line of two": ("a\nb", "a\nc", ["@@ -1,2 +1,2 @@", " a", "-b", "+c"]),
    "a line more": ("a\nb", "a\nx\nb", ["@@ -1,2 +1,3 @@", " a", "+x", " b"]),
    "two places": (
        "\n".join(NUMBERS),
        "\n".join(["x", *NUMBERS[1:19], "y"]),
        ["@@ -1,4 +1,4 @@", "-1", "+x", " 2", " 3", " 4", "@@ -17,4 +17,4 @@", " 17", " 18", " 19", "-20", "+y"],
    ),
    "near places": (
        "\n".join(NUMBERS[:6]),
        "\n".join(["x", *NUMBERS[1:5], "y"]),
        ["@@ -1,6 +1,6 @@", "-1", "+x", " 2", " 3", " 4", " 5", "-6", "+y"],
    ),
}


@pytest.mark.parametrize("name", TEXTS)
def test_texts_are_compared_by_line(name: str) -> None:
    old, new, lines = TEXTS[name]
    assert text_diff(old, new) == {"lines": lines, "truncated": False}


@given(st.text("ab\n", max_size=60), st.text("ab\n", max_size=60))
def test_a_diff_holds_what_was_there_and_what_is(old: str, new: str) -> None:
    """Applied to the old text it gives the new one."""
    lines, result, at = old.split("\n"), [], 0
    for line in text_diff(old, new)["lines"]:
        if line.startswith("@@"):
            start, _, count = line.split()[1].removeprefix("-").partition(",")
            begin = int(start) - (count != "0")
            result += lines[at:begin]
            at = begin
            continue
        if line[0] in " -":
            assert lines[at] == line[1:]
            at += 1
        if line[0] in " +":
            result.append(line[1:])
    assert result + lines[at:] == new.split("\n")


HUGE = {
    "many lines": ("\n".join(map(str, range(50_000))), "\n".join(map(str, range(50_000, 100_000)))),
    "the same lines": ("a\nb\n" * 40_000, "b\na\n" * 39_000),
    "one line": ("x" * 3_000_000, "é" * 1_000_000),
    "lone surrogates": ("\ud800" * 100_000, "\udfff\n" * 100_000),
}


@pytest.mark.parametrize("name", HUGE)
def test_a_huge_diff_is_cut_and_quick(name: str) -> None:
    began = perf_counter()
    found = text_diff(*HUGE[name])
    assert perf_counter() - began < 2
    assert found["truncated"] is True
    assert 0 < len(found["lines"]) <= MAX_LINES
    assert sum(len(line.encode(errors="replace")) for line in found["lines"]) <= MAX_BYTES
