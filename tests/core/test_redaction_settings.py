"""The redactor that the settings describe."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured

from clasper.core.redaction import default_redactor, redact_text


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    default_redactor.cache_clear()
    yield
    default_redactor.cache_clear()


@pytest.mark.parametrize(
    ("strategy", "shown"),
    [("mask", "Mail [EMAIL] now"), ("drop", "Mail  now"), ("summarize", "Mail ad..om now")],
)
def test_the_strategy_is_the_operators(settings: Any, strategy: str, shown: str) -> None:
    settings.CLASPER_REDACTION_STRATEGY = strategy
    assert redact_text("Mail ada@example.com now") == shown


def test_hashes_are_keyed_and_equal_for_equal_values(settings: Any) -> None:
    settings.CLASPER_REDACTION_STRATEGY = "hash"
    first, second = redact_text("ada@example.com"), redact_text("ada@example.com")
    assert first == second
    assert first.startswith("[HASH:")


def test_patterns_of_the_operator_are_found_too(settings: Any) -> None:
    settings.CLASPER_REDACTION_PATTERNS = {"member_number": "MB-[0-9]{8}"}
    assert redact_text("I am MB-12345678, mail ada@example.com") == "I am [MEMBER_NUMBER], mail [EMAIL]"


def test_every_wrong_setting_is_named_at_once(settings: Any) -> None:
    settings.CLASPER_REDACTION_STRATEGY = "burn"
    settings.CLASPER_REDACTION_PATTERNS = {"Bad Name": "x", "ahead": "(?=x)", "number": 7}
    with pytest.raises(ImproperlyConfigured) as refused:
        default_redactor()
    for words in (
        "burn",
        "PATTERNS, 'Bad Name'",
        "PATTERNS, 'ahead': invalid perl operator: (?= (RE2",
        "'number': a pattern",
    ):
        assert words in str(refused.value)
