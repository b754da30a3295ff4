"""What follows a commit follows only a commit, once for each batch, and cannot undo it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from django.db import transaction

from apps.audit.services import signal
from clasper.core.db import Batch, atomic_batch, writer
from tests.conftest import run
from tests.ops.feeds import note
from tests.world import ACME, GLOBEX, Server


@pytest.fixture
def told(store: None) -> Iterator[list[frozenset[str]]]:
    heard: list[frozenset[str]] = []
    unsubscribe = signal.subscribe(heard.append)
    yield heard
    unsubscribe()


def test_each_batch_is_signalled_once(told: list[frozenset[str]]) -> None:
    note(3, together=True)
    note(2, tenant_id=GLOBEX)
    assert told == [{ACME}, {GLOBEX}, {GLOBEX}]


def test_a_run_is_signalled_when_it_starts_and_when_it_ends(told: list[frozenset[str]], server: Server) -> None:
    assert server.send().status_code == 200
    assert told == [{ACME}, {ACME}]


def test_only_the_outermost_commit_signals(told: list[frozenset[str]]) -> None:
    with transaction.atomic():
        note()
        assert told == []
    assert told == [{ACME}]


def test_what_is_rolled_back_is_not_signalled(told: list[frozenset[str]]) -> None:
    def fail(batch: Batch) -> None:
        batch.after_commit(lambda: told.append(frozenset()))
        raise ValueError

    with pytest.raises(ValueError), atomic_batch() as batch:  # noqa: PT011  raised by this test itself
        fail(batch)
    with pytest.raises(ValueError):  # noqa: PT011  raised by this test itself
        run(writer.submit(fail))
    assert told == []


def test_a_cancelled_subscription_receives_nothing(store: None) -> None:
    heard: list[frozenset[str]] = []
    signal.subscribe(heard.append)()
    note()
    assert heard == []


def test_a_listener_that_fails_changes_nothing(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    def fail(tenants: frozenset[str]) -> None:
        raise RuntimeError("not listening")

    unsubscribe = signal.subscribe(fail)
    try:
        note()
        assert server.send().status_code == 200
    finally:
        unsubscribe()
    assert [entry["seq"] for entry in server.audit(tenant_id=ACME)] == [1, 2, 3]
    assert "a call after a commit failed" in caplog.text
