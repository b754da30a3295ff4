"""A stranger's key never sees, counts, changes or spends anything of acme's, on no route."""

from __future__ import annotations

import pytest
from django.conf import settings as django_settings

from clasper.core.clock import utc_now
from clasper.gateways.control_plane import mint_agent_token
from tests.contracts.routes import RUNS, Route
from tests.contracts.strangers import World, refused
from tests.world import ACME, GLOBEX, USER, Server, send_body

CONTROL_PLANE = "/api/mission-control"


@pytest.fixture
def world(server: Server) -> World:
    return World.of(server)


# --- Reading -------------------------------------------------------------------------------------------------------


def test_a_trace_is_not_there(world: World) -> None:
    foreign = world.server.get(f"/traces/{world.trace_id}", key=world.stranger)
    unknown = world.server.get("/traces/0194c8f0-7e1a-7000-8000-000000000001", key=world.stranger)
    assert foreign.status_code == 404
    assert foreign.json() == unknown.json()


def test_lists_and_sums_are_empty(world: World) -> None:
    assert world.get("/traces")["traces"] == []
    assert world.get("/traces")["total"] == 0
    assert world.get("/traces/stats")["total_traces"] == 0
    assert world.get("/usage")["requestCount"] == 0
    assert world.get("/usage")["totalCost"] == 0
    events = world.get("/audit")["entries"]
    assert {entry["event_type"] for entry in events} == {"key.create"}, "only that globex's own key was made"
    assert world.get("/audit", trace_id=world.trace_id)["entries"] == []
    assert world.get("/audit/stats")["total_entries"] == 1
    assert world.get("/audit/verify")["tenant_id"] == GLOBEX


def test_there_is_no_budget(world: World) -> None:
    assert world.server.get("/budget", key=world.stranger).status_code == 404
    assert world.get("/budget/check", amount=1_000)["allowed"] is True


def test_a_cursor_of_acmes_list_shows_nothing_of_acme(world: World) -> None:
    world.server.send()
    cursor = world.server.get("/traces", params={"tenant_id": ACME, "limit": 1}).json()["next_cursor"]
    assert world.get("/traces", cursor=cursor)["traces"] == []


# --- Writing -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/budget", "/budget/check"])
def test_acmes_budget_is_out_of_reach(path: str, world: World) -> None:
    before = world.server.budget(ACME)
    refused(world.server.post(path, {"tenant_id": ACME, "limit": 9.0, "amount": 1.0}, key=world.stranger))
    assert world.server.budget(ACME) == before


@pytest.mark.parametrize("run", RUNS, ids=lambda route: route.name)
def test_a_run_for_acme_is_refused_and_leaves_nothing_with_acme(run: Route, world: World) -> None:
    before = world.rows()
    refused(run.call(world.server, key=world.stranger, json={**(run.body or {}), "tenant_id": ACME}))
    assert world.rows() == before
    assert world.get("/traces")["total"] == 0
    (entry,) = world.get("/audit", event_type="permission.denied")["entries"]
    assert entry["tenant_id"] == GLOBEX
    assert entry["details"] == {"permission": "tenant", "route": run.name}


@pytest.mark.parametrize("run", RUNS, ids=lambda route: route.name)
def test_user_ids_name_no_tenant_for_a_key(run: Route, world: World) -> None:
    """For the platform key `user_id` is the tenant when nothing else is; a key always acts for its own tenant."""
    before, budget = world.rows(), world.server.budget(ACME)
    named = {"user_id": ACME, "session_key": f"user:{ACME}:support"}
    body = {name: value for name, value in {**(run.body or {}), **named}.items() if name != "tenant_id"}
    answer = run.call(world.server, key=world.stranger, json=body)
    assert answer.status_code == 200, answer.text
    assert world.server.trace(answer.headers["X-Trace-Id"])["tenant_id"] == GLOBEX
    assert world.rows() == before
    assert world.server.budget(ACME) == budget


