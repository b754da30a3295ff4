"""One measured run: a fresh database, a server, load on it, and the check that everything was really done."""

from __future__ import annotations

import contextlib
import json
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx

from benchmarks import processes
from benchmarks.checks import answers_in, refused_in, served_faults
from benchmarks.databases import (
    CHECKS,
    QUERIES,
    TENANT,
    Database,
    SQLiteStore,
    Store,
    Template,
    make_template,
    store_for,
)
from benchmarks.processes import BenchmarkFailed
from benchmarks.servers import (
    DAEMON_KEY,
    Running,
    Variant,
    clean_environment,
    server_environment,
    serving,
)
from benchmarks.watch import Meter, rss_mib, workers

HARD_LIMIT_USD = 1_000_000
BODIES = 2000
"""Different messages, so that no cache of texts can make a run cheaper than it is."""
SEND = "/api/agents/send"
STREAM = "/api/agents/stream"
FOOTPRINT_SENDS = 1000
_SETTLE_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Load:
    """What is asked of a server: closed loop with so many clients, or open loop at `rate` a second.

    `seconds` includes `settle`, in which clients begin one after the other and nothing is timed; CPU counts throughout.
    `streams` asks for server-sent events. With `tenants` the platform key asks for so many tenants in turn.
    """

    clients: int = 32
    seconds: float = 4.0
    warmup: float = 1.5
    rate: float = 0.0
    requests: int = 0
    settle: float = 0.5
    streams: bool = False
    tenants: int = 0


@dataclass(frozen=True, slots=True)
class World:
    """The fake upstream of a run."""

    pid: int
    url: str

    def counts(self) -> dict[str, int]:
        """How often each of its routes was asked."""
        found: dict[str, int] = httpx.get(f"{self.url}/_counts", timeout=10).json()
        return found

    def behave(self, **options: Any) -> None:
        """Changes some of the upstream's Options. Raises BenchmarkFailed."""
        answer = httpx.post(f"{self.url}/_options", json=options, timeout=10)
        if answer.status_code != 200:
            raise BenchmarkFailed(f"the upstream refused {options}: {answer.text[:500]}")


@dataclass(frozen=True, slots=True)
class Measured:
    """What one run showed. `faults` is empty for a valid run.

    `cpu` is of the server and its database, in seconds; `database_cpu` is the PostgreSQL server's part of it.
    `answered` counts the warm-up too; `prompt_bytes` is the mean size of what the provider was sent.
    """

    variant: str
    requests: int
    seconds: float
    rps: float
    cpu: float
    database_cpu: float
    latency_ms: dict[str, float]
    started_in: float
    answered: int
    prompt_bytes: float
    rows: dict[str, int] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)

    @property
    def cpu_ms(self) -> float:
        """CPU a request."""
        return 1000 * self.cpu / max(1, self.requests)


@dataclass(frozen=True, slots=True)
class Footprint:
    """Seconds from start to the first served request; MiB of the worker process idle, and after 1000 sends."""

    variant: str
    started_in: float
    idle_mib: float
    used_mib: float
    faults: list[str] = field(default_factory=list)


