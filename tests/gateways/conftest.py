"""The control plane of the client's tests: a scriptable backend, and a client of it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from clasper.gateways.control_plane import ControlPlane
from tests.gateways.planes import Backend, plane_of, serving


@pytest.fixture
async def backend() -> AsyncIterator[Backend]:
    async with serving() as found:
        yield found


@pytest.fixture
def plane(backend: Backend) -> ControlPlane:
    return plane_of(backend)
