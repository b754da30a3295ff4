"""One measured run: a fresh database, a server, load on it, and the check that everything was really done."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import processes
from benchmarks.databases import (
    CHECKS,
    TENANT,
    Database,
    SQLiteStore,
    Store,
    Template,
    make_template,
    store_for,
)
from benchmarks.servers import DAEMON_KEY, BenchmarkFailed, Running, Variant, clean_environment, server_environment, serving
from benchmarks.watch import Meter

HARD_LIMIT_USD = 1_000_000
BODIES = 2000
"""Different messages, so that no cache of texts can make a run cheaper than it is."""
SEND = "/api/agents/send"


@dataclass(frozen=True, slots=True)
class Load:
    """What is asked of a server: closed loop with so many clients, or open loop at `rate` a second."""

    clients: int = 32
    seconds: float = 4.0
    warmup: float = 1.5
    rate: float = 0.0
    requests: int = 0


@dataclass(frozen=True, slots=True)
class Measured:
    """What one run showed. `faults` is empty for a valid run; CPU is of the server and its database, in seconds."""

    variant: str
    requests: int
    seconds: float
    cpu: float
    latency_ms: dict[str, float]
    started_in: float
    answered: int
    rows: dict[str, int] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)

    @property
    def cpu_ms(self) -> float:
        """CPU a request."""
        return 1000 * self.cpu / self.requests

    @property
    def rps(self) -> float:
        return self.requests / self.seconds


class Bench:
    """A folder, an upstream and a template database, for as many runs as one likes."""

    def __init__(self, folder: Path, store: SQLiteStore | Any, upstream_options: tuple[str, ...] = ()) -> None:
        self.folder = folder
        self.store: Store = store
        self.engine: str = store.engine
        self._upstream_options = upstream_options
        self._floor_store = SQLiteStore(folder)
        self._bodies = folder / "bodies.jsonl"
        self._bodies.write_text("".join(f"{json.dumps(body(number))}\n" for number in range(BODIES)))
        self.template: Template = make_template(store)

    def close(self) -> None:
        self.store.drop(self.template.database)

    def prefill(self, runs: int) -> None:
        """Puts so many real runs into the template, so that every measurement begins with them."""
        database = self.template.database
        with self._serving(Variant("prefill"), database) as (server, _):
            self._load(server, Load(clients=64, requests=runs), warmup=False)
        self.template = Template(database, self.template.api_key, runs)

    def measure(self, variant: Variant, load: Load, *, upstream: tuple[str, ...] = ()) -> Measured:
        """One run of the variant on a database of its own. Raises BenchmarkFailed when it cannot be made at all."""
        with self.fresh(variant) as database, self._serving(variant, database, upstream) as (server, world):
            warm = self._load(server, load, warmup=True) if load.warmup else {"statuses": {}}
            meter = Meter(server.pid, database.name)
            before = meter.cpu()
            found = self._load(server, load, warmup=False)
            cpu = meter.cpu() - before
            faults = refused(warm, found)
            answered = warm["statuses"].get("200", 0) + found["statuses"].get("200", 0)
            faults += self._chain_faults(server, variant)
            faults += served_faults(world, answered)
            started_in = server.started_in
            store = self._store_of(variant)
            rows, wrong = self._after(variant, store, database, answered)
        return Measured(
            variant.name,
            found["requests"],
            found["seconds"],
            cpu,
            found["latency_ms"],
            started_in,
            answered,
            rows,
            faults + wrong,
        )

    @contextlib.contextmanager
    def fresh(self, variant: Variant) -> Iterator[Database]:
        """A new database for the variant: a copy of the template, or for the floor an empty file."""
        store = self._store_of(variant)
        database = store.create(copy=self.template.database if variant.writes_clasper else None)
        try:
            yield database
        finally:
            store.drop(database)

    def _store_of(self, variant: Variant) -> Store:
        return self.store if variant.writes_clasper else self._floor_store

    @contextlib.contextmanager
    def _serving(
        self, variant: Variant, database: Database, options: tuple[str, ...] = ()
    ) -> Iterator[tuple[Running, str]]:
        with processes.running("benchmarks.upstream", *self._upstream_options, *options) as (_, port):
            world = f"http://127.0.0.1:{port}"
            environment = server_environment(database_url=database.url, upstream=world)
            log = self.folder / "server.log"
            with serving(
                variant, upstream=world, database=database.path, environment=environment, log=log
            ) as server:
                if variant.kind == "clasper":
                    set_budget(server)
                yield server, world

    def _load(self, server: Running, load: Load, *, warmup: bool) -> dict[str, Any]:
        """Runs the load generator and gives its findings."""
        command = [sys.executable, "-m", "benchmarks.load", f"{server.url}{SEND}", "--body-file", str(self._bodies)]
        command += ["--clients", str(load.clients), "--header", f"Authorization: Bearer {self.template.api_key}"]
        if load.requests and not warmup:
            command += ["--requests", str(load.requests)]
        else:
            command += ["--seconds", str(load.warmup if warmup else load.seconds)]
        if load.rate:
            command += ["--rate", str(load.rate)]
        done = subprocess.run(command, cwd=processes.ROOT, env=clean_environment(), capture_output=True, text=True)
        if done.returncode:
            raise BenchmarkFailed(f"the load generator failed:\n{done.stderr[-2000:]}")
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def _chain_faults(self, server: Running, variant: Variant) -> list[str]:
        if variant.kind != "clasper":
            return []
        report = call(server, "GET", f"/audit/verify?tenant_id={TENANT}")
        return [] if report.get("valid") else [f"the audit chain is broken: {report}"]

    def _after(
        self, variant: Variant, store: Store, database: Database, answered: int
    ) -> tuple[dict[str, int], list[str]]:
        queries, check = CHECKS[variant.kind]
        rows = store.numbers(database, queries)
        prefilled = self.template.runs if variant.writes_clasper else 0
        return rows, check(rows, answered + prefilled)


@contextlib.contextmanager
def bench(database_url: str = "") -> Iterator[Bench]:
    """A bench in a temporary folder; everything it made is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="clasper-bench-") as name:
        folder = Path(name)
        found = Bench(folder, store_for(database_url, folder))
        try:
            yield found
        finally:
            found.close()


