"""Database writes: the group commit of the run path, and the guards every table builds on.

A *job* is a plain function of a `Batch`. The engine submits jobs to the process's `GroupWriter`, whose single thread
commits whatever is waiting in one transaction and then wakes each caller; ordinary views and commands run the same
functions inside `atomic_batch()`. One way to write, two ways to commit.

A job must be repeatable: it only reads its arguments and the batch, because a failing batch is rolled back and its
jobs run again one by one. A refusal (no budget left, key already taken) is a return value, not an exception.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, ClassVar, Generic, NoReturn, Protocol, Self, TypeVar, cast

from django.db import DatabaseError, InterfaceError, connections, models, transaction

from clasper.core.errors import Unavailable

logger = logging.getLogger("clasper.db")

T = TypeVar("T")
S = TypeVar("S", bound="SharedState")

# The text Django itself stores for a UTC datetime, so that the ORM and the raw jobs read each other's rows.
sqlite3.register_adapter(datetime, lambda instant: str(instant.replace(tzinfo=None)))


class SharedState(Protocol):
    """State that the jobs of one batch share and that is written once, before the commit.

    States are flushed by ascending `lock_order`: every process takes row locks in the same order, so none waits in a
    circle.
    """

    lock_order: ClassVar[int]

    def flush(self, batch: Batch) -> None: ...


class Batch:
    """One open write transaction."""

    def __init__(self, cursor: Any, *, vendor: str, native: bool) -> None:
        self.vendor = vendor
        self._cursor = cursor
        self._raw = native
        self._qmark = native and vendor == "sqlite"
        self._rows: dict[str, list[Sequence[Any]]] = {}
        self._shared: dict[type[Any], Any] = {}
        self._afterwards: list[Callable[[], None]] = []

    def execute(self, sql: str, params: Sequence[Any] = ()) -> int:
        """Runs one statement now (placeholders `%s`) and gives the number of rows it touched."""
        self._cursor.execute(self._native(sql), params)
        return cast(int, self._cursor.rowcount)

    def fetch_one(self, sql: str, params: Sequence[Any] = ()) -> tuple[Any, ...] | None:
        """The first row of a query or of a statement with RETURNING, or None."""
        self._cursor.execute(self._native(sql), params)
        return cast("tuple[Any, ...] | None", self._cursor.fetchone())

    def fetch_all(self, sql: str, params: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """All rows of a query or of a statement with RETURNING."""
        self._cursor.execute(self._native(sql), params)
        return cast("list[tuple[Any, ...]]", self._cursor.fetchall())

    def queue(self, sql: str, row: Sequence[Any]) -> None:
        """Runs a statement later, just before the commit; the rows of one statement travel together.

        For statements whose outcome no job of the batch looks at.
        """
        self._rows.setdefault(sql, []).append(row)

    def shared(self, kind: type[S]) -> S:
        """The batch's one state of this kind, made on first use."""
        state = self._shared.get(kind)
        if state is None:
            state = self._shared[kind] = kind()
        return cast(S, state)

    def flush(self) -> None:
        """Writes what is queued: first the rows, then each shared state in its lock order, then the rows they added."""
        self.flush_rows()
        for kind in sorted(self._shared, key=lambda each: each.lock_order):
            self._shared[kind].flush(self)
        self._shared.clear()
        self.flush_rows()

    def flush_rows(self) -> None:
        """Sends the queued rows now, for a job that must read or change what it has just inserted."""
        if not self._rows:
            return
        with self._pipeline():
            for sql, rows in self._rows.items():
                if len(rows) == 1:
                    self._cursor.execute(self._native(sql), rows[0])
                else:
                    self._cursor.executemany(self._native(sql), rows)
        self._rows.clear()

    def after_commit(self, call: Callable[[], None]) -> None:
        """Has `call` called once the batch is committed, and never if it is not; it must be quick."""
        self._afterwards.append(call)

    def committed(self) -> None:
        """Calls what waited for the commit; whoever committed the batch does this.

        A failure is logged only: what is committed must not look as if it were not.
        """
        for call in self._afterwards:
            try:
                call()
            except Exception:
                logger.exception("what should follow a commit failed")

    def _pipeline(self) -> AbstractContextManager[Any]:
        """PostgreSQL takes the queued statements in one go instead of a round trip each."""
        if self._raw and self.vendor == "postgresql":
            pipeline: AbstractContextManager[Any] = self._cursor.connection.pipeline()
            return pipeline
        return nullcontext()

    def _native(self, sql: str) -> str:
        return sql.replace("%s", "?") if self._qmark else sql

    @property
    def for_update(self) -> str:
        """`FOR UPDATE` where the database locks rows; SQLite's write transaction already holds the whole file."""
        return "" if self.vendor == "sqlite" else " FOR UPDATE"


