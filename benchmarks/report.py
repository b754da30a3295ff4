"""What the reader gets: tables on the terminal, and everything that was measured as JSON."""

from __future__ import annotations

import json
import os
import platform
import sqlite3
import subprocess
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.cases import Report
from benchmarks.processes import ROOT
from benchmarks.servers import MODEL_SETTINGS, server_environment

RESULTS = ROOT / "benchmarks" / "results"
_PACKAGES = ("django", "channels", "uvicorn", "uvloop", "httptools", "aiohttp", "msgspec", "psycopg", "pyjwt")
EVERYTHING_ON = (
    "everything on: daemon key, tenant key, budget with hard limit, redaction, audit chain, trace with content, "
    "rollups, backend writes; LOG_LEVEL=WARNING"
)


def circumstances(database: str, prefilled: int) -> dict[str, Any]:
    """Where and on what this was measured."""
    variables = server_environment(database_url=f"({database})", upstream="(upstream)")
    ours = ("CLASPER_", "BACKEND_", "DATABASE_", "LOG_", *MODEL_SETTINGS)
    return {
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _git("rev-parse", "HEAD"),
        "changed_files": len(_git("status", "--porcelain").splitlines()),
        "uname": " ".join(platform.uname()),
        "cpus": os.cpu_count(),
        "load_average": os.getloadavg(),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in _PACKAGES},
        "database": f"{database} (SQLite library {sqlite3.sqlite_version})" if database == "SQLite" else database,
        "prefilled_runs": prefilled,
        "server_environment": {name: value for name, value in variables.items() if name.startswith(ours)},
        "on": EVERYTHING_ON,
    }


def show(console: Console, report: Report) -> None:
    """Prints one case."""
    table = Table(title=f"{report.case}: {report.title}", title_justify="left", caption="median (range)")
    for number, column in enumerate(report.columns):
        table.add_column(column, justify="left" if number == 0 else "right")
    for row in report.rows:
        table.add_row(*row)
    console.print(table)
    for line in (*report.ratios, *report.notes):
        console.print(f"  {line}")
    if report.faults:
        console.print(f"  [bold red]INVALID: {len(report.faults)} faults; nothing may be concluded from these runs.[/]")
        for fault in report.faults[:10]:
            console.print(f"    [red]{fault}[/]")
    for goal in report.goals:
        mark = "[red]invalid[/]" if report.faults else "[green]met[/]" if goal.met else "[yellow]missed[/]"
        console.print(f"  {goal.case} {mark}  {goal.claim}: {goal.found}")
    console.print()


def save(reports: Sequence[Report], where: dict[str, Any], *, effort: dict[str, Any]) -> Path:
    """Writes all of it, every single run included, and returns the file."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}.json"
    content = {
        "circumstances": where | {"load_average_after": os.getloadavg()},
        "effort": effort,
        "cases": [asdict(report) for report in reports],
    }
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False))
    return path


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True)
    return done.stdout.strip()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
