"""Database writes: the group commit of the run path. What tables build on is in `core.tables`.

A *write* is a plain function of a `Batch`:

    def claim_seat(batch: Batch, guest: str) -> bool:
        taken = batch.execute("UPDATE seats SET guest = %s WHERE id = 7 AND guest IS NULL", (guest,)) == 1
        if taken:
            batch.queue("INSERT INTO visits (guest) VALUES (%s)", (guest,))  # sent with other rows before the commit
        return taken  # a refusal is a value; an exception would roll back

    claimed = await writer.submit(lambda batch: claim_seat(batch, "u-1"), key=tenant_id)  # on the event loop
    with atomic_batch() as batch:  # in views and commands
        claimed = claim_seat(batch, "u-1")

The `writer` is one thread with one connection. It commits all waiting writes in one transaction and then wakes their
callers. A write must be repeatable and use only its arguments and the batch: when a batch fails, it is rolled back and
its writes run again one by one.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence, Sized
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any, ClassVar, Generic, Protocol, TypeVar, cast

from django.db import DatabaseError, InterfaceError, connections, transaction

from clasper.core.errors import Unavailable

logger = logging.getLogger("clasper.db")

T = TypeVar("T")
S = TypeVar("S", bound="SharedState")

# The text Django itself stores for a UTC datetime, so that the ORM and the raw writes read each other's rows.
sqlite3.register_adapter(datetime, lambda instant: str(instant.replace(tzinfo=None)))


def placeholders(values: Sized) -> str:
    """The placeholders of a statement for as many values: `%s, %s, …`."""
    return ", ".join(["%s"] * len(values))


class SharedState(Protocol):
    """State that the writes of one batch share and that is written once, before the commit.

    States are flushed by ascending `lock_order`, so that all processes take row locks in the same order and cannot
    deadlock.
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
        """Runs one statement now (placeholders `%s`) and returns the number of rows it changed."""
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
        """Runs a statement just before the commit, together with the other rows queued for it.

        For statements whose outcome no write of the batch reads.
        """
        self._rows.setdefault(sql, []).append(row)

    def shared(self, kind: type[S]) -> S:
        """The batch's only state of this kind, created on first use."""
        state = self._shared.get(kind)
        if state is None:
            state = self._shared[kind] = kind()
        return cast(S, state)

    def flush(self) -> None:
        """Sends the queued rows, then the shared states in their lock order, then the rows that these queued."""
        self.flush_rows()
        for kind in sorted(self._shared, key=lambda each: each.lock_order):
            self._shared[kind].flush(self)
        self._shared.clear()
        self.flush_rows()

    def flush_rows(self) -> None:
        """Sends the queued rows now, for a write that must read or change what it has just inserted."""
        if not self._rows:
            return
        # PostgreSQL takes the queued statements in one go instead of a round trip for each.
        pipelined = self._raw and self.vendor == "postgresql"
        with self._cursor.connection.pipeline() if pipelined else nullcontext():
            for sql, rows in self._rows.items():
                if len(rows) == 1:
                    self._cursor.execute(self._native(sql), rows[0])
                else:
                    self._cursor.executemany(self._native(sql), rows)
        self._rows.clear()

    def after_commit(self, call: Callable[[], None]) -> None:
        """Calls `call`, which must be quick, after the batch is committed, and never if it is not."""
        self._afterwards.append(call)

    def committed(self) -> None:
        """Makes the calls that waited for the commit.

        A failure is only logged: the batch is committed, and its callers must not be told otherwise.
        """
        for call in self._afterwards:
            try:
                call()
            except Exception:
                logger.exception("a call after a commit failed")

    def _native(self, sql: str) -> str:
        return sql.replace("%s", "?") if self._qmark else sql

    @property
    def for_update(self) -> str:
        """`FOR UPDATE` where the database locks rows; SQLite's write transaction already holds the whole file."""
        return "" if self.vendor == "sqlite" else " FOR UPDATE"


Write = Callable[[Batch], T]


@contextmanager
def atomic_batch(using: str = "default") -> Iterator[Batch]:
    """A batch inside Django's own transaction, for views, commands and tasks that also use the ORM."""
    connection = connections[using]
    with transaction.atomic(using=using), connection.cursor() as cursor:
        batch = Batch(cursor, vendor=connection.vendor, native=False)
        yield batch
        batch.flush()
        transaction.on_commit(batch.committed, using=using)


def write_back(using: str = "default") -> None:
    """Copies SQLite's write-ahead log back into the database file, while others continue to write.

    For code that writes a lot: otherwise the log grows until some other commit, perhaps a run's, has to copy it.
    """
    connection = connections[using]
    if connection.vendor == "sqlite":
        with connection.cursor() as cursor:
            cursor.execute("PRAGMA wal_checkpoint(PASSIVE)")


@dataclass(slots=True)
class _Ticket(Generic[T]):
    write: Write[T]
    key: str
    alone: bool
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[None]
    result: Any = None
    error: Exception | None = None
    woken: bool = False


class _NotBegun(Exception):
    """No transaction could be begun: the database is unreachable or locked, and no write ran."""


