"""The case `p5`: whether lists, details and sums take longer over a million runs than over ten thousand."""

from __future__ import annotations

import contextlib
import http.client
import json
import random
import time
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlencode

from benchmarks.cases import Effort, Goal, Report
from benchmarks.compare import paired_ratio, spread
from benchmarks.databases import TENANT
from benchmarks.load import percentiles
from benchmarks.processes import BenchmarkFailed
from benchmarks.runner import Bench
from benchmarks.servers import DAEMON_KEY, Variant

REQUESTS = 40
"""Of each question in each round, on each database in turn."""
WARM_UP = 5
LIMIT = 1.5
TEXT_SEARCH = "text search"
"""It reads the texts of up to 10,000 runs, so it costs what these hold; asked less often, and for information only."""
TEXT_REQUESTS = 5


class Site:
    """A server on one of the databases, asked over one connection."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        self.questions = _questions(self)

    def ask(self, path: str) -> tuple[Any, float]:
        """The answer, and how many seconds it took. Raises BenchmarkFailed unless it is 200."""
        began = time.perf_counter()
        try:
            status, content = self._get(path)
        except http.client.RemoteDisconnected:  # the server has ended a connection that was idle for some seconds
            self._connection.close()
            began = time.perf_counter()
            status, content = self._get(path)
        took = time.perf_counter() - began
        if status != 200:
            raise BenchmarkFailed(f"GET {path} answered {status}: {content[:300].decode()}")
        return json.loads(content), took

    def _get(self, path: str) -> tuple[int, bytes]:
        self._connection.request("GET", path, headers={"X-Agent-Daemon-Key": DAEMON_KEY})
        response = self._connection.getresponse()
        return response.status, response.read()


def reading(bench: Bench, effort: Effort, *, small: int, large: int) -> Report:
    """P5: p95 of each question over `large` stored runs against the same over `small`."""
    title = f"Reading over {large:,} and {small:,} runs, one worker, one question at a time, {REQUESTS} of each a round"
    columns = ["question", f"p95 ms at {small:,}", f"p95 ms at {large:,}", "ratio", "rounds"]
    report = Report("P5", title, columns)
    with _site(bench, small) as few, _site(bench, large) as many:
        found = _measure((few, many), effort)
    for question, rounds in found.items():
        at_small, at_large = [each[0] for each in rounds], [each[1] for each in rounds]
        ratio = paired_ratio(at_large, at_small)
        row = [question, str(spread(at_small)), str(spread(at_large)), str(ratio), str(ratio.count)]
        report.rows.append(row)
        report.runs.append({"question": question, "p95_ms": rounds})
        if question != TEXT_SEARCH:
            claim = f"{question}: p95 at {large:,} ≤ {LIMIT} × p95 at {small:,}"
            report.goals.append(Goal("P5", claim, f"{ratio}×", ratio.median <= LIMIT))
    return report


def _measure(sites: Sequence[Site], effort: Effort) -> dict[str, list[tuple[float, float]]]:
    """p95 on both sites by question, a pair a round; questions come in a random order in every round."""
    chance = random.Random(effort.seed)
    names = list(sites[0].questions)
    for site in sites:
        for paths in site.questions.values():
            for path in paths[:WARM_UP]:
                site.ask(path)
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    for done in range(effort.rounds):
        if done and effort.spent():
            break
        chance.shuffle(names)
        for name in names:
            took: tuple[list[float], list[float]] = ([], [])
            for number in range(TEXT_REQUESTS if name == TEXT_SEARCH else REQUESTS):
                for site, times in zip(sites, took, strict=True):
                    paths = site.questions[name]
                    times.append(site.ask(paths[number % len(paths)])[1])
            found[name].append((percentiles(took[0])["p95"], percentiles(took[1])["p95"]))
    return found


@contextlib.contextmanager
def _site(bench: Bench, runs: int) -> Iterator[Site]:
    variant = Variant(f"{runs:,} runs")
    with bench.serving(variant, bench.seeded(runs).database) as (server, _):
        yield Site(server.port)


def _questions(site: Site) -> dict[str, list[str]]:
    """What is asked, by name: paths that are asked in turn."""
    page, cursors = _list(), []
    rows: list[dict[str, Any]] = []
    for _ in range(3):
        answer, _took = site.ask(page)
        rows += answer["traces"]
        cursors.append(answer["next_cursor"])
        page = _list(cursor=answer["next_cursor"])
    tasks = [entity for row in rows[:20] if (entity := site.ask(f"/traces/{row['id']}")[0]["task_id"])]
    return {
        "list": [_list()],
        "list, all tenants": ["/traces"],
        "list, third page": [_list(cursor=cursors[1])],
        "list, one week": [_list(**_week(rows[0]["start_time"]))],
        "list, status": [_list(status="error")],
        "list, agent": [_list(agent_id="support")],
        "list, model": [_list(model="gpt-4o")],
        "list, risk": [_list(risk="high")],
        "list, workspace": [_list(workspace_id="shop")],
        "list, label": [_list(label="team", label_value="blue")],
        "list, status of all tenants": ["/traces?status=error"],
        "list, environment and cost": [_list(environment="staging", min_cost="0.001")],
        "list, status and agent and model": [_list(status="error", agent_id="support", model="gpt-4o")],
        "list, label and status": [_list(label="team", label_value="blue", status="error")],
        TEXT_SEARCH: [_list(text="ORD-1234")],
        "detail": [f"/traces/{row['id']}" for row in rows[:REQUESTS]],
        "by label": [_path("/traces/by-label", label="team", value="blue")],
        "by label, any value": [_path("/traces/by-label", label="release")],
        "by entity": [_path("/traces/by-entity", task_id=task) for task in dict.fromkeys(tasks)],
        "stats": [_path("/traces/stats")],
        "facet, status": [_path("/traces/stats", group_by="status")],
        "facet, model": [_path("/traces/stats", group_by="model")],
        "cost by day and model": [_path("/traces/stats", group_by="day,model")],
        "risk by day": [_path("/traces/stats", group_by="day,risk_level")],
    }


def _week(newest: str) -> dict[str, str]:
    """A week that ended a month before the newest run."""
    end = datetime.fromisoformat(newest) - timedelta(days=30)
    return {"start_date": (end - timedelta(days=7)).date().isoformat(), "end_date": end.date().isoformat()}


def _list(**query: str) -> str:
    return _path("/traces", **query)


def _path(path: str, **query: str) -> str:
    return f"{path}?{urlencode({'tenant_id': TENANT, **query})}"
