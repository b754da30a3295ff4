"""Databases of measurements: a migrated template, a fresh copy for each run, and what a run must have written."""

from __future__ import annotations

import json
import secrets
import shutil
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from benchmarks.processes import run
from benchmarks.servers import server_environment

TENANT = "bench"
SCOPES = "agents:run"


@dataclass(frozen=True, slots=True)
class Database:
    """One database: the URL for Clasper, and its name on a PostgreSQL server (else empty)."""

    url: str
    path: str = ""
    name: str = ""


class Store(Protocol):
    """Makes databases, answers one-number queries about them, and takes them away again."""

    engine: str

    def create(self, *, copy: Database | None = None) -> Database: ...

    def numbers(self, database: Database, queries: dict[str, str]) -> dict[str, int]: ...

    def analyze(self, database: Database) -> None: ...

    def drop(self, database: Database) -> None: ...


@dataclass(slots=True)
class SQLiteStore:
    """Files in one folder."""

    folder: Path
    engine: str = field(default="SQLite", init=False)

    def create(self, *, copy: Database | None = None) -> Database:
        path = self.folder / f"{secrets.token_hex(4)}.db"
        if copy is not None:
            with sqlite3.connect(copy.path) as connection:
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            connection.close()
            shutil.copyfile(copy.path, path)
        return Database(f"sqlite:///{path}", path=str(path))

    def numbers(self, database: Database, queries: dict[str, str]) -> dict[str, int]:
        connection = sqlite3.connect(database.path)
        try:
            return {name: int(connection.execute(sql).fetchone()[0] or 0) for name, sql in queries.items()}
        finally:
            connection.close()

    def analyze(self, database: Database) -> None:
        """Nothing: Clasper keeps no statistics on SQLite."""

    def drop(self, database: Database) -> None:
        for suffix in ("", "-wal", "-shm"):
            Path(database.path + suffix).unlink(missing_ok=True)


@dataclass(slots=True)
class PostgresStore:
    """Databases beside the one that the URL names, which itself is left alone."""

    url: str
    engine: str = field(default="PostgreSQL", init=False)

    def create(self, *, copy: Database | None = None) -> Database:
        name = f"clasper_bench_{secrets.token_hex(4)}"
        self._execute(self.url, f'CREATE DATABASE "{name}"' + (f' TEMPLATE "{copy.name}"' if copy else ""))
        return Database(urlsplit(self.url)._replace(path=f"/{name}").geturl(), name=name)

    def numbers(self, database: Database, queries: dict[str, str]) -> dict[str, int]:
        import psycopg

        with psycopg.connect(database.url) as connection:
            found: dict[str, int] = {}
            for name, sql in queries.items():
                row: Any = connection.execute(sql.encode()).fetchone()
                found[name] = int(row[0] or 0)
            return found

    def analyze(self, database: Database) -> None:
        """What the server's own housekeeping does a while after so many rows were written."""
        self._execute(database.url, "VACUUM ANALYZE")

    def drop(self, database: Database) -> None:
        self._execute(self.url, f'DROP DATABASE IF EXISTS "{database.name}" WITH (FORCE)')

    def _execute(self, url: str, sql: str) -> None:
        import psycopg

        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(sql.encode())


@dataclass(frozen=True, slots=True)
class Template:
    """A migrated database with the tenant's API key, which may hold runs already."""

    database: Database
    api_key: str


def store_for(url: str, folder: Path) -> Store:
    """The store behind `--database-url`; SQLite files without one."""
    return PostgresStore(url) if url else SQLiteStore(folder)


def make_template(store: Store) -> Template:
    """A database as `manage.py migrate` and `manage.py api_key create` leave it."""
    database = store.create()
    environment = server_environment(database_url=database.url, upstream="http://127.0.0.1:9")
    run("manage.py", "migrate", "--verbosity", "0", environment=environment)
    create = ("manage.py", "api_key", "create", "--tenant", TENANT, "--name", "bench", "--scopes", SCOPES, "--json")
    return Template(database, json.loads(run(*create, environment=environment))["key"])


