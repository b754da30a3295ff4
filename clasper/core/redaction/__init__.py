"""Redaction as the rest of the system uses it: one redactor, built once from the settings.

Whatever is stored, logged or sent to a webhook passes through here first; the model alone sees the original.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

from clasper.core.redaction.custom_patterns import CustomPattern, InvalidPattern
from clasper.core.redaction.redactor import Redactor, Strategy


@lru_cache(maxsize=1)
def default_redactor() -> Redactor:
    """The process's redactor: every built-in recogniser, the operator's patterns, and the strategy of the settings.

    Raises ImproperlyConfigured, which names every setting that is wrong.
    """
    problems = []
    strategy = settings.CLASPER_REDACTION_STRATEGY
    if strategy not in tuple(Strategy):
        problems.append(f"CLASPER_REDACTION_STRATEGY must be one of {', '.join(Strategy)}, not {strategy!r}")
    patterns = []
    given: Any = settings.CLASPER_REDACTION_PATTERNS
    if not isinstance(given, dict):
        problems.append("CLASPER_REDACTION_PATTERNS must be a JSON object from names to patterns")
        given = {}
    for name, pattern in given.items():
        try:
            patterns.append(CustomPattern(name, pattern))
        except InvalidPattern as error:
            problems.append(f"CLASPER_REDACTION_PATTERNS, {name!r}: {error}")
    if problems:
        raise ImproperlyConfigured("; ".join(problems))
    return Redactor(key=settings.REDACTION_KEY, strategy=strategy, custom=patterns)


def redact(value: Any) -> Any:
    """A copy of a JSON value without personal data and secrets, in texts and in the keys of objects."""
    return default_redactor().redact(value)


def redact_text(text: str) -> str:
    """`text` without personal data and secrets; the same object when there is nothing to redact."""
    return default_redactor().redact_text(text)


def redact_counted(value: Any) -> tuple[Any, dict[str, int]]:
    """The redacted JSON value and how often each recogniser hit; never what it hit."""
    return default_redactor().redact_counted(value)
