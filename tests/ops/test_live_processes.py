"""Live events over several processes, and when a process is told to stop."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from clasper.ops import live
from tests.agents.processes import Installation, free_port
from tests.ops.feeds import Listener
from tests.world import Server

REDIS = os.environ.get("REDIS_URL") or "redis://127.0.0.1:6379/9"


@pytest.fixture
def alone(store: None, tmp_path: Path, workspace: Path) -> Iterator[Installation]:
    """Processes that share nothing but the database."""
    installation = Installation.create(tmp_path, workspace)
    yield installation
    installation.kill()


@pytest.fixture
def joined(store: None, tmp_path: Path, workspace: Path) -> Iterator[Installation]:
    """Processes that share Redis, too."""
    try:
        redis.Redis.from_url(REDIS, socket_connect_timeout=1).ping()
    except redis.RedisError:
        pytest.skip("there is no Redis on 127.0.0.1")
    installation = Installation.create(tmp_path, workspace, REDIS_URL=REDIS)
    yield installation
    installation.kill()


def two_servers(installation: Installation) -> tuple[Server, Server]:
    first = installation.serve()
    installation.port = free_port()
    return first, installation.serve()


def delays(here: Server, there: Server, count: int) -> list[float]:
    """Seconds from the answer of a run here until a listener there has heard both its events."""
    measured = []
    with Listener.open(there.url) as (listener, begin):
        for number in range(count):
            assert here.send().status_code == 200
            answered = time.monotonic()
            heard = listener.hear(2)
            measured.append(time.monotonic() - answered)
            assert [each.id for each in heard] == [begin + 2 * number + 1, begin + 2 * number + 2]
            assert [each.event for each in heard] == ["agent.start", "agent.complete"]
    return measured


def test_without_redis_other_processes_hear_a_little_later(alone: Installation) -> None:
    here, there = two_servers(alone)
    assert max(delays(here, there, 2)) < live.POLL_SECONDS + 1


def test_over_redis_other_processes_hear_at_once(joined: Installation) -> None:
    here, there = two_servers(joined)
    measured = delays(here, there, 6)
    assert max(measured) < live.POLL_SECONDS / 2, measured


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda each: each.name)
def test_an_open_feed_does_not_hold_up_a_stop(number: signal.Signals, alone: Installation) -> None:
    server = alone.serve()
    with Listener.open(server.url) as (listener, _):
        (process,) = alone.processes
        process.send_signal(number)
        began = time.monotonic()
        assert listener.rest() == []
        process.wait(10)
    assert time.monotonic() - began < 6