Job = Callable[[Batch], T]


@contextmanager
def atomic_batch(using: str = "default") -> Iterator[Batch]:
    """A batch inside Django's own transaction, for views, commands and tasks that also use the ORM."""
    connection = connections[using]
    with transaction.atomic(using=using), connection.cursor() as cursor:
        batch = Batch(cursor, vendor=connection.vendor, native=False)
        yield batch
        batch.flush()
        transaction.on_commit(batch.committed, using=using)


@dataclass(slots=True)
class _Ticket(Generic[T]):
    job: Job[T]
    key: str
    alone: bool
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[None]
    result: Any = None
    error: Exception | None = None


class GroupWriter:
    """One thread and one connection that commit the waiting jobs of all coroutines together.

    Raises Unavailable from `submit` when the database cannot be reached; whatever a job itself raises reaches only the
    coroutine that submitted it.
    """

    MAX_BATCH = 128
    """Bounds a transaction's length, so that one burst cannot hold SQLite's write lock for long."""

    BUSY_BATCH = 2
    LINGER_SECONDS = 0.002
    """While batches are this large, the next one waits a moment for company: a commit costs about as much for twenty
    jobs as for one. A lone job never waits."""

    def __init__(self, using: str = "default") -> None:
        self._using = using
        self._queue: queue.SimpleQueue[_Ticket[Any] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._start_lock = threading.Lock()

    async def submit(self, job: Job[T], *, key: str = "", alone: bool = False) -> T:
        """Runs `job` in a committed transaction and gives its result.

        `key` (the tenant) orders the jobs of a batch, so that all processes lock tenants in the same order. A job that
        locks rows of several tenants goes `alone`, in a transaction of its own. A cancelled caller stops waiting; its
        job is committed all the same.
        """
        loop = asyncio.get_running_loop()
        ticket = _Ticket(job, key, alone, loop, loop.create_future())
        if self._thread is None:
            self._start()
        self._queue.put(ticket)
        await ticket.future
        return cast(T, ticket.result)

    async def barrier(self) -> None:
        """Returns when everything that was submitted before is committed."""
        await self.submit(lambda batch: None)

    def close(self) -> None:
        """Commits what is queued and ends the thread."""
        with self._start_lock:
            thread, self._thread = self._thread, None
        if thread is not None:
            self._queue.put(None)
            thread.join()

    def _start(self) -> None:
        with self._start_lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="clasper-writer", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        busy = False
        try:
            while (first := self._queue.get()) is not None:
                if busy:
                    time.sleep(self.LINGER_SECONDS)
                tickets = [first]
                last = False
                with suppress(queue.Empty):
                    while len(tickets) < self.MAX_BATCH:
                        ticket = self._queue.get_nowait()
                        if ticket is None:
                            last = True
                            break
                        tickets.append(ticket)
                busy = len(tickets) >= self.BUSY_BATCH
                self._commit(tickets)
                if last:
                    break
        finally:
            connections[self._using].close()

    def _commit(self, tickets: list[_Ticket[Any]]) -> None:
        together = sorted((ticket for ticket in tickets if not ticket.alone), key=lambda ticket: ticket.key)
        single = [ticket for ticket in tickets if ticket.alone]
        if together:
            try:
                self._transact(together)
            except Exception:
                if len(together) > 1:
                    logger.warning(
                        "%d writes failed together and are run again one by one", len(together), exc_info=True
                    )
                single += together
        for ticket in single:
            self._commit_alone(ticket)
        _wake(tickets)

    def _commit_alone(self, ticket: _Ticket[Any]) -> None:
        try:
            self._transact([ticket])
        except (DatabaseError, InterfaceError) as error:
            logger.error("a write failed", exc_info=True)
            ticket.error = Unavailable("The database is not available; try again.")
            ticket.error.__cause__ = error
        except Exception as error:
            ticket.error = error

    def _transact(self, tickets: list[_Ticket[Any]]) -> None:
        connection = connections[self._using]
        try:
            with connection.wrap_database_errors:
                connection.ensure_connection()
                raw = connection.connection
                cursor = _native_cursor(connection.vendor, raw)
                cursor.execute("BEGIN IMMEDIATE" if connection.vendor == "sqlite" else "BEGIN")
                try:
                    batch = Batch(cursor, vendor=connection.vendor, native=True)
                    for ticket in tickets:
                        ticket.result = ticket.job(batch)
                    batch.flush()
                    cursor.execute("COMMIT")
                except BaseException:
                    with suppress(Exception):
                        cursor.execute("ROLLBACK")
                    raise
                finally:
                    cursor.close()
            batch.committed()
        except (DatabaseError, InterfaceError):
            # A broken connection cannot be told from a failed statement on every driver, and a new one is cheap.
            with suppress(Exception):
                connection.close()
            raise


def _native_cursor(vendor: str, raw: Any) -> Any:
    """A cursor of the driver itself: Django's wrapper would cost more than the statements of a run."""
    if vendor == "postgresql":
        import psycopg

        raw.prepare_threshold = 5
        return psycopg.Cursor(raw)
    return raw.cursor()


def _wake(tickets: list[_Ticket[Any]]) -> None:
    by_loop: dict[asyncio.AbstractEventLoop, list[_Ticket[Any]]] = {}
    for ticket in tickets:
        by_loop.setdefault(ticket.loop, []).append(ticket)
    for loop, group in by_loop.items():
        with suppress(RuntimeError):  # the loop was closed while its write was under way
            loop.call_soon_threadsafe(_resolve, group)


def _resolve(tickets: list[_Ticket[Any]]) -> None:
    for ticket in tickets:
        if ticket.future.done():
            continue
        if ticket.error is not None:
            ticket.future.set_exception(ticket.error)
        else:
            ticket.future.set_result(None)


writer = GroupWriter()
"""The process's writer for the run path."""


class TenantQuerySet(models.QuerySet[Any]):
    """Queries of a tenant's table begin with `for_tenant`."""

    def for_tenant(self, tenant_id: str) -> Self:
        return self.filter(tenant_id=tenant_id)


class AppendOnlyError(Exception):
    """Somebody tried to change or delete a row of an append-only table."""


def _refuse(*args: Any, **kwargs: Any) -> NoReturn:
    raise AppendOnlyError("rows of this table are never changed or deleted")


class AppendOnlyQuerySet(TenantQuerySet):
    """Reads and inserts only; a database trigger refuses the same for everybody else."""

    update = _refuse
    delete = _refuse
    bulk_update = _refuse
    update_or_create = _refuse


class AppendOnlyModel(models.Model):
    """A row that is written once."""

    objects = AppendOnlyQuerySet.as_manager()

    class Meta:
        abstract = True

    def save(self, *args: Any, **kwargs: Any) -> None:
        if not self._state.adding:
            _refuse()
        super().save(*args, **kwargs)

    def delete(self, *args: Any, **kwargs: Any) -> NoReturn:
        _refuse()


@dataclass(frozen=True, slots=True)
class AppendOnlyTrigger:
    """The statements that make a table append-only in the database itself, and those that undo it."""

    table: str
    _events: tuple[str, ...] = field(default=("UPDATE", "DELETE"), repr=False)

    def create(self, vendor: str) -> list[str]:
        name, table = f"{self.table}_append_only", self.table
        if vendor == "sqlite":
            return [
                f"CREATE TRIGGER {name}_{event.lower()} BEFORE {event} ON {table} "
                f"BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END"
                for event in self._events
            ]
        function = (
            f"CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS "
            f"$$ BEGIN RAISE EXCEPTION '{table} is append-only'; END $$"
        )
        return [
            function,
            f"CREATE TRIGGER {name}_rows BEFORE UPDATE OR DELETE ON {table} FOR EACH ROW EXECUTE FUNCTION {name}()",
            f"CREATE TRIGGER {name}_truncate BEFORE TRUNCATE ON {table} EXECUTE FUNCTION {name}()",
        ]

    def drop(self, vendor: str) -> list[str]:
        name, table = f"{self.table}_append_only", self.table
        if vendor == "sqlite":
            return [f"DROP TRIGGER IF EXISTS {name}_{event.lower()}" for event in self._events]
        return [
            f"DROP TRIGGER IF EXISTS {name}_rows ON {table}",
            f"DROP TRIGGER IF EXISTS {name}_truncate ON {table}",
            f"DROP FUNCTION IF EXISTS {name}()",
        ]
