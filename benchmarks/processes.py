"""Programs under measurement: starting them, waiting until they listen, and reading what they use from /proc."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
_STOP_SECONDS = 10


@contextlib.contextmanager
def running(module: str, *arguments: str, environment: Mapping[str, str] | None = None) -> Iterator[tuple[int, int]]:
    """Runs `python -m module` and gives its pid and port, read from the JSON line it prints; ends it afterwards."""
    process = subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        cwd=ROOT,
        env={**os.environ, **(environment or {})},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        line = process.stdout.readline() if process.stdout else ""
        if not line:
            raise RuntimeError(f"{module} ended before it listened")
        yield process.pid, json.loads(line)["port"]
    finally:
        process.terminate()
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout:
            process.stdout.close()


def cpu_seconds(pid: int) -> float:
    """User and system time of the process and its living descendants, in seconds (resolution: one tick, 10 ms)."""
    return sum(sum(map(int, _stat(each)[11:13])) for each in _tree(pid)) / _TICKS


def resident_bytes(pid: int) -> int:
    """Resident memory of the process and its living descendants."""
    return sum(int(_stat(each)[21]) for each in _tree(pid)) * _PAGE


def _stat(pid: int) -> Sequence[str]:
    """The fields of /proc/<pid>/stat from the state on; the name before it may hold blanks and brackets."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def _tree(pid: int) -> Iterator[int]:
    yield pid
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            yield from _tree(int(child))
