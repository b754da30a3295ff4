"""What running programs use, read from /proc: CPU of process trees and of the database server, memory, reads."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_TICK = 1 / os.sysconf("SC_CLK_TCK")
_NUMBERS = slice(11, 15)
"""utime, stime and those of children that have ended, counted from the state on."""


@dataclass(frozen=True, slots=True)
class Reading:
    """Seconds of user and system time; resolution one tick, 10 ms."""

    server: float
    database: float

    def __sub__(self, earlier: Reading) -> Reading:
        return Reading(self.server - earlier.server, self.database - earlier.database)


@dataclass(frozen=True, slots=True)
class Meter:
    """Whose CPU counts: a server's process tree, and a PostgreSQL database's server processes."""

    pid: int
    postgres: str = ""

    def read(self) -> Reading:
        """What was used so far."""
        database = cpu_seconds(postgres_backends(self.postgres)) if self.postgres else 0.0
        return Reading(cpu_seconds(tree(self.pid)), database)


def tree(pid: int) -> list[int]:
    """The process and all its living descendants."""
    children: dict[int, list[int]] = {}
    for each in _pids():
        if stat := _stat(each):
            children.setdefault(int(stat[1]), []).append(each)
    found = [pid]
    for each in found:
        found.extend(children.get(each, ()))
    return found


def workers(pid: int) -> list[int]:
    """The processes of the tree that serve requests: the leaves that are not multiprocessing's resource tracker."""
    family = tree(pid)
    if len(family) == 1:
        return family
    return [each for each in family[1:] if "resource_tracker" not in _title(each)]


def cpu_seconds(pids: Iterable[int]) -> float:
    """User and system time of these processes and of their children that have ended."""
    return sum(sum(map(int, stat[_NUMBERS])) * _TICK for pid in pids if (stat := _stat(pid)))


def reads(pids: Iterable[int]) -> int:
    """How often these processes have asked the system to read: from files, pipes and connections."""
    return sum(int(_line(pid, "io", "syscr:") or 0) for pid in pids)


def rss_mib(pid: int) -> float:
    """Resident memory of one process."""
    return int(_line(pid, "status", "VmRSS:") or 0) / 1024


def postgres_backends(database: str) -> list[int]:
    """The PostgreSQL server processes that serve this database; their titles name it."""
    titles = ((pid, _title(pid)) for pid in _pids())
    return [pid for pid, title in titles if title.startswith("postgres:") and f" {database} " in title]


def _pids() -> list[int]:
    return [int(entry) for entry in os.listdir("/proc") if entry.isdigit()]


def _title(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
    except OSError:
        return ""


def _line(pid: int, file: str, label: str) -> str:
    """The first word after the label in a file of /proc/PID; empty for a process that is gone."""
    try:
        lines = Path(f"/proc/{pid}/{file}").read_text().splitlines()
    except OSError:
        return ""
    return next((line.split()[1] for line in lines if line.startswith(label)), "")


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the state on; empty for a process that is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []
