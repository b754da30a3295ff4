"""The servers that are compared, each started as a process of its own with exactly these settings."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.processes import ROOT, BenchmarkFailed
from benchmarks.watch import tree

DAEMON_KEY = "benchmark-daemon-key-of-no-use-elsewhere"
START_SECONDS = 30.0
STOP_SECONDS = 20.0
MODEL_SETTINGS = ("LLM_", "OPENAI_", "ANTHROPIC_", "GEMINI_", "GOOGLE_", "XAI_", "GROQ_", "MISTRAL_", "OPENROUTER_")
_OURS = ("CLASPER_", "AGENT_", "BACKEND_", "DATABASE_", "REDIS_", "CELERY_", "DJANGO_", "PYTHON", *MODEL_SETTINGS)
_OTHERS = ("SECRET_KEY", "DEBUG", "LOG_LEVEL", "ALLOWED_HOSTS")


@dataclass(frozen=True, slots=True)
class ModelHost:
    """A provider as the fake upstream plays it: the wire format, the path of its base URL, a model with a price."""

    wire_format: str
    path: str
    model: str


HOSTS: Mapping[str, ModelHost] = {
    "openai": ModelHost("chat", "/v1", "gpt-4o-mini"),
    "anthropic": ModelHost("messages", "/v1", "claude-haiku-4-5"),
    "gemini": ModelHost("gemini", "/v1beta", "gemini-2.5-flash"),
    "groq": ModelHost("chat", "/v1", "llama-3.1-8b-instant"),
}


@dataclass(frozen=True, slots=True)
class Variant:
    """One server under measurement: `clasper`, `ungoverned` or `floor`, with so many workers, asking one of HOSTS."""

    name: str
    kind: str = "clasper"
    workers: int = 1
    reuse_tokens: bool = False
    provider: str = "openai"

    @property
    def writes_clasper(self) -> bool:
        return self.kind != "floor"

    def command(self, *, port: int, upstream: str, database: str) -> list[str]:
        """The command line; only the floor is told its database there."""
        serve = ["serve", "--port", str(port), "--workers", str(self.workers)]
        if self.kind == "clasper":
            return [sys.executable, "manage.py", *serve]
        if self.kind == "ungoverned":
            return [sys.executable, "-m", "benchmarks.ungoverned", *serve]
        floor = [sys.executable, "-m", "benchmarks.floor", "--port", str(port), "--upstream", upstream]
        return [*floor, "--database", database, *(["--reuse-tokens"] if self.reuse_tokens else [])]


@dataclass(frozen=True, slots=True)
class Running:
    """A server that answers. `started_in` is the time from its start to its first served request."""

    pid: int
    port: int
    started_in: float
    log: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


def clean_environment() -> dict[str, str]:
    """The caller's environment without anything that configures Clasper or Python."""
    return {name: value for name, value in os.environ.items() if not name.startswith(_OURS) and name not in _OTHERS}


def server_environment(*, database_url: str, upstream: str, provider: str = "openai") -> dict[str, str]:
    """Clasper's settings for a measurement with one of HOSTS; printed with the results."""
    host = HOSTS[provider]
    return clean_environment() | {
        "CLASPER_ENV": "development",
        "SECRET_KEY": "benchmark-secret-key-of-more-than-thirty-two-characters",
        "DATABASE_URL": database_url,
        "AGENT_DAEMON_API_KEY": DAEMON_KEY,
        "AGENT_JWT_SECRET": "benchmark-jwt-secret-of-more-than-thirty-two-characters",
        "BACKEND_URL": upstream,
        "LLM_PROVIDER": provider,
        "LLM_MODEL_DEFAULT": host.model,
        f"{provider.upper()}_BASE_URL": f"{upstream}{host.path}",
        f"{provider.upper()}_API_KEY": "benchmark",
        "CLASPER_WORKSPACE": str(ROOT / "fixtures" / "workspaces" / "demo"),
        "LOG_LEVEL": "WARNING",
    }


@contextlib.contextmanager
def serving(
    variant: Variant, *, upstream: str, database: str, environment: Mapping[str, str], log: Path
) -> Iterator[Running]:
    """The variant's server, from its first served request on; asked to end on leaving, and made to if it does not."""
    port = free_port()
    with log.open("ab") as output:
        began = time.monotonic()
        process = subprocess.Popen(
            variant.command(port=port, upstream=upstream, database=database),
            cwd=ROOT,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
        try:
            _await_live(process, port, log)
            yield Running(process.pid, port, time.monotonic() - began, log)
        finally:
            end(process)


def end(process: subprocess.Popen[bytes]) -> None:
    """Stops the process; if it does not listen, it and its children are killed."""
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        for pid in reversed(tree(process.pid)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, 9)
        process.wait()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def _await_live(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        if _answers(port):
            return
        time.sleep(0.005)
    raise BenchmarkFailed(f"the server did not start:\n{log.read_text()[-2000:]}")


def _answers(port: int) -> bool:
    """Whether GET /health/live is answered with 200."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=START_SECONDS) as connection:
            connection.sendall(b"GET /health/live HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
            return connection.recv(64).startswith(b"HTTP/1.1 200")
    except OSError:
        return False
