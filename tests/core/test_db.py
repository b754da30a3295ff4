"""Group commit: many jobs, one transaction, each caller told its own outcome."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
from django.db import DatabaseError, connection, connections

from clasper.core.db import Batch, GroupWriter, Write, atomic_batch, write_back
from clasper.core.errors import Unavailable
from tests.agents.processes import free_port

INSERT = "INSERT INTO group_commit_test (n, tag) VALUES (%s, %s)"


@pytest.fixture
def table(store: None) -> Iterator[None]:
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE group_commit_test (n INTEGER PRIMARY KEY, tag VARCHAR(20))")
    yield
    with connection.cursor() as cursor:
        cursor.execute("DROP TABLE group_commit_test")


@pytest.fixture
def writer(table: None) -> Iterator[GroupWriter]:
    found = GroupWriter()
    yield found
    found.close()


def rows() -> list[tuple[int, str]]:
    """What other connections see, so what is committed."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT n, tag FROM group_commit_test ORDER BY n")
        return list(cursor.fetchall())


def insert(n: int, tag: str = "") -> Write[int]:
    def job(batch: Batch) -> int:
        batch.queue(INSERT, (n, tag))
        return n * 10

    return job


class Gate:
    """A job that holds the writer until `open`, so that what is submitted meanwhile waits together."""

    def __init__(self, writer: GroupWriter) -> None:
        self.reached = threading.Event()
        self._open = threading.Event()
        self._waiting = asyncio.ensure_future(writer.submit(self._job))

    def _job(self, batch: Batch) -> None:
        self.reached.set()
        assert self._open.wait(10)

    async def __aenter__(self) -> Gate:
        await asyncio.to_thread(self.reached.wait)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._open.set()
        await self._waiting


async def together(writer: GroupWriter, *jobs: Write[Any], key: str = "") -> list[Any]:
    """The results (or exceptions) of jobs that wait in one batch."""
    async with Gate(writer):
        waiting = [asyncio.ensure_future(writer.submit(job, key=key)) for job in jobs]
        await asyncio.sleep(0)
    return await asyncio.gather(*waiting, return_exceptions=True)


# --- One transaction for many --------------------------------------------------------------------------------------


async def test_each_caller_gets_its_result_once_it_is_committed(writer: GroupWriter) -> None:
    async def one(n: int) -> int:
        result = await writer.submit(insert(n))
        assert (n, "") in await asyncio.to_thread(in_thread, rows)
        return result

    assert await asyncio.gather(*map(one, range(30))) == [n * 10 for n in range(30)]


def in_thread(work: Callable[[], Any]) -> Any:
    try:
        return work()
    finally:
        connection.close()


async def test_waiting_jobs_share_a_transaction_in_the_order_of_their_keys(writer: GroupWriter) -> None:
    seen: list[tuple[str, int]] = []

    def note(key: str) -> Write[None]:
        return lambda batch: seen.append((key, id(batch)))

    async with Gate(writer):
        keys = ["b", "c", "a", "b", ""]
        waiting = [asyncio.ensure_future(writer.submit(note(key), key=key)) for key in keys]
        await asyncio.sleep(0)
    await asyncio.gather(*waiting)
    assert [key for key, _ in seen] == sorted(keys)
    assert len({batch for _, batch in seen}) == 1


async def test_a_job_that_goes_alone_has_its_own_transaction(writer: GroupWriter) -> None:
    batches: dict[str, int] = {}
    kept: list[Batch] = []  # so that no two have the same id

    def note(name: str) -> Write[None]:
        def job(batch: Batch) -> None:
            kept.append(batch)
            batches[name] = id(batch)

        return job

    async with Gate(writer):
        waiting = [
            asyncio.ensure_future(writer.submit(note("alone"), alone=True)),
            asyncio.ensure_future(writer.submit(note("first"))),
            asyncio.ensure_future(writer.submit(note("second"))),
        ]
        await asyncio.sleep(0)
    await asyncio.gather(*waiting)
    assert batches["first"] == batches["second"] != batches["alone"]


