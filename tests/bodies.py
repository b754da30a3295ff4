"""What is wrong with an input, as a test sees it."""

from __future__ import annotations

from typing import Any

import pytest

from clasper.core.errors import InvalidRequest
from clasper.core.schemas import Input
from clasper.core.validation import read


def errors_of(kind: type[Input], given: Any, **how: Any) -> dict[str, list[str]]:
    """The errors of an input that must be refused, by field."""
    with pytest.raises(InvalidRequest) as caught:
        read(kind, given, **how)
    found: dict[str, list[str]] = caught.value.details["fieldErrors"]
    return found
