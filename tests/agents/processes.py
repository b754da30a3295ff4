"""Servers and workers as processes of their own, to be killed: each on a database file that the test may read."""

from __future__ import annotations

import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from django.db import connection

from tests.world import DAEMON_KEY, Server

ROOT = Path(__file__).resolve().parents[2]


def wait_until(condition: Callable[[], Any], *, within: float, what: str) -> None:
    """Polls. Raises TimeoutError saying what did not come."""
    ends = time.monotonic() + within
    while not condition():
        if time.monotonic() > ends:
            raise TimeoutError(f"not within {within} s: {what}")
        time.sleep(0.05)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Installation:
    """A database file, an environment, and the processes that use them."""

    directory: Path
    environment: dict[str, str]
    port: int = field(default_factory=free_port)
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @classmethod
    def create(cls, directory: Path, workspace: Path, **environment: str) -> Installation:
        """Empty tables, copied from the tests' own database."""
        if connection.vendor != "sqlite":
            pytest.skip("the processes of these tests share a SQLite file")
        target = sqlite3.connect(directory / "own.db")
        source = sqlite3.connect(connection.settings_dict["NAME"])
        source.backup(target)
        source.close()
        target.close()
        kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
        ours = {
            "CLASPER_ENV": "test",
            "CLASPER_DB_PATH": str(directory / "own.db"),
            "CLASPER_WORKSPACE": str(workspace),
            "AGENT_DAEMON_API_KEY": DAEMON_KEY,
            "LLM_PROVIDER": "offline",
            "CLASPER_OUTBOX_RETRY_MS": "100",
            "CLASPER_SWEEP_SECONDS": "0.5",
        }
        return cls(directory, {**kept, **ours, **environment})

    def run(self, *command: str) -> subprocess.Popen[bytes]:
        """A process of this installation; its output goes to a file beside the database."""
        with (self.directory / "processes.log").open("ab") as log:
            process = subprocess.Popen(
                command, cwd=ROOT, env=self.environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )
        self.processes.append(process)
        return process

    def spawn(self, *arguments: str) -> subprocess.Popen[bytes]:
        """A Python process of this installation."""
        return self.run(sys.executable, *arguments)

    def serve(self) -> Server:
        """A server that answers. Raises TimeoutError."""
        process = self.spawn("manage.py", "serve", "--port", str(self.port))
        url = f"http://127.0.0.1:{self.port}"

        def answers() -> bool:
            assert process.poll() is None, (self.directory / "processes.log").read_text()
            try:
                return httpx.get(f"{url}/health/live", timeout=1).status_code == 200
            except httpx.TransportError:
                return False

        wait_until(answers, within=30, what="the server's first answer")
        return Server(url)

    def kill(self) -> None:
        """SIGKILL, for all of them, the last first: nobody gets to say goodbye."""
        for process in reversed(self.processes):
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # with the children it started
            process.wait()
        self.processes.clear()

    def query(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        """Rows of the database as they are committed now."""
        database = sqlite3.connect(self.directory / "own.db", timeout=10)
        try:
            return database.execute(sql, values).fetchall()
        finally:
            database.close()

    def number(self, sql: str) -> int:
        return int(self.query(sql)[0][0] or 0)
