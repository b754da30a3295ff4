"""Live events: in order, complete, resumable, one tenant's own, and cheap to leave."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import aiohttp
import httpx
import pytest
from asgiref.sync import SyncToAsync
from django.conf import settings as django_settings

from apps.identity.services.keys import list_api_keys, revoke_api_key
from clasper.core.clock import utc_now
from clasper.core.tenancy import OneTenant
from clasper.ops import consumers, live
from tests.agents.processes import wait_until
from tests.ops.feeds import PATH, Listener, async_feed, note, seqs, write_at_once
from tests.world import ACME, GLOBEX, Server, tenant_key

MANY = 2 * live.KEPT + live.PAGE // 2


def feeds() -> list[live.Feed]:
    return [feed for hub in live._hubs.values() for feed in hub._feeds.values()]


# --- Order and completeness ------------------------------------------------------------------------------------------


def test_a_run_appears_as_the_audit_log_shows_it(server: Server) -> None:
    with Listener.open(server.url) as (listener, begin):
        assert begin == 0
        assert server.send().status_code == 200
        heard = listener.hear(2)
    entries = server.audit(tenant_id=ACME)
    assert [each.data for each in heard] == entries
    assert [(each.id, each.event) for each in heard] == [(each["seq"], each["event_type"]) for each in entries]
    assert [each.event for each in heard] == ["agent.start", "agent.complete"]


def test_without_an_id_it_begins_with_the_present(server: Server) -> None:
    note(3)
    with Listener.open(server.url) as (listener, begin):
        assert begin == 3
        note()
        assert seqs(listener.hear()) == [4]


def test_entries_of_writers_at_the_same_time_come_in_order_without_a_gap(server: Server) -> None:
    with Listener.open(server.url) as (listener, _):
        threads = write_at_once(writers=4, count=25)
        for _ in range(5):
            assert server.send().status_code == 200
        heard = listener.hear(4 * 25 + 5 * 2)
        for thread in threads:
            thread.join()
    assert seqs(heard) == list(range(1, 111))
    assert [each.data for each in heard] == server.audit(tenant_id=ACME)


def test_an_entry_comes_at_once(server: Server) -> None:
    with Listener.open(server.url) as (listener, _):
        delays = []
        for _ in range(5):
            time.sleep(2 * live.LINGER_SECONDS)
            began = time.monotonic()
            note()
            listener.hear()
            delays.append(time.monotonic() - began)
    assert max(delays) < live.POLL_SECONDS / 2, delays


# --- Resuming --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["header", "query"])
def test_it_resumes_without_loss_or_duplicates(how: str, server: Server) -> None:
    note(5)
    last: dict[str, Any] = {"last": 2} if how == "header" else {"last_event_id": 2}
    with Listener.open(server.url, **last) as (listener, begin):
        assert begin == 2
        assert seqs(listener.hear(3)) == [3, 4, 5]
        note()
        assert seqs(listener.hear()) == [6]


def test_the_header_comes_before_the_query(server: Server) -> None:
    """A browser resumes with the header at the address it was given first."""
    note(5)
    with Listener.open(server.url, last=4, last_event_id=1) as (listener, _):
        assert seqs(listener.hear()) == [5]


def test_a_listener_that_is_cut_off_again_and_again_misses_nothing(server: Server) -> None:
    threads = write_at_once(writers=2, count=40)
    heard, last = [], 0
    while last < 80:
        with Listener.open(server.url, last=last) as (listener, _):
            got = seqs(listener.hear())
        heard += got
        last = got[-1]
    for thread in threads:
        thread.join()
    assert heard == list(range(1, 81))


def test_more_than_is_kept_is_read_from_the_database(server: Server) -> None:
    note(MANY, together=True)
    with Listener.open(server.url, last=0) as (listener, _), Listener.open(server.url, last=MANY - 1) as (other, _):
        assert seqs(listener.hear(MANY)) == list(range(1, MANY + 1))
        assert seqs(other.hear()) == [MANY]
        note()
        assert seqs(listener.hear()) == seqs(other.hear()) == [MANY + 1]


def test_a_slow_listener_costs_no_memory_and_loses_nothing(server: Server) -> None:
    with Listener.open(server.url) as (slow, _), Listener.open(server.url) as (quick, _):
        note(MANY, together=True)
        assert seqs(quick.hear(MANY)) == list(range(1, MANY + 1))
        (feed,) = feeds()
        assert feed.listeners == 2
        assert len(feed._recent) == live.KEPT
        assert seqs(slow.hear(MANY)) == list(range(1, MANY + 1))


def test_listeners_and_runs_do_not_wait_for_each_others_reads(server: Server) -> None:
    note(3)
    waiting = threading.Event()
    readers = (SyncToAsync.single_thread_executor, live._reader)
    try:
        readers[0].submit(waiting.wait, 20)
        with Listener.open(server.url, last=0) as (listener, _):
            assert seqs(listener.hear(3)) == [1, 2, 3]
        waiting.set()
        waiting = threading.Event()
        readers[1].submit(waiting.wait, 20)
        assert server.send(key=tenant_key()).status_code == 200
    finally:
        waiting.set()


# --- Whose it is -----------------------------------------------------------------------------------------------------


def test_a_tenant_hears_only_of_itself(server: Server) -> None:
    key = tenant_key(GLOBEX)
    with Listener.open(server.url, key=key, last=0) as (listener, _):
        note(3)
        assert server.send().status_code == 200
        note(tenant_id=GLOBEX)
        heard = listener.hear(2)
    assert [each.event for each in heard] == ["key.create", "budget.set"]
    assert all(each.data and each.data["tenant_id"] == GLOBEX for each in heard)


REFUSED = {
    "another tenant": ({"tenant_id": ACME}, GLOBEX, 403, "permission_denied"),
    "no tenant": ({}, "", 400, "invalid_request"),
    "an empty tenant": ({"tenant_id": ""}, "", 400, "invalid_request"),
    "an id that is none": ({"tenant_id": ACME, "last_event_id": "x"}, "", 400, "invalid_request"),
    "a negative id": ({"tenant_id": ACME, "last_event_id": "-1"}, "", 400, "invalid_request"),
    "an absurd id": ({"tenant_id": ACME, "last_event_id": "9" * 30}, "", 400, "invalid_request"),
    "an id of the future": ({"tenant_id": ACME, "last_event_id": "1000"}, "", 400, "invalid_request"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refusals_are_json_before_the_first_byte(case: str, server: Server) -> None:
    query, tenant, status, code = REFUSED[case]
    response = server.get(PATH, params=query, key=tenant_key(tenant) if tenant else None)
    assert (response.status_code, response.json()["code"]) == (status, code)
    assert response.headers["content-type"] == "application/json"
    if status == 403:
        (denial,) = server.audit(tenant_id=tenant, event_type="permission.denied")
        assert denial["details"] == {"permission": "tenant", "route": f"GET {PATH}"}
    assert feeds() == []


def test_all_errors_are_named_at_once(server: Server) -> None:
    faults = server.get(PATH, params={"last_event_id": "x"}).json()["details"]["fieldErrors"]
    assert faults.keys() == {"tenant_id", "last_event_id"}


def test_a_revoked_key_stops_hearing(server: Server) -> None:
    key = tenant_key(ACME)
    with Listener.open(server.url, key=key) as (listener, _):
        (made,) = list_api_keys(tenants=OneTenant(ACME))
        revoke_api_key(key_id=made.id, actor="user:test", now=utc_now(), tenants=OneTenant(ACME))
        began = time.monotonic()
        last = listener.rest()[-1]
    assert time.monotonic() - began < 5
    assert last.event == "error"
    assert last.data
    assert last.data["code"] == "invalid_token"


# --- Staying and leaving ---------------------------------------------------------------------------------------------


def test_silence_is_broken_by_heartbeats(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consumers, "CHECK_SECONDS", 0.05)
    monkeypatch.setattr(consumers, "HEARTBEAT_SECONDS", 0.1)
    with Listener.open(server.url) as (listener, _):
        assert [listener.block() for _ in range(3)] == [": heartbeat"] * 3


def test_leaving_ends_everything(server: Server) -> None:
    with Listener.open(server.url), Listener.open(server.url, tenant_id=GLOBEX):
        assert len(feeds()) == 2
    wait_until(lambda: not feeds(), within=5, what="the end of the feeds")
    assert all(hub._unsubscribe is None for hub in live._hubs.values())
    note()  # nobody is told, nothing fails


async def _listen(url: str, count: int, expected: int) -> list[list[int]]:
    opened = asyncio.Semaphore(0)
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as session:

        async def one() -> list[int]:
            async with async_feed(session, url) as events:
                heard = [await anext(events)]
                opened.release()
                while len(heard) <= expected:
                    heard.append(await anext(events))
                return seqs(heard[1:])

        tasks = [asyncio.ensure_future(one()) for _ in range(count)]
        for _ in range(count):
            await opened.acquire()
        threads = await asyncio.to_thread(write_at_once, 2, expected // 2)
        done = await asyncio.wait_for(asyncio.gather(*tasks), 30)
        for thread in threads:
            await asyncio.to_thread(thread.join)
        return done


def test_two_hundred_listeners_hear_everything(server: Server) -> None:
    heard = asyncio.run(_listen(server.url, 200, 40))
    assert heard == [list(range(1, 41))] * 200


def test_the_layer_is_the_process_own_without_redis() -> None:
    if django_settings.REDIS_URL:
        pytest.skip("REDIS_URL is set")
    assert "InMemory" in django_settings.CHANNEL_LAYERS["default"]["BACKEND"]


def test_only_get(server: Server) -> None:
    response = httpx.post(f"{server.url}{PATH}")
    assert (response.status_code, response.headers["Allow"]) == (405, "GET")
