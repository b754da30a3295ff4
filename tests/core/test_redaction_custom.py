"""Custom redaction patterns: what they find, which are refused, and that none of them can stall a run."""

from __future__ import annotations

import random
import re
import subprocess
import sys
import threading
import time
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clasper.core.redaction.custom_patterns import (
    MAX_INSTRUCTIONS,
    MAX_SECONDS,
    MAX_STEPS,
    CustomPattern,
    InvalidPattern,
)
from clasper.core.redaction.redactor import Redactor, Strategy

ACCEPTED = [
    (r"EMP-\d+", "id EMP-123456.", "id [X]."),
    (r"acct_[a-z0-9]+", "from acct_9f8e to acct_1", "from [X] to [X]"),
    (r"\b[A-Z]{2,3}\d{4,8}\b", "case AB12345 x", "case [X] x"),
    (r"(?:ACME|GLOBEX)-[0-9a-f]{8}", "GLOBEX-00ff00ff", "[X]"),
    (r"project (Blue|Red)? ?Moon", "the project Blue Moon", "the [X]"),
    (r"\d{2}(\.\d{2})*", "on 01.02.03 at", "on [X] at"),
    (r"a\+b\*c\?", "see a+b*c? now", "see [X] now"),
    (r"x.z", "xyz", "[X]"),
    (r"^key \w{4}$", "key abcd", "[X]"),
    (r"^b", "a\nb", "a\nb"),
    (r"(?m)^b", "a\nb", "a\n[X]"),
    (r"(?i)blue moon", "Project BLUE Moon", "Project [X]"),
    (r"(?P<first>a+?)b", "xaab", "x[X]"),
    (r"\p{Lu}\p{L}+-\d", "Ännchen-1 und Åsa-2", "[X] und [X]"),
    (r"\d+", "\u0661\u0662 12", "\u0661\u0662 [X]"),
    (r"ID-\d+", "é中😀 ID-1 😀ID-22é", "é中😀 [X] 😀[X]é"),
    (r"ID-\d+", "\ud800 ID-1 \udfff", "\ud800 [X] \udfff"),
]

REFUSED = [
    ("", "empty text"),
    (r"a*", "empty text"),
    (r"a|", "empty text"),
    (r"$", "empty text"),
    (r"(?m)^", "empty text"),
    (r"(?=a)b", "no look-around or back-references"),
    (r"(?<!a)b", "no look-around or back-references"),
    (r"(\w)\1", "no look-around or back-references"),
    (r"(?P<n>a)(?P=n)", "no look-around or back-references"),
    (r"a++", "repetition operator: "),
    (r"(a", "missing"),
    (r"a)", "unexpected"),
    (r"[a", "missing"),
    (r"[z-a]", "range"),
    ("(?:" * 2000 + "a" + "+)+b" * 2000, "too large"),
    (r"a{1001}", "repetition size"),
    (r"((a{100}){100}){100}", "repetition size"),
    (r"\p{L}{1,40}", "too large"),
    (r"\p{L}{1,1000}", "too large"),
    ("a" * (MAX_INSTRUCTIONS + 1), "too large"),
    ("a\ud800", "Unicode"),
    (r"a\C", "(?s:.)"),
]


@pytest.mark.parametrize(("pattern", "text", "expected"), ACCEPTED)
def test_accepted(pattern: str, text: str, expected: str) -> None:
    assert Redactor(custom=[CustomPattern("x", pattern)]).redact_text(text) == expected


@pytest.mark.parametrize(("pattern", "reason"), REFUSED)
def test_refused_with_the_reason(pattern: str, reason: str) -> None:
    with pytest.raises(InvalidPattern, match=re.escape(reason)):
        CustomPattern("x", pattern)


@pytest.mark.parametrize("name", ["", "Upper", "9x", "a b", "a]", "x" * 41])
def test_names_are_identifiers(name: str) -> None:
    with pytest.raises(InvalidPattern, match="identifier"):
        CustomPattern(name, "abc")


def test_one_redactors_patterns_are_not_anothers() -> None:
    Redactor(custom=[CustomPattern("x", "secret word")])
    assert Redactor().redact_text("a secret word") == "a secret word"