def test_acmes_task_cannot_be_written_to(world: World) -> None:
    before = world.rows()
    answer = world.server.post(
        "/api/agents/send", send_body(task_id=world.task_id, tenant_id=None, task_title=None), key=world.stranger
    )
    assert (answer.status_code, answer.json()["code"]) == (502, "backend_error")
    assert world.rows() == before


def test_a_title_of_acmes_makes_a_task_of_ones_own(world: World) -> None:
    answer = world.server.post("/api/agents/send", send_body(tenant_id=None), key=world.stranger)
    assert answer.status_code == 200, answer.text
    assert answer.json()["task_id"] != world.task_id


@pytest.mark.parametrize("run", RUNS, ids=lambda route: route.name)
def test_acmes_trace_id_cannot_be_taken_or_written_to(run: Route, world: World) -> None:
    trace = world.server.trace(world.trace_id)
    before = world.rows()
    body = {name: value for name, value in (run.body or {}).items() if name != "tenant_id"}
    answer = run.call(world.server, key=world.stranger, json=body, headers={"X-Trace-Id": world.trace_id})
    assert (answer.status_code, answer.json()["code"]) == (409, "trace_id_in_use")
    assert world.rows() == before
    assert world.server.trace(world.trace_id) == trace


def test_idempotency_keys_are_each_tenants_own(world: World) -> None:
    headers = {"Idempotency-Key": "the-same-key"}
    acme = world.server.send(headers=headers)
    globex = world.server.send("Something else", key=world.stranger, tenant_id=None, headers=headers)
    assert (acme.status_code, globex.status_code) == (200, 200)
    assert acme.json()["trace_id"] != globex.json()["trace_id"]
    again = world.server.send(headers=headers)
    assert again.json() == acme.json()
    assert again.headers["Idempotency-Replayed"] == "true"


# --- The embedded control plane ------------------------------------------------------------------------------------


def agent(tenant_id: str, user_id: str = USER) -> dict[str, str]:
    token = mint_agent_token(
        user_id=user_id,
        agent_role="support",
        tenant_id=tenant_id,
        secret=django_settings.AGENT_JWT_SECRET,
        algorithm=django_settings.AGENT_JWT_ALGORITHM,
        now=utc_now(),
    )
    return {"X-Agent-Token": token}


@pytest.mark.parametrize(("tenant_id", "user_id"), [(GLOBEX, USER), (ACME, "u-2")])
def test_tasks_of_the_embedded_control_plane(tenant_id: str, user_id: str, world: World) -> None:
    headers, owner = agent(tenant_id, user_id), agent(ACME)
    task = f"{CONTROL_PLANE}/tasks/{world.task_id}"
    assert world.server.get(task, key="", headers=owner).status_code == 200
    for path in (task, f"{task}/messages", f"{task}/documents"):
        assert world.server.get(path, key="", headers=headers).status_code == 404
    assert world.server.get(f"{CONTROL_PLANE}/tasks", key="", headers=headers).json()["items"] == []
    for path, body in (
        ("messages", {"task_id": world.task_id, "content": "x"}),
        ("documents", {"task_id": world.task_id, "title": "x", "content": "x"}),
    ):
        assert world.server.post(f"{CONTROL_PLANE}/{path}", body, key="", headers=headers).status_code == 404
    messages = world.server.get(f"{task}/messages", key="", headers=owner).json()["items"]
    assert len(messages) == 1


def test_daemon_and_tenant_keys_do_not_open_the_control_plane(world: World) -> None:
    for key in (None, world.stranger):
        assert world.server.get(f"{CONTROL_PLANE}/tasks", key=key).status_code == 401


def test_an_agent_token_does_not_open_the_api(world: World) -> None:
    token = agent(ACME)
    assert world.server.get("/traces", key="", headers=token).status_code == 403
    assert world.server.get("/traces", key=token["X-Agent-Token"]).status_code == 401
