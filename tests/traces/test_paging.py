"""Pages of every way to find runs: each row exactly once while others arrive, and totals that are true."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from apps.traces import queries
from apps.traces.domain.filters import Filters
from apps.traces.models import Trace
from apps.traces.services import searching
from apps.traces.services.labels import label_trace
from apps.traces.services.reading import list_traces, read_cursor
from clasper.core.tenancy import OneTenant
from tests.conftest import empty_database
from tests.traces.stored_run import START, StoredRun
from tests.world import ACME, GLOBEX, Server

WAYS: dict[str, dict[str, Any]] = {
    "an index": {},
    "a look at each run": {"environment": "prod"},
    "a look at each of an index": {"status": "success", "environment": "prod"},
    "an index of users": {"user_id": "u-1"},
    "a label": {"label": "team", "label_value": "blue"},
    "a label with any value": {"label": "team"},
    "a look at each of a label": {"label": "team", "environment": "prod"},
    "a link": {"task_id": "t-1"},
    "a text": {"text": "needle"},
}


@contextmanager
def bounds(examined: int, counted: int) -> Iterator[None]:
    """Looks at fewer runs than usual and counts less far."""
    before = searching.EXAMINED, queries.COUNT_CAP
    searching.EXAMINED, queries.COUNT_CAP = examined, counted
    try:
        yield
    finally:
        searching.EXAMINED, queries.COUNT_CAP = before


def store_run(second: int, *, fits: bool = True, **facts: Any) -> str:
    """A run that every way finds, or none but the plain index."""
    if not fits:
        return StoredRun(
            started_at=START + timedelta(seconds=second), environment="dev", user_id="u-2", **facts
        ).write()
    return StoredRun(
        started_at=START + timedelta(seconds=second),
        labels={"team": "blue"},
        task_id="t-1",
        message="a Needle in the hay",
        **facts,
    ).write()


def pages(way: str, *, limit: int) -> Iterator[list[str]]:
    """Ids of page after page."""
    filters, after = Filters(tenants=OneTenant(ACME), **WAYS[way]), None
    while True:
        page = list_traces(filters=filters, limit=limit, after=after)
        yield [trace.id for trace in page.traces]
        if not page.next_cursor:
            return
        after = read_cursor(page.next_cursor)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("few", [True, False], ids=["all looked at", "a window at a time"])
@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seconds=st.lists(st.integers(0, 4), max_size=14),
    misfits=st.lists(st.integers(0, 4), max_size=6),
    arriving=st.lists(st.integers(0, 9), max_size=4),
    limit=st.integers(1, 6),
)
def test_pages_cover_every_run_once(
    store: None,
    way: str,
    few: bool,
    seconds: list[int],
    misfits: list[int],
    arriving: list[int],
    limit: int,
) -> None:
    """Runs that began together included; those that arrive between pages may be seen, but never twice."""
    empty_database()
    stored = {store_run(second) for second in seconds}
    unfit = {store_run(second, fits=False) for second in misfits}
    wanted = stored | unfit if way == "an index" else stored
    store_run(1, tenant_id=GLOBEX)
    # A text is searched for in the newest runs only, so there the window stays wide.
    narrow = few or way == "a text"
    later, seen = iter(arriving), []
    with bounds(100 if narrow else 3, 100 if narrow else 2):
        for page in pages(way, limit=limit):
            assert len(page) <= limit
            seen += page
            for second in [*later][:1]:
                store_run(second)
    assert len(seen) == len(set(seen))
    assert wanted <= set(seen)
    order = dict(Trace.objects.values_list("id", "started_at"))
    assert seen == sorted(seen, key=lambda trace_id: (order[trace_id], trace_id), reverse=True)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    values=st.lists(st.sampled_from(["a", "b", ""]), max_size=12),
    cap=st.integers(1, 12),
    value=st.sampled_from([None, "a", "b"]),
)
def test_the_total_of_a_label(store: None, values: list[str], cap: int, value: str | None) -> None:
    empty_database()
    for number, each in enumerate(values):
        trace_id = store_run(number, fits=False)
        label_trace(tenants=OneTenant(ACME), trace_id=trace_id, changes={"kind": each}, actor="user:test", now=START)
    true = sum(1 for each in values if each and value in (None, each))
    with bounds(100, cap):
        page = list_traces(filters=Filters(tenants=OneTenant(ACME), label="kind", label_value=value), limit=5)
    assert (page.total, page.total_is_exact) == (min(true, cap), true <= cap)


def test_a_window_says_that_it_has_not_seen_all(store: None) -> None:
    for second in range(8):
        store_run(second, fits=second == 0)
    with bounds(5, 100):
        first = list_traces(filters=Filters(tenants=OneTenant(ACME), environment="prod"), limit=3)
        assert (first.traces, first.total, first.total_is_exact) == ((), 0, False)
        assert first.next_cursor
        rest = list_traces(
            filters=Filters(tenants=OneTenant(ACME), environment="prod"), limit=3, after=read_cursor(first.next_cursor)
        )
    assert [trace.environment for trace in rest.traces] == ["prod"]
    assert rest.next_cursor is None


def test_of_a_common_label_the_few_runs_of_a_user_are_found_at_once(store: None) -> None:
    old = StoredRun(started_at=START, user_id="u-7", labels={"team": "blue"}).write()
    StoredRun(started_at=START, user_id="u-7", labels={"team": "red"}).write()
    for second in range(1, 9):
        StoredRun(started_at=START + timedelta(seconds=second), labels={"team": "blue"}).write()
    filters = Filters(tenants=OneTenant(ACME), label="team", label_value="blue", user_id="u-7")
    with bounds(4, 4):
        page = list_traces(filters=filters, limit=3)
    assert [trace.id for trace in page.traces] == [old]
    assert (page.total, page.total_is_exact, page.next_cursor) == (1, True, None)


def test_a_text_says_how_many_runs_were_searched(server: Server) -> None:
    old = store_run(0, message_id="m-1")
    for second in range(1, 7):
        store_run(second, fits=False)
    with bounds(4, 100):
        words = server.get("/traces", params={"text": "needle", "tenant_id": ACME}).json()
        named = server.get("/traces", params={"text": "m-1", "tenant_id": ACME}).json()
    assert (words["traces"], words["text_searched"], words["total_is_exact"]) == ([], 4, False)
    assert [trace["id"] for trace in named["traces"]] == [old], "an id is found however old the run is"
    everything = server.get("/traces", params={"text": "needle", "tenant_id": ACME}).json()
    assert ([trace["id"] for trace in everything["traces"]], everything["text_searched"]) == ([old], 7)
    assert "text_searched" not in server.get("/traces").json()


def test_microseconds_do_not_blur_a_page(store: None) -> None:
    """Rows that were not written by the engine may begin between two milliseconds."""
    ids = [store_run(0) for _ in range(6)]
    for number, trace_id in enumerate(ids):
        Trace.objects.filter(id=trace_id).update(started_at=START + timedelta(microseconds=number))
    assert [trace_id for page in pages("an index", limit=1) for trace_id in page] == ids[::-1]


@pytest.mark.skipif(connection.vendor != "sqlite", reason="PostgreSQL decides by its statistics")
def test_labels_of_a_page_are_looked_up_run_by_run(store: None) -> None:
    trace_id = store_run(0)
    with CaptureQueriesContext(connection) as asked:
        assert queries.labels_of(list(Trace.objects.all())) == {trace_id: {"team": "blue"}}
    with connection.cursor() as cursor:
        cursor.execute(f"EXPLAIN QUERY PLAN {asked.captured_queries[-1]['sql']}")
        plan = [row[-1] for row in cursor.fetchall()]
    assert "(tenant_id=? AND trace_id=?)" in plan[-1]