class GroupWriter:
    """One thread and one connection that commit the waiting writes of all coroutines together.

    `submit` raises Unavailable when the database cannot be reached or is locked; all waiting callers get it at once,
    because each of them would only run into the same timeout. What a write itself raises reaches only its caller.
    """

    MAX_BATCH = 128
    """Bounds a transaction's length, so that one burst cannot hold SQLite's write lock for long."""

    BUSY_BATCH = 2
    LINGER_SECONDS = 0.002
    """After a batch of at least BUSY_BATCH writes the next one waits this long for more: committing twenty writes costs
    about as much as committing one. Writes that come one at a time never wait."""

    def __init__(self, using: str = "default") -> None:
        self._using = using
        self._queue: queue.SimpleQueue[_Ticket[Any] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._start_lock = threading.Lock()

    async def submit(self, write: Write[T], *, key: str = "", alone: bool = False) -> T:
        """Runs `write` in a transaction and returns its result after the commit.

        `key` (the tenant) orders the writes of a batch, so that all processes lock tenants in the same order. A write
        that locks rows of several tenants must go `alone`, in a transaction of its own. A cancelled caller stops
        waiting; its write is still committed.
        """
        loop = asyncio.get_running_loop()
        ticket = _Ticket(write, key, alone, loop, loop.create_future())
        if self._thread is None:
            with self._start_lock:
                if self._thread is None:
                    self._thread = threading.Thread(target=self._run, name="clasper-writer", daemon=True)
                    self._thread.start()
        self._queue.put(ticket)
        await ticket.future
        return cast(T, ticket.result)

    async def barrier(self) -> None:
        """Returns when everything submitted before is committed."""
        await self.submit(lambda batch: None)

    def close(self) -> None:
        """Commits what is queued and ends the thread."""
        with self._start_lock:
            thread, self._thread = self._thread, None
        if thread is not None:
            self._queue.put(None)
            thread.join()

    def _run(self) -> None:
        busy = last = False
        try:
            while not last and (first := self._queue.get()) is not None:
                if busy:
                    time.sleep(self.LINGER_SECONDS)
                others, last = self._take(self.MAX_BATCH - 1)
                tickets = [first, *others]
                busy = len(tickets) >= self.BUSY_BATCH
                try:
                    self._commit(tickets)
                except _NotBegun as error:
                    late, last = ([], True) if last else self._take(self._queue.qsize())
                    self._give_up([*tickets, *late], error)
        finally:
            connections[self._using].close()

    def _take(self, most: int) -> tuple[list[_Ticket[Any]], bool]:
        """Up to `most` waiting tickets, and whether the order to end followed them."""
        tickets: list[_Ticket[Any]] = []
        with suppress(queue.Empty):
            while len(tickets) < most:
                ticket = self._queue.get_nowait()
                if ticket is None:
                    return tickets, True
                tickets.append(ticket)
        return tickets, False

    def _commit(self, tickets: list[_Ticket[Any]]) -> None:
        """Commits what can be committed and wakes every caller as soon as its result is known. Raises _NotBegun."""
        together = sorted((ticket for ticket in tickets if not ticket.alone), key=lambda ticket: ticket.key)
        single = [ticket for ticket in tickets if ticket.alone]
        if together:
            try:
                self._transact(together)
            except _NotBegun:
                raise
            except Exception:
                if len(together) > 1:
                    logger.warning(
                        "%d writes failed together and are run again one by one", len(together), exc_info=True
                    )
                single += together
            else:
                _wake(together)
        for ticket in single:
            self._commit_alone(ticket)
            _wake([ticket])

    def _commit_alone(self, ticket: _Ticket[Any]) -> None:
        try:
            self._transact([ticket])
        except _NotBegun:
            raise
        except (DatabaseError, InterfaceError) as error:
            logger.error("a write failed", exc_info=True)
            ticket.error = _unavailable(error)
        except Exception as error:
            ticket.error = error

    def _give_up(self, tickets: list[_Ticket[Any]], error: _NotBegun) -> None:
        left = [ticket for ticket in tickets if not ticket.woken]
        logger.error("a write failed", exc_info=error, extra={"writes": len(left)})
        for ticket in left:
            ticket.error = _unavailable(error.__cause__)
        _wake(left)

    def _transact(self, tickets: list[_Ticket[Any]]) -> None:
        connection = connections[self._using]
        try:
            cursor = _begin(connection)
            with connection.wrap_database_errors:
                try:
                    batch = Batch(cursor, vendor=connection.vendor, native=True)
                    for ticket in tickets:
                        ticket.result = ticket.write(batch)
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
            # Not every driver tells a broken connection from a failed statement, and a new connection is cheap.
            _close(connection)
            raise


def _begin(connection: Any) -> Any:
    """A cursor in a new transaction, on a new connection if the old one was lost. Raises _NotBegun."""
    try:
        reused = connection.connection is not None
        try:
            return _cursor_in_transaction(connection)
        except (DatabaseError, InterfaceError):
            if not reused or connection.is_usable():
                raise
            _close(connection)
            return _cursor_in_transaction(connection)
    except (DatabaseError, InterfaceError) as error:
        _close(connection)
        raise _NotBegun from error


def _cursor_in_transaction(connection: Any) -> Any:
    with connection.wrap_database_errors:
        connection.ensure_connection()
        cursor = _native_cursor(connection.vendor, connection.connection)
        cursor.execute("BEGIN IMMEDIATE" if connection.vendor == "sqlite" else "BEGIN")
        return cursor


def _close(connection: Any) -> None:
    with suppress(Exception):
        connection.close()


def _native_cursor(vendor: str, raw: Any) -> Any:
    """A cursor of the driver: Django's wrapper would cost more than the statements of a run."""
    if vendor == "postgresql":
        import psycopg

        raw.prepare_threshold = 5
        return psycopg.Cursor(raw)
    return raw.cursor()


def _unavailable(cause: BaseException | None) -> Unavailable:
    error = Unavailable("The database is not available; try again.")
    error.__cause__ = cause
    return error


def _wake(tickets: list[_Ticket[Any]]) -> None:
    by_loop: dict[asyncio.AbstractEventLoop, list[_Ticket[Any]]] = {}
    for ticket in tickets:
        ticket.woken = True
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