async def test_a_burst_is_cut_into_bounded_batches(writer: GroupWriter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(GroupWriter, "MAX_BATCH", 4)
    kept: list[Batch] = []
    await together(writer, *[kept.append] * 10)
    sizes = [sum(each is batch for each in kept) for batch in dict.fromkeys(kept)]
    assert sizes == [4, 4, 2]


# --- Failures stay where they belong -------------------------------------------------------------------------------


def fail(error: Exception) -> Write[None]:
    def job(batch: Batch) -> None:
        batch.queue(INSERT, (99, "must not stay"))
        raise error

    return job


async def test_a_failing_job_fails_alone(writer: GroupWriter) -> None:
    mistake = ValueError("a mistake of the job")
    results = await together(writer, insert(1), fail(mistake), insert(2))
    assert results == [10, mistake, 20]
    assert await asyncio.to_thread(in_thread, rows) == [(1, ""), (2, "")]


@pytest.mark.parametrize(
    "bad",
    [lambda batch: batch.execute("SELECT nonsense FROM nowhere"), insert(1, "twice")],
    ids=["a statement", "a row already there"],
)
async def test_a_database_error_reaches_its_own_caller_as_unavailable(bad: Write[Any], writer: GroupWriter) -> None:
    await writer.submit(insert(1))
    good, outcome = await together(writer, insert(2), bad)
    assert good == 20
    assert isinstance(outcome, Unavailable)
    assert isinstance(outcome.__cause__, DatabaseError)
    assert "nowhere" not in outcome.message
    assert await asyncio.to_thread(in_thread, rows) == [(1, ""), (2, "")]


async def test_a_lost_connection_costs_one_write_at_most(writer: GroupWriter) -> None:
    def break_it(batch: Batch) -> None:
        batch._cursor.connection.close()
        batch.execute("SELECT 1")

    with pytest.raises(Unavailable):
        await writer.submit(break_it)
    assert await writer.submit(insert(1)) == 10


async def test_a_caller_that_leaves_does_not_stop_its_write(writer: GroupWriter) -> None:
    async with Gate(writer):
        leaving = asyncio.ensure_future(writer.submit(insert(1)))
        staying = asyncio.ensure_future(writer.submit(insert(2)))
        await asyncio.sleep(0)
        leaving.cancel()
    assert await staying == 20
    with pytest.raises(asyncio.CancelledError):
        await leaving
    assert await asyncio.to_thread(in_thread, rows) == [(1, ""), (2, "")]


# --- No database ---------------------------------------------------------------------------------------------------

PATIENCE = 0.5
"""Seconds that the databases of these tests wait before they give up."""


@pytest.fixture
def other(store: None, settings: Any) -> Iterator[Callable[..., GroupWriter]]:
    """Makes the writer of a database of its own, named by its settings."""
    made: list[GroupWriter] = []

    def make(**terms: Any) -> GroupWriter:
        connections.settings["other"] = {**connections.settings["default"], **terms}
        made.append(GroupWriter("other"))
        return made[0]

    yield make
    for each in made:
        each.close()
    if (connection := connections["other"]).vendor == "postgresql":
        connection.close_pool()
    del connections["other"], connections.settings["other"]


async def outcomes(writer: GroupWriter, count: int) -> tuple[list[Any], float]:
    """What becomes of so many jobs, every third of them alone, and how long the last one waited."""
    began = time.monotonic()
    jobs = [writer.submit(lambda batch: "done", alone=n % 3 == 0) for n in range(count)]
    return await asyncio.gather(*jobs, return_exceptions=True), time.monotonic() - began


async def test_while_the_database_is_locked_every_caller_fails_at_once(
    other: Callable[..., GroupWriter], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(GroupWriter, "MAX_BATCH", 4)
    name = str(tmp_path / "locked.db")
    writer = other(ENGINE="django.db.backends.sqlite3", NAME=name, OPTIONS={"timeout": PATIENCE})
    with contextlib.closing(sqlite3.connect(name, isolation_level=None)) as holder:
        holder.execute("BEGIN IMMEDIATE")
        results, seconds = await outcomes(writer, 12)
        assert [type(each) for each in results] == [Unavailable] * 12
        assert len({id(each) for each in results}) == 12, "each caller adds its own trace id"
        assert seconds < 6 * PATIENCE, "one after the other they would wait twelve times as long"
        holder.execute("ROLLBACK")
    assert (await outcomes(writer, 12))[0] == ["done"] * 12


async def test_while_the_database_is_away_every_caller_fails_at_once(
    other: Callable[..., GroupWriter], caplog: pytest.LogCaptureFixture
) -> None:
    options = {"pool": {"min_size": 1, "max_size": 2, "timeout": PATIENCE}}
    address = {"HOST": "127.0.0.1", "PORT": free_port(), "NAME": "nobody", "USER": "", "PASSWORD": ""}
    writer = other(ENGINE="django.db.backends.postgresql", OPTIONS=options, **address)
    results, seconds = await outcomes(writer, 12)
    assert [type(each) for each in results] == [Unavailable] * 12
    assert seconds < 6 * PATIENCE, "one after the other they would wait twelve times as long"
    assert sum(record.name == "clasper.db" for record in caplog.records) == 1


def test_a_connection_that_was_lost_between_two_writes_costs_none(writer: GroupWriter) -> None:
    if connection.vendor != "postgresql":
        pytest.skip("SQLite has no connections to lose")
    session = asyncio.run(writer.submit(lambda batch: batch.fetch_one("SELECT pg_backend_pid()")))
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_terminate_backend(%s)", session)
    assert asyncio.run(writer.submit(insert(1))) == 10


async def test_each_job_that_runs_again_is_answered_as_soon_as_it_is_committed(writer: GroupWriter) -> None:
    first_is_answered = threading.Event()

    def wait_for_it(batch: Batch) -> bool:
        return first_is_answered.wait(5)

    async with Gate(writer):
        first = asyncio.ensure_future(writer.submit(insert(1), key="a"))
        first.add_done_callback(lambda _: first_is_answered.set())
        mistaken = asyncio.ensure_future(writer.submit(fail(ValueError()), key="b"))
        last = asyncio.ensure_future(writer.submit(wait_for_it, key="c"))
        await asyncio.sleep(0)
    assert await last is True
    await asyncio.gather(first, mistaken, return_exceptions=True)


# --- Loops, threads, life ------------------------------------------------------------------------------------------


def test_several_loops_write_at_once(writer: GroupWriter) -> None:
    results: dict[int, list[int]] = {}

    async def submit_all(first: int) -> list[int]:
        return await asyncio.gather(*(writer.submit(insert(n), key=str(n % 3)) for n in range(first, first + 25)))

    def loop(first: int) -> None:
        results[first] = asyncio.run(submit_all(first))

    threads = [threading.Thread(target=loop, args=(first,)) for first in range(0, 100, 25)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert [n for first in sorted(results) for n in results[first]] == [n * 10 for n in range(100)]
    assert [n for n, _ in rows()] == list(range(100))


def test_a_loop_that_is_gone_does_no_harm(writer: GroupWriter) -> None:
    reached, go = threading.Event(), threading.Event()

    def slow(batch: Batch) -> None:
        reached.set()
        assert go.wait(10)
        batch.queue(INSERT, (1, ""))

    async def leave() -> None:
        asyncio.ensure_future(writer.submit(slow))  # noqa: RUF006  it is abandoned on purpose
        await asyncio.to_thread(reached.wait)

    asyncio.run(leave())
    go.set()
    assert asyncio.run(writer.submit(insert(2))) == 20
    assert rows() == [(1, ""), (2, "")]


async def test_closing_commits_what_waits_and_writing_goes_on_afterwards(writer: GroupWriter) -> None:
    gate = Gate(writer)
    await gate.__aenter__()
    waiting = [asyncio.ensure_future(writer.submit(insert(n))) for n in range(5)]
    await asyncio.sleep(0)
    closing = asyncio.ensure_future(asyncio.to_thread(writer.close))
    await gate.__aexit__()
    await closing
    assert await asyncio.gather(*waiting) == [0, 10, 20, 30, 40]
    assert await writer.submit(insert(5)) == 50


# --- A batch -------------------------------------------------------------------------------------------------------


class First:
    lock_order: ClassVar[int] = 1
    flushed: ClassVar[list[str]] = []

    def __init__(self) -> None:
        self.count = 0

    def flush(self, batch: Batch) -> None:
        self.flushed.append(f"{type(self).__name__} {self.count}")
        batch.queue(INSERT, (100 + self.lock_order, type(self).__name__))


class Second(First):
    lock_order: ClassVar[int] = 2


async def test_shared_state_is_flushed_once_in_lock_order_and_may_add_rows(writer: GroupWriter) -> None:
    First.flushed.clear()

    def touch(*kinds: type[First]) -> Write[None]:
        def job(batch: Batch) -> None:
            for kind in kinds:
                batch.shared(kind).count += 1

        return job

    await together(writer, touch(Second, First), touch(Second), insert(1))
    assert First.flushed == ["First 1", "Second 2"]
    assert await asyncio.to_thread(in_thread, rows) == [(1, ""), (101, "First"), (102, "Second")]


async def test_queued_rows_can_be_sent_early(writer: GroupWriter) -> None:
    def job(batch: Batch) -> tuple[Any, ...]:
        batch.queue(INSERT, (1, "a"))
        batch.queue(INSERT, (2, "b"))
        before = batch.fetch_one("SELECT COUNT(*) FROM group_commit_test")
        batch.flush_rows()
        changed = batch.execute("UPDATE group_commit_test SET tag = %s WHERE n >= %s", ("c", 1))
        none = batch.fetch_one("SELECT n FROM group_commit_test WHERE n = %s", (3,))
        return before, changed, none, batch.fetch_all("SELECT n, tag FROM group_commit_test ORDER BY n")

    before, changed, none, after = await writer.submit(job)
    assert (before, changed, none) == ((0,), 2, None)
    assert [tuple(row) for row in after] == [(1, "c"), (2, "c")]


def test_atomic_batch_commits_or_rolls_back_with_the_orm(table: None) -> None:
    def run(*jobs: Write[Any]) -> None:
        with atomic_batch() as batch:
            for job in jobs:
                job(batch)

    run(insert(1, "kept"))
    with pytest.raises(ValueError, match="changed my mind"):
        run(insert(2), Batch.flush, fail(ValueError("changed my mind")))
    with pytest.raises(DatabaseError):
        run(insert(3), insert(1, "twice"))
    assert rows() == [(1, "kept")]


def test_what_is_written_back_lies_in_the_file_itself(table: None, tmp_path: Path) -> None:
    with atomic_batch() as batch:
        batch.execute(INSERT, (1, "written"))
    write_back()
    assert rows() == [(1, "written")]
    if connection.vendor == "sqlite":
        copy = tmp_path / "without-its-log.db"
        copy.write_bytes(Path(connection.settings_dict["NAME"]).read_bytes())
        with contextlib.closing(sqlite3.connect(copy)) as alone:
            assert alone.execute("SELECT n, tag FROM group_commit_test").fetchall() == [(1, "written")]
