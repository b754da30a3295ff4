"""Every route and a stranger: whatever names acme or acme's in a path, a query, a body or a header gets him nothing."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any

import httpx
import pytest

from tests.contracts.routes import GUARDED, ROUTES, UNKNOWN_TRACE, Route
from tests.contracts.strangers import SECRET, World, refused
from tests.ops.feeds import Listener, seqs
from tests.world import ACME, GLOBEX, Server, tenant_key

NAMING = [route for route in GUARDED if route.tenant]
OF_A_TRACE = [route for route in ROUTES if "<str:trace_id>" in route.pattern]
PLATFORM_ONLY = [route for route in GUARDED if route.answers == 403]
FINITE = [route for route in GUARDED if route not in PLATFORM_ONLY]


def _name(route: Route) -> str:
    return route.name


@pytest.fixture
def world(server: Server) -> World:
    return World.of(server)


def ask(world: World, route: Route, path: str = "", *, key: str | None = "", **named: Any) -> httpx.Response:
    """The stranger's request, or with `key` None the platform's; `named` goes where the route takes such a name."""
    key = world.stranger if key == "" else key
    if route.method == "GET":
        query = dict(httpx.QueryParams(route.query)) | named
        return world.server.get(path or route.path, key=key, params=query)
    return world.server.post(path or route.path, without_tenant(route.body or {}) | named, key=key)


def without_tenant(given: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in given.items() if name != "tenant_id"}


@pytest.mark.parametrize("route", NAMING, ids=_name)
def test_naming_acme_where_a_tenant_is_named(route: Route, world: World) -> None:
    before = world.rows()
    response = ask(world, route, tenant_id=ACME)
    refused(response)
    assert world.rows() == before
    (entry,) = world.server.audit(tenant_id=GLOBEX, event_type="permission.denied")
    assert entry["details"] == {"permission": "tenant", "route": route.name}


@pytest.mark.parametrize("route", FINITE, ids=_name)
def test_naming_acme_anywhere_else_means_nothing(route: Route, world: World) -> None:
    """In the query or in the body, whichever is not read, and in headers that name a tenant elsewhere."""
    before = world.rows()
    headers = {"X-Tenant-Id": ACME, "X-Clasper-Tenant": ACME, "X-Forwarded-User": ACME}
    query, body = without_tenant(httpx.QueryParams(route.query)), without_tenant(route.body or {})
    for place, given in (("query", query), ("body", body)):
        given |= {"tenant_id": ACME} if route.tenant != place else {}
    response = world.server.request(
        route.method, route.path, key=world.stranger, params=query, json=body or None, headers=headers
    )
    assert response.status_code < 500 or response.json()["code"] == "signing_key_missing"
    assert world.hidden_from(response)
    assert world.rows() == before


@pytest.mark.parametrize("route", PLATFORM_ONLY, ids=_name)
def test_what_is_for_the_platform(route: Route, world: World) -> None:
    refused(ask(world, route))
    assert ask(world, route, key=None).status_code == 200


@pytest.mark.parametrize("route", OF_A_TRACE, ids=_name)
def test_acmes_trace_is_as_unknown_as_one_that_never_was(route: Route, world: World) -> None:
    before = world.rows()
    path = f"/{route.pattern}".replace("<str:trace_id>", world.trace_id)
    foreign, unknown = ask(world, route, path), ask(world, route)
    assert (foreign.status_code, foreign.json()["code"]) == (404, "not_found")
    assert foreign.json() == unknown.json()
    assert world.rows() == before
    assert ask(world, route, path, key=None).status_code in (200, 201), "the request is a good one"


# --- Ids, cursors and checkpoints of acme's ---------------------------------------------------------------------------


def test_comparing_with_acmes_run(world: World) -> None:
    own = world.server.send(tenant_id=None, key=world.stranger).json()["trace_id"]
    for pair in ((own, world.trace_id), (world.trace_id, own), (world.trace_id, world.trace_id)):
        body = dict(zip(("base_trace_id", "compare_trace_id"), pair, strict=True))
        answers = [
            world.server.post("/traces/diff", {**body, **changed}, key=world.stranger)
            for changed in ({}, {name: UNKNOWN_TRACE for name, each in body.items() if each == world.trace_id})
        ]
        foreign, unknown = (answer.json() for answer in answers)
        assert [answer.status_code for answer in answers] == [404, 404]
        assert foreign["details"]["missing"].keys() == unknown["details"]["missing"].keys()
        assert SECRET not in answers[0].text


def test_lists_and_exports_by_acmes_ids(world: World) -> None:
    label = {"labels": {"team": "blue"}}
    assert world.server.post(f"/traces/{world.trace_id}/label", label).status_code == 200
    assert world.server.post(f"/traces/{world.trace_id}/replay", {}).status_code == 200
    filters = [
        {"label": "team", "label_value": "blue"},
        *({name: world.trace_id} for name in ("text", "replay_of")),
        *({"text": text} for text in (SECRET, world.task_id)),
        {"user_id": "u-1"},
    ]
    for query in filters:
        assert world.get("/traces", **query)["total"] == 0
        for more in ({"format": "csv"}, {"format": "ndjson", "include": "steps,content"}):
            rows = world.server.get("/traces/export", key=world.stranger, params={**query, **more})
            assert (rows.status_code, rows.text.count("\n")) == (200, more["format"] == "csv"), rows.text
    assert world.get("/traces/by-label", label="team")["traces"] == []
    assert world.get("/traces/by-entity", task_id=world.task_id)["traces"] == []
    assert world.get("/retention/stats")["totalPolicies"] == 0


def test_the_audit_log_of_acme(world: World, settings: Any) -> None:
    """Its entries, its figures, its cursor, and a checkpoint that somebody has passed on."""
    settings.CLASPER_AUDIT_SIGNING_KEY = base64.b64encode(bytes(range(32))).decode()
    checkpoint = world.server.get("/audit/checkpoint", params={"tenant_id": ACME}).json()
    cursor = world.server.get("/audit", params={"tenant_id": ACME, "limit": 1}).json()["next_cursor"]
    before = world.rows()
    refused(world.server.post("/audit/verify", {"checkpoint": checkpoint}, key=world.stranger))
    turned = {**checkpoint, "tenant_id": GLOBEX}
    answer = world.server.post("/audit/verify", {"checkpoint": turned}, key=world.stranger).json()
    assert (answer["valid"], answer["tenant_id"]) == (False, GLOBEX)
    assert world.get("/audit/checkpoint")["tenant_id"] == GLOBEX
    assert {entry["tenant_id"] for entry in world.get("/audit", cursor=cursor)["entries"]} <= {GLOBEX}
    for file_format in ("csv", "ndjson"):
        text = world.server.get("/audit/export", key=world.stranger, params={"format": file_format}).text
        assert world.trace_id not in text
        assert f"{ACME}," not in text
        assert f'"{ACME}"' not in text
    assert world.rows() == before


def test_the_platforms_own_chain(world: World, settings: Any) -> None:
    settings.CLASPER_AUDIT_SIGNING_KEY = base64.b64encode(bytes(range(32))).decode()
    world.server.get("/audit/export")  # leaves the platform's first entry
    checkpoint = world.server.get("/audit/checkpoint").json()
    assert checkpoint["tenant_id"] == ""
    answer = world.server.post("/audit/verify", {"checkpoint": checkpoint}, key=world.stranger)
    assert answer.status_code == 400
    assert answer.json()["details"]["fieldErrors"].keys() == {"checkpoint"}


@pytest.mark.parametrize("last", [0, 1])
def test_the_feed_after_an_id_of_acmes(last: int, world: World) -> None:
    """Ids are places in one tenant's chain: the same number means another entry for the stranger."""
    with Listener.open(world.server.url, key=world.stranger, last=last) as (listener, _):
        world.server.send("Hello", tenant_id=None, key=world.stranger)
        world.server.send(SECRET)
        heard = listener.hear(3 - last)
    assert seqs(heard) == list(range(last + 1, 4))
    assert all(each.data and each.data["tenant_id"] == GLOBEX for each in heard)
    assert SECRET not in json.dumps([each.data for each in heard])