QUERIES: dict[str, str] = {
    "traces": "SELECT COUNT(*) FROM traces",
    "succeeded": "SELECT COUNT(*) FROM traces WHERE status = 'success'",
    "with_message": "SELECT COUNT(*) FROM traces WHERE message_id <> ''",
    "trace_cost": "SELECT SUM(cost) FROM traces",
    "redactions": "SELECT SUM(redactions) FROM traces",
    "steps": "SELECT COUNT(*) FROM trace_steps",
    "contents": "SELECT COUNT(*) FROM trace_payloads WHERE seq = 0 AND output IS NOT NULL",
    "rolled_up": "SELECT SUM(runs) FROM trace_rollups WHERE dimension = 'status'",
    "starts": "SELECT COUNT(*) FROM audit_log WHERE event_type = 'agent.start'",
    "ends": "SELECT COUNT(*) FROM audit_log WHERE event_type = 'agent.complete'",
    "delivered": "SELECT COUNT(*) FROM outbox WHERE status = 'delivered'",
    "undelivered": "SELECT COUNT(*) FROM outbox WHERE status <> 'delivered'",
    "budget_spent": "SELECT SUM(spent) FROM tenant_budgets",
    "budget_reserved": "SELECT SUM(reserved) FROM tenant_budgets",
    "holds": "SELECT COUNT(*) FROM budget_holds",
    "ledger_cost": "SELECT SUM(cost) FROM spend_days",
}
FLOOR_QUERIES: dict[str, str] = {
    "traces": "SELECT COUNT(*) FROM traces",
    "steps": "SELECT COUNT(*) FROM steps",
    "audit": "SELECT COUNT(*) FROM audit",
    "trace_cost": "SELECT SUM(cost) FROM traces",
    "budget_spent": "SELECT SUM(spent) FROM budgets",
}


def faults_of_clasper(rows: dict[str, int], answered: int) -> list[str]:
    """What `answered` governed runs did not write as they must; empty when all is there. `rows` are what came new."""
    per_run = ("traces", "succeeded", "with_message", "steps", "contents", "rolled_up", "starts", "ends", "delivered")
    expected = dict.fromkeys((*per_run, "redactions"), answered) | dict.fromkeys(
        ("undelivered", "budget_reserved", "holds"), 0
    )
    expected |= dict.fromkeys(("budget_spent", "ledger_cost"), rows["trace_cost"])
    return _differences(rows, expected) + ([] if rows["trace_cost"] > 0 else ["the runs cost nothing"])


def faults_of_ungoverned(rows: dict[str, int], answered: int) -> list[str]:
    """As above, for a server whose governance was replaced: it must have left no trace at all."""
    per_run = ("traces", "succeeded", "with_message", "steps", "rolled_up", "delivered")
    none = ("contents", "starts", "ends", "redactions", "budget_spent", "budget_reserved", "holds", "undelivered")
    return _differences(rows, dict.fromkeys(per_run, answered) | dict.fromkeys(none, 0))


def faults_of_floor(rows: dict[str, int], answered: int) -> list[str]:
    """As above, for the floor."""
    expected = {"traces": answered, "steps": answered, "audit": 3 * answered, "budget_spent": rows["trace_cost"]}
    return _differences(rows, expected)


def _differences(rows: dict[str, int], expected: dict[str, int]) -> list[str]:
    return [f"{name}: {rows[name]} instead of {value}" for name, value in expected.items() if rows[name] != value]


CHECKS: dict[str, tuple[dict[str, str], Callable[[dict[str, int], int], list[str]]]] = {
    "clasper": (QUERIES, faults_of_clasper),
    "ungoverned": (QUERIES, faults_of_ungoverned),
    "floor": (FLOOR_QUERIES, faults_of_floor),
}