def body(number: int) -> dict[str, Any]:
    """A send of about 270 bytes, with an e-mail address for redaction to find."""
    return {
        "user_id": f"u-{number % 32}",
        "session_key": f"user:u-{number % 32}:support",
        "message": f"Where is my order A{number:06d}? It was promised for Monday; write to jo{number:04d}@example.com.",
        "task_title": "Benchmark",
        "messages": [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "How may I help?"}],
    }


def set_budget(server: Running) -> None:
    """A hard limit that is never reached, so that every run reserves and settles."""
    terms = {"tenant_id": TENANT, "limit": HARD_LIMIT_USD, "hard_limit": HARD_LIMIT_USD, "period": "monthly"}
    call(server, "POST", "/budget", terms)


def call(server: Running, method: str, path: str, content: Any = None) -> dict[str, Any]:
    """A JSON request with the platform key. Raises BenchmarkFailed unless the answer is 200."""
    request = urllib.request.Request(
        f"{server.url}{path}",
        data=None if content is None else json.dumps(content).encode(),
        headers={"X-Agent-Daemon-Key": DAEMON_KEY, "Content-Type": "application/json"},
        method=method,
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            answer: dict[str, Any] = json.load(response)
            return answer
    except urllib.error.HTTPError as error:
        raise BenchmarkFailed(f"{method} {path} answered {error.code}: {error.read()[:500]!r}") from error


def refused(*findings: dict[str, Any]) -> list[str]:
    """Every answer that was not 200, and every request without one."""
    faults = []
    for found in findings:
        faults += [f"{count} × {status}" for status, count in found["statuses"].items() if status != "200"]
        if found.get("errors"):
            faults.append(f"{found['errors']} requests without an answer")
    return faults


def served_faults(world: str, answered: int) -> list[str]:
    """Whether provider and backend were asked exactly once a run."""
    with urllib.request.urlopen(f"{world}/_counts", timeout=10) as response:
        counts = json.load(response)
    expected = {"completions": answered, "messages": answered, "tasks_list": answered}
    return [
        f"upstream {name}: {counts.get(name, 0)} instead of {value}"
        for name, value in expected.items()
        if counts.get(name, 0) != value
    ]