def test_the_feed_after_an_id_that_only_acme_has(world: World) -> None:
    newest = world.server.audit(tenant_id=ACME)[-1]["seq"]
    headers = {"Last-Event-ID": str(newest)}
    answer = world.server.get("/ops/api/events", key=world.stranger, headers=headers)
    assert (answer.status_code, answer.json()["details"]["fieldErrors"].keys()) == (400, {"last_event_id"})


def test_replays_of_a_stranger_are_his_own(world: World) -> None:
    """Acme's trace id as the new one's, acme's name in the body, and a key that acme has used."""
    own = world.server.send(tenant_id=None, key=world.stranger).json()["trace_id"]
    headers = {"Idempotency-Key": "the-same-key"}
    assert world.server.post(f"/traces/{world.trace_id}/replay", {}, headers=headers).status_code == 200
    before = world.rows()
    path = f"/traces/{own}/replay"
    taken = world.server.post(path, {}, key=world.stranger, headers={"X-Trace-Id": world.trace_id})
    assert (taken.status_code, taken.json()["code"]) == (409, "trace_id_in_use")
    named = world.server.post(path, {"tenant_id": ACME}, key=world.stranger)
    assert (named.status_code, named.json()["details"]["fieldErrors"].keys()) == (400, {"tenant_id"})
    again = world.server.post(path, {}, key=world.stranger, headers=headers)
    assert again.status_code == 200, again.text
    assert "Idempotency-Replayed" not in again.headers
    assert world.server.trace(again.json()["trace_id"])["tenant_id"] == GLOBEX
    assert world.rows() == before


def test_a_strangers_bad_body_does_not_reveal_whether_a_trace_exists(world: World) -> None:
    """Faults of the request come out the same for acme's trace and for none."""
    key = tenant_key(GLOBEX)
    for path, body in (("label", {"labels": 1}), ("annotate", {}), ("replay", {"tools": "maybe"})):
        answers = [
            world.server.post(f"/traces/{trace_id}/{path}", body, key=key)
            for trace_id in (world.trace_id, UNKNOWN_TRACE)
        ]
        assert len({(answer.status_code, answer.text) for answer in answers}) == 1