class Bench:
    """A folder and a template database, for as many runs as one likes."""

    def __init__(self, folder: Path, store: Store) -> None:
        self.folder = folder
        self.store: Store = store
        self._floor_store: Store = SQLiteStore(folder)
        self.template: Template = make_template(store)
        self._seeded: dict[int, Template] = {}
        self._peopled: dict[int, Template] = {}
        self._rows: dict[Database, dict[str, int]] = {}

    def close(self) -> None:
        for template in (self.template, *self._seeded.values(), *self._peopled.values()):
            self.store.drop(template.database)

    def seeded(self, runs: int) -> Template:
        """A copy of the template that also holds so many invented runs of the tenant; made once."""
        if runs not in self._seeded:
            database = self.store.create(copy=self.template.database)
            self._seeded[runs] = replace(self.template, database=database)
            environment = server_environment(database_url=database.url, upstream="http://127.0.0.1:9")
            seed = ("manage.py", "seed_traces", "--tenant", TENANT, "--count", str(runs), "--json")
            processes.run(*seed, environment=environment)
            self.store.analyze(database)
            with self.serving(Variant("budget"), database):
                pass  # a server is given a budget, which begins with what the invented runs cost
        return self._seeded[runs]

    def peopled(self, tenants: int) -> Template:
        """A copy of the template in which so many tenants have a budget with a hard limit; made once."""
        if tenants not in self._peopled:
            database = self.store.create(copy=self.template.database)
            self._peopled[tenants] = replace(self.template, database=database)
            budgets = self._file(f"budgets-{tenants}", (_budget(tenant(number)) for number in range(tenants)))
            with self.serving(Variant("budgets"), database) as (server, _):
                found = self._load(server, "/budget", budgets, Load(clients=8, requests=tenants, tenants=tenants))
                if refused := refused_in(found):
                    raise BenchmarkFailed(f"budgets were refused: {refused}")
            self.store.analyze(database)
        return self._peopled[tenants]

    def prefill(self, runs: int) -> None:
        """Puts so many real runs into the template, so that every measurement begins with them."""
        with self.serving(Variant("prefill"), self.template.database) as (server, _):
            self.load(server, Load(clients=64, requests=runs))

    def measure(
        self, variant: Variant, load: Load, *, upstream: tuple[str, ...] = (), template: Template | None = None
    ) -> Measured:
        """One run of the variant on a database of its own. Raises BenchmarkFailed when it cannot be made at all."""
        with self.fresh(variant, template) as database:
            with self.serving(variant, database, upstream) as (server, world):
                warm = self.load(server, replace(load, seconds=load.warmup))
                meter = Meter(server.pid, database.name)
                before = meter.read()
                found = self.load(server, load)
                cpu = meter.read() - before
                answered = answers_in(warm, found)
                counts = world.counts()
                faults = refused_in(warm, found) + served_faults(counts, variant, answered)
                faults += chain_faults(server, variant, tenant(0) if load.tenants else TENANT)
            rows, wrong = self.written(variant, database, answered, template)
        return Measured(
            variant=variant.name,
            requests=found["requests"],
            seconds=found["seconds"],
            rps=found["rps"],
            cpu=cpu.server + cpu.database,
            database_cpu=cpu.database,
            latency_ms=found["latency_ms"],
            started_in=server.started_in,
            answered=answered,
            prompt_bytes=counts.get("completion_bytes", 0) / max(1, counts.get("completions", 0)),
            rows=rows,
            faults=faults + wrong,
        )

    def footprint(self, variant: Variant) -> Footprint:
        """How fast it starts and what memory its worker keeps."""
        with self.fresh(variant) as database:
            with self.serving(variant, database) as (server, _):
                time.sleep(_SETTLE_SECONDS)
                (worker,) = workers(server.pid)
                idle = rss_mib(worker)
                found = self.load(server, Load(requests=FOOTPRINT_SENDS))
                time.sleep(_SETTLE_SECONDS)
                used = rss_mib(worker)
            _, wrong = self.written(variant, database, answers_in(found))
        return Footprint(variant.name, server.started_in, idle, used, refused_in(found) + wrong)

    @contextlib.contextmanager
    def fresh(self, variant: Variant, template: Template | None = None) -> Iterator[Database]:
        """A new database for the variant: a copy of the template, or for the floor an empty file."""
        store = self._store_of(variant)
        database = store.create(copy=(template or self.template).database if variant.writes_clasper else None)
        try:
            yield database
        finally:
            store.drop(database)

    @contextlib.contextmanager
    def serving(
        self, variant: Variant, database: Database, upstream: tuple[str, ...] = ()
    ) -> Iterator[tuple[Running, World]]:
        """The variant's server with an upstream of its own."""
        with processes.running("benchmarks.upstream", *upstream) as (pid, port):
            world = World(pid, f"http://127.0.0.1:{port}")
            environment = server_environment(database_url=database.url, upstream=world.url, provider=variant.provider)
            started = serving(
                variant,
                upstream=world.url,
                database=database.path,
                environment=environment,
                log=self.folder / "server.log",
            )
            with started as server:
                if variant.kind == "clasper":
                    call(server, "POST", "/budget", _budget(TENANT))
                yield server, world

    def load(self, server: Running, load: Load) -> dict[str, Any]:
        """Runs the load generator as a process and returns its findings. Raises BenchmarkFailed without any."""
        sends = (body(number, load.tenants) for number in range(max(BODIES, load.tenants)))
        return self._load(server, STREAM if load.streams else SEND, self._file(f"sends-{load.tenants}", sends), load)

    def _file(self, name: str, bodies: Iterable[dict[str, Any]]) -> Path:
        """A file of request bodies, one a line."""
        path = self.folder / f"{name}.jsonl"
        if not path.exists():
            path.write_text("".join(f"{json.dumps(each)}\n" for each in bodies))
        return path

    def _load(self, server: Running, path: str, bodies: Path, load: Load) -> dict[str, Any]:
        key = f"X-Agent-Daemon-Key: {DAEMON_KEY}" if load.tenants else f"Authorization: Bearer {self.template.api_key}"
        command = ["-m", "benchmarks.load", f"{server.url}{path}", "--body-file", str(bodies)]
        command += ["--clients", str(load.clients), "--header", key]
        command += ["--seconds", str(load.seconds), "--requests", str(load.requests), "--rate", str(load.rate)]
        command += ["--settle", str(load.settle), *(["--sse"] if load.streams else [])]
        found: dict[str, Any] = json.loads(processes.run(*command, environment=clean_environment()))
        if not answers_in(found):
            raise BenchmarkFailed(f"the server answered nothing: {found}")
        return found

    def _store_of(self, variant: Variant) -> Store:
        return self.store if variant.writes_clasper else self._floor_store

    def written(
        self, variant: Variant, database: Database, answered: int, template: Template | None = None
    ) -> tuple[dict[str, int], list[str]]:
        """The rows that came to those of the template, read once the server has ended, and what is wrong with them."""
        queries, check = CHECKS[variant.kind]
        rows = self._store_of(variant).numbers(database, queries)
        if variant.writes_clasper:
            stored = (template or self.template).database
            if stored not in self._rows:
                self._rows[stored] = self.store.numbers(stored, QUERIES)
            before = self._rows[stored]
            rows = {name: number - before[name] for name, number in rows.items()}
        return rows, check(rows, answered)


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


