"""What the tests of traces add to the world."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from apps.traces.services.retention import demanding


@pytest.fixture
def fresh(store: None) -> Iterator[None]:
    """The store, with no policy remembered from the test before, nor for the one after."""
    demanding.forget()
    yield
    demanding.forget()
