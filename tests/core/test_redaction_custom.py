"""Custom redaction patterns: the accepted subset, its refusals, and the bound on their cost."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clasper.core.redaction.custom_patterns import MAX_COST, MAX_STEPS, CustomPattern, UnsafePattern, cost_of
from clasper.core.redaction.redactor import Redactor

ACCEPTED = [
    (r"EMP-\d{6}", "id EMP-123456.", "id [X]."),
    (r"\b[A-Z]{2,3}\d{4,8}\b", "case AB12345 x", "case [X] x"),
    (r"(?:ACME|GLOBEX)-[0-9a-f]{8}", "GLOBEX-00ff00ff", "[X]"),
    (r"project (?:Blue|Red)? ?Moon", "the project Blue Moon", "the [X]"),
    (r"\d{2}(\.\d{2}){2}", "on 01.02.03 at", "on [X] at"),
    (r"a\+b\*c\?", "see a+b*c? now", "see [X] now"),
    (r"[]x^-]{3}", "a ]x^ b", "a [X] b"),
    (r"x.z", "xyz", "[X]"),
    (r"^key \w{4}$", "key abcd", "[X]"),
]

REFUSED = [
    ("", "1 to 200"),
    ("a" * 201, "1 to 200"),
    (r"\d+", "write {1,64}"),
    (r"a*", "write {0,64}"),
    (r"a{3,}", "must be {n} or {m,n}"),
    (r"a{1,65}", "up to 64"),
    (r"a{5,2}", "up to 64"),
    (r"(a+)+$", "unbounded"),
    (r"(a{1,9}){2,8}", "only '?' or a fixed count"),
    (r"(a|b){9}", "up to 8"),
    (r"(\w)\1", "escape"),
    (r"(?=a)b", "look-around"),
    (r"(?i)abc", "look-around"),
    (r"(?P<n>a)", "look-around"),
    (r"a??", "second quantifier"),
    (r"a{2}{3}", "second quantifier"),
    (r"^*a", "anchor"),
    (r"*a", "quantifies nothing"),
    (r"(a", "not closed"),
    (r"a)", "unbalanced"),
    (r"[a", "not closed"),
    (r"[a--b]", "ambiguous"),
    (r"a?", "empty text"),
    (r"a|", "empty text"),
    (r"\b", "empty text"),
    (r"[z-a]", "not a valid pattern"),
    ("(" * 9 + "a" + ")" * 9, "nested"),
    (r"\w{1,64}\w{1,64}!", "steps per character"),
    (r"(a?){8}" * 3 + "b", "steps per character"),
]


@pytest.mark.parametrize(("pattern", "text", "expected"), ACCEPTED)
def test_accepted(pattern: str, text: str, expected: str) -> None:
    assert Redactor(custom=[CustomPattern("x", pattern)]).redact_text(text) == expected


@pytest.mark.parametrize(("pattern", "reason"), REFUSED)
def test_refused_with_the_reason(pattern: str, reason: str) -> None:
    with pytest.raises(UnsafePattern, match=reason.replace("{", r"\{").replace("?", r"\?")):
        CustomPattern("x", pattern)


@pytest.mark.parametrize("name", ["", "Upper", "9x", "a b", "a]", "x" * 41])
def test_names_are_identifiers(name: str) -> None:
    with pytest.raises(UnsafePattern, match="identifier"):
        CustomPattern(name, "abc")


def test_case_may_be_ignored() -> None:
    redactor = Redactor(custom=[CustomPattern("codename", "blue moon", ignore_case=True)])
    assert redactor.redact_text("Project BLUE Moon") == "Project [CODENAME]"


def test_one_redactors_patterns_are_not_anothers() -> None:
    Redactor(custom=[CustomPattern("x", "secret word")])
    assert Redactor().redact_text("a secret word") == "a secret word"


def test_a_text_too_long_for_the_pattern_is_withheld_whole() -> None:
    pattern = CustomPattern("x", r"\w{1,24}\w{1,24}!")
    text = "a " * (MAX_STEPS // pattern.cost)
    assert Redactor(custom=[pattern]).redact_text(text) == "[X]"


def test_the_dearest_accepted_pattern_is_bearable() -> None:
    pattern = CustomPattern("x", r"\w{1,39}\w{1,24}!")
    started = time.process_time()
    Redactor(custom=[pattern]).redact_text("a" * (MAX_STEPS // pattern.cost // 20))
    assert time.process_time() - started < 5


@given(st.text(r"ab\d[](){}?*+|.^$,:19-", max_size=20))
def test_any_text_is_either_refused_or_bounded(pattern: str) -> None:
    try:
        accepted = CustomPattern("x", pattern)
    except UnsafePattern:
        return
    assert 0 < accepted.cost <= MAX_COST
    assert accepted.cost == cost_of(pattern)
    assert all(start < end for start, end in accepted.find("ab19" * 50, ""))