def body(number: int, tenants: int = 0) -> dict[str, Any]:
    """A send of about 320 bytes, with an e-mail address for redaction to find; of one of so many tenants."""
    return {
        **({"tenant_id": tenant(number % tenants)} if tenants else {}),
        "user_id": f"u-{number % 32}",
        "session_key": f"user:u-{number % 32}:support",
        "message": f"Where is my order A{number:06d}? It was promised for Monday; write to jo{number:04d}@example.com.",
        "task_title": "Benchmark",
        "messages": [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "How may I help?"}],
    }


def tenant(number: int) -> str:
    """The name of one of many tenants."""
    return f"tenant-{number}"


def _budget(tenant_id: str) -> dict[str, Any]:
    """A hard limit that is never reached, so that every run reserves and settles."""
    return {"tenant_id": tenant_id, "limit": HARD_LIMIT_USD, "hard_limit": HARD_LIMIT_USD, "period": "monthly"}


def call(server: Running, method: str, path: str, content: Any = None) -> dict[str, Any]:
    """A JSON request with the platform key. Raises BenchmarkFailed unless the answer is 200."""
    headers = {"X-Agent-Daemon-Key": DAEMON_KEY}
    response = httpx.request(method, f"{server.url}{path}", json=content, headers=headers, timeout=60)
    if response.status_code != 200:
        raise BenchmarkFailed(f"{method} {path} answered {response.status_code}: {response.text[:500]}")
    answer: dict[str, Any] = response.json()
    return answer


def chain_faults(server: Running, variant: Variant, tenant_id: str = TENANT) -> list[str]:
    """Whether the tenant's audit chain verifies."""
    if variant.kind != "clasper":
        return []
    report = call(server, "GET", f"/audit/verify?tenant_id={tenant_id}")
    return [] if report.get("valid") else [f"the audit chain is broken: {report}"]
