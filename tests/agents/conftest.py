"""What the tests of runs add to the world: a scriptable control plane, and a clean slate of refused credentials."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from apps.identity.services import authentication as access
from tests.agents.backend import Backend, Receiver
from tests.agents.canaries import Canaries, listen
from tests.world import Server


@pytest.fixture(autouse=True)
def _fresh_failure_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the first refused credentials of a minute are audited, and other tests may have used them up."""
    monkeypatch.setattr(access, "_failures", access._FailureBudget())


@pytest.fixture
def backend(server: Server, settings: Any) -> Iterator[Backend]:
    """The control plane of the runs, instead of the embedded one."""
    fake = Backend.start()
    settings.BACKEND_URL = fake.url
    yield fake
    fake.close()


@pytest.fixture
def receiver(settings: Any) -> Iterator[Receiver]:
    """A webhook receiver on this machine, which the operator has allowed."""
    settings.CLASPER_URL_ALLOWLIST = ["127.0.0.1"]
    found = Receiver.start()
    yield found
    found.close()


@pytest.fixture
def canaries(caplog: pytest.LogCaptureFixture) -> Canaries:
    """Canaries for the fields of a test, and an ear for the logs."""
    listen(caplog)
    return Canaries()