@pytest.mark.parametrize("strategy", Strategy)
@pytest.mark.parametrize("pattern", [r"\b", r"\bq*", r"\b|\bq"])
def test_empty_matches_change_nothing(pattern: str, strategy: Strategy) -> None:
    redactor = Redactor(key=b"k", strategy=strategy, custom=[CustomPattern("x", pattern)])
    text = "two words\nand two\n"
    assert redactor.redact_text(text) is text


# --- Time and memory -------------------------------------------------------------------------------------------------
AB = "".join(random.Random(1).choices("ab", k=400_000))
BOMBS = [
    (r"(a+)+$", "a" * 1_000_000 + "!"),
    (r"(a|a)*b", "a" * 1_000_000),
    (r"(a|aa)+$", "a" * 1_000_000 + "!"),
    (r"(.*)(.*)(.*)(.*)[x-z]{200}y", "a" * 1_000_000),
    (r"(a?){64}a{64}!", "a" * 1_000_000),
    (r"\w{1,64}\w{1,64}!", "a" * 700_000),
    (r"[ab]*a[ab]{900}c", AB),  # more states than the automaton may keep
    (r"a.{12}b!", AB),
    (r"(?s)a.*!|a", "a" * 1_000_000),  # every match reads to the end
    (r"(?s)a.*?b.*!|a", AB),
    (r"\b|x", "a " * 500_000),  # a million matches, all empty
]


@pytest.mark.parametrize(("pattern", "text"), BOMBS)
def test_no_pattern_stalls_a_run(pattern: str, text: str) -> None:
    redactor = Redactor(custom=[CustomPattern("x", pattern)])
    began = time.thread_time()
    redactor.redact_text(text)
    assert time.thread_time() - began < 10


def test_a_text_too_long_for_the_pattern_is_withheld_whole() -> None:
    pattern = CustomPattern("x", r"\w{1,200}!")
    size = pattern._compiled.programsize
    fits = "a " * (MAX_STEPS // size // 2)
    assert list(pattern.find(fits, "")) == []
    over = fits + "a " * (size // 2 + 1)
    assert list(pattern.find(over, "")) == [(0, len(over))]


def test_a_text_with_too_many_long_matches_is_withheld_whole() -> None:
    pattern, text = CustomPattern("x", r"(?s)a.*!|a"), "a" * 1_000_000
    began = time.thread_time()
    spans = list(pattern.find(text, ""))
    assert time.thread_time() - began < MAX_SECONDS + 1
    assert (spans[0], spans[-1]) == ((0, 1), (0, len(text)))
    assert Redactor(custom=[pattern]).redact_text(text) == "[X]"


def test_an_ordinary_pattern_searches_a_large_text_in_full() -> None:
    text = "é order EMP-123 " * 50_000
    assert Redactor(custom=[CustomPattern("x", r"EMP-\d+")]).redact_text(text) == "é order [X] " * 50_000


def test_re2_keeps_to_its_memory_and_says_nothing() -> None:
    """RE2 reports broken patterns and full caches on stderr, where they would show texts and break the log's format."""
    script = """
import random, resource
from clasper.core.redaction.custom_patterns import CustomPattern, InvalidPattern
text = "".join(random.Random(1).choices("ab", k=30_000))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for n in range(20):
    pattern = CustomPattern("x", r"a[ab]{%d}c" % (150 + n))
    assert not list(pattern.find(text, ""))
for broken in ("(?=a)", "(", r"\\p{L}{1,1000}"):
    try:
        CustomPattern("x", broken)
    except InvalidPattern:
        pass
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=50)
    assert done.stderr == ""
    assert int(done.stdout) < 40_000  # KiB: twenty patterns of a MiB, and as much again


def test_threads_share_a_pattern() -> None:
    pattern = CustomPattern("x", r"EMP-\d+")
    found: list[int] = []
    threads = [
        threading.Thread(target=lambda: found.append(len(list(pattern.find("EMP-1 é " * 2000, ""))))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [2000] * 4


@given(st.text(r"ab\d[](){}?*+|.^$,:19-é", max_size=20), st.text("ab19-é\n\ud800", max_size=60))
def test_any_text_is_refused_or_a_pattern_with_spans_inside_the_text(pattern: str, text: str) -> None:
    try:
        accepted = CustomPattern("x", pattern)
    except InvalidPattern:
        return
    spans = [(0, 0), *accepted.find(text, ""), (len(text), len(text) + 1)]
    assert all(end <= start < stop for (_, end), (start, stop) in pairwise(spans))
