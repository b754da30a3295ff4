"""The embedded control plane keeps contract v1: shapes, paging, keys, ownership, tokens and errors."""

from __future__ import annotations

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import jwt
import pytest
from django.conf import settings
from django.db import connection
from django.test import Client

from apps.control_plane.models import Document, Message, Task, UsedKey

pytestmark = pytest.mark.usefixtures("store")

ROOT = "/api/mission-control"
UNKNOWN_ID = "0194c8f0-7e1a-7000-8000-000000000001"


def token(secret: str = "", **changes: Any) -> str:
    claims = {"type": "agent", "user_id": "user-1", "agent_role": "jarvis"} | changes
    return jwt.encode(
        {name: value for name, value in claims.items() if value is not None},
        secret or settings.AGENT_JWT_SECRET,
        algorithm="HS256",
    )


class Agent:
    """Somebody with a token, speaking JSON."""

    def __init__(self, **claims: Any) -> None:
        self.client = Client(headers={"X-Agent-Token": token(**claims)})

    def get(self, path: str, **query: Any) -> Any:
        response = self.client.get(path, query)
        assert response.status_code == 200, response.content
        return response.json()

    def post(self, path: str, body: Any, status: int = 200) -> Any:
        response = self.client.post(path, body, content_type="application/json")
        assert response.status_code == status, response.content
        return response.json()

    def task(self, title: str = "Task title", **fields: Any) -> str:
        return str(self.post(f"{ROOT}/tasks", {"title": title, **fields})["id"])

    def bodies(self, task_id: str) -> list[tuple[str, dict[str, Any]]]:
        """A valid body for each of the endpoints that create something."""
        return [
            (f"{ROOT}/tasks", {"title": "Again"}),
            (f"{ROOT}/messages", {"task_id": task_id, "content": "Message content"}),
            (f"{ROOT}/documents", {"task_id": task_id, "title": "Plan", "content": "1.", "doc_type": "plan"}),
        ]


@pytest.fixture
def agent() -> Agent:
    return Agent()


@pytest.fixture
def stranger() -> Agent:
    return Agent(user_id="user-2")


# --- Shapes ------------------------------------------------------------------------------------------------------


def test_capabilities(agent: Agent) -> None:
    found = agent.get(f"{ROOT}/capabilities")
    assert found["contract_version"] == "v1"
    announced = {name for name, on in found["features"].items() if on}
    assert announced == {
        "tasks", "messages", "documents", "tools", "tool_discover", "tool_execute", "tool_idempotency",
    }  # fmt: skip
    assert {"notifications_dispatch", "events_sse", "heartbeat", "standup", "tool_requests"} <= set(found["features"])


def test_the_contracts_examples(agent: Agent) -> None:
    made = agent.post(
        f"{ROOT}/tasks",
        {
            "title": "Task title",
            "description": "optional",
            "status": "in_progress",
            "metadata": {"type": "agent_thread"},
            "idempotency_key": "optional",
        },
    )
    assert made | {"title": "Task title", "status": "in_progress", "description": "optional"} == made
    listed = agent.get(f"{ROOT}/tasks", limit=50)
    assert listed == {"items": [made], "next_cursor": None}
    assert agent.get(f"{ROOT}/tasks/{made['id']}") == made
    message = agent.post(
        f"{ROOT}/messages",
        {
            "task_id": made["id"],
            "content": "Message content",
            "actor_type": "agent",
            "agent_role": "jarvis",
            "attachments": {},
            "idempotency_key": "optional",
        },
    )
    assert message | {"task_id": made["id"], "content": "Message content"} == message
    document = agent.post(
        f"{ROOT}/documents",
        {
            "title": "Plan",
            "content": "Document content",
            "doc_type": "plan",
            "task_id": made["id"],
            "idempotency_key": "optional",
        },
    )
    assert document | {"title": "Plan", "doc_type": "plan", "task_id": made["id"]} == document
    assert agent.get(f"{ROOT}/tasks/{made['id']}/messages")["items"] == [message]
    assert agent.get(f"{ROOT}/tasks/{made['id']}/documents")["items"] == [document]


def test_health_needs_no_token() -> None:
    assert Client().get(f"{ROOT}/health").json() == {"status": "ok"}


# --- Paging ------------------------------------------------------------------------------------------------------


def test_pages_cover_everything_once_while_tasks_are_added(agent: Agent) -> None:
    made = [agent.task(f"T{number}") for number in range(7)]
    seen: list[str] = []
    cursor: dict[str, str] = {}
    while True:
        found = agent.get(f"{ROOT}/tasks", limit=3, **cursor)
        seen += [each["id"] for each in found["items"]]
        agent.task("Meanwhile")
        if found["next_cursor"] is None:
            break
        cursor = {"cursor": found["next_cursor"]}
    assert seen == made[::-1]


def test_a_full_last_page_has_no_next(agent: Agent) -> None:
    for number in range(3):
        agent.task(f"T{number}")
    assert agent.get(f"{ROOT}/tasks", limit=3)["next_cursor"] is None
    assert agent.get(f"{ROOT}/tasks", limit=2)["next_cursor"]


@pytest.mark.parametrize(
    "query",
    [
        {"limit": 0},
        {"limit": 101},
        {"limit": "x"},
        {"limit": ""},
        {"limit": "²"},
        {"limit": "9" * 500},
        {"cursor": "x"},
        {"cursor": ""},
    ],
)
def test_bad_paging(agent: Agent, query: dict[str, Any]) -> None:
    response = agent.client.get(f"{ROOT}/tasks", query)
    assert response.status_code == 400
    assert set(response.json()["details"]["fieldErrors"]) == set(query)


# --- Keys --------------------------------------------------------------------------------------------------------


def test_a_repeated_request_gets_the_first_answer(agent: Agent) -> None:
    for path, body in agent.bodies(agent.task()):
        first = agent.post(path, body | {"idempotency_key": "k"})
        assert agent.post(path, body | {"idempotency_key": "k"}) == first
    assert (Task.objects.count(), Message.objects.count(), Document.objects.count()) == (2, 1, 1)


def test_another_request_with_the_key_is_refused(agent: Agent) -> None:
    for path, body in agent.bodies(agent.task()):
        agent.post(path, body | {"idempotency_key": "k"})
        changed = body | {("title" if "title" in body else "content"): "Other", "idempotency_key": "k"}
        assert agent.post(path, changed, 409)["code"] == "idempotency_mismatch"
    assert (Task.objects.count(), Message.objects.count(), Document.objects.count()) == (2, 1, 1)


def test_keys_belong_to_user_tenant_and_endpoint(agent: Agent, stranger: Agent) -> None:
    first = agent.task(idempotency_key="k")
    others = [stranger, Agent(tenant_id="acme"), Agent(tenant_id="globex")]
    ids = {first, *(other.task("Another title", idempotency_key="k") for other in others)}
    assert len(ids) == 4
    agent.post(f"{ROOT}/messages", {"task_id": first, "content": "x", "idempotency_key": "k"})


def test_without_a_key_every_request_creates(agent: Agent) -> None:
    assert agent.task() != agent.task()
    assert agent.task(idempotency_key=None) != agent.task(idempotency_key=None)
    assert not UsedKey.objects.exists()


def test_a_refused_request_leaves_its_key_free(agent: Agent) -> None:
    body = {"task_id": UNKNOWN_ID, "content": "x", "idempotency_key": "k"}
    agent.post(f"{ROOT}/messages", body, 404)
    agent.post(f"{ROOT}/messages", body | {"task_id": agent.task()})


def test_twenty_at_once_make_one(agent: Agent) -> None:
    def create(number: int) -> str:
        try:
            return Agent().task("Support", idempotency_key="k")
        finally:
            connection.close()

    with ThreadPoolExecutor(20) as pool:
        ids = set(pool.map(create, range(20)))
    assert len(ids) == 1
    assert Task.objects.count() == 1


# --- Ownership ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mine", "theirs"),
    [
        ({"user_id": "user-1"}, {"user_id": "user-2"}),
        ({"tenant_id": "acme"}, {"tenant_id": "globex"}),
        ({"tenant_id": "acme"}, {}),
    ],
)
def test_nobody_sees_or_touches_a_strangers_task(mine: dict[str, str], theirs: dict[str, str]) -> None:
    owner, other = Agent(**mine), Agent(**theirs)
    task_id = owner.task()
    owner.post(f"{ROOT}/messages", {"task_id": task_id, "content": "private"})
    assert other.get(f"{ROOT}/tasks")["items"] == []
    assert other.get(f"{ROOT}/tasks", cursor="f" * 8 + UNKNOWN_ID[8:])["items"] == []
    for path in (f"{ROOT}/tasks/{task_id}", f"{ROOT}/tasks/{task_id}/messages", f"{ROOT}/tasks/{task_id}/documents"):
        assert other.client.get(path).status_code == 404
    for path, body in other.bodies(task_id)[1:]:
        assert other.post(path, body, 404)["code"] == "task_not_found"
    assert len(owner.get(f"{ROOT}/tasks/{task_id}/messages")["items"]) == 1


def test_two_roles_of_a_user_share_its_tasks(agent: Agent) -> None:
    task_id = agent.task()
    assert Agent(agent_role="planner").get(f"{ROOT}/tasks/{task_id}")["id"] == task_id


# --- Validation and errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("endpoint", "body", "faults"),
    [
        ("tasks", {}, {"title"}),
        ("tasks", {"title": ""}, {"title"}),
        ("tasks", {"title": 7, "metadata": []}, {"title", "metadata"}),
        ("tasks", {"title": "x", "status": None, "description": 1}, {"status", "description"}),
        ("tasks", {"title": "x", "idempotency_key": ""}, {"idempotency_key"}),
        ("tasks", {"title": "x", "idempotency_key": "k" * 256}, {"idempotency_key"}),
        ("tasks", {"title": "x" * 1001, "status": "s" * 65}, {"title", "status"}),
        ("messages", {}, {"task_id", "content"}),
        ("messages", {"task_id": 1, "content": None, "actor_type": "robot"}, {"task_id", "content", "actor_type"}),
        ("messages", {"task_id": "t", "content": "x", "attachments": "a"}, {"attachments"}),
        ("messages", {"task_id": "t" * 65, "content": "x", "agent_role": "r" * 129}, {"task_id", "agent_role"}),
        ("messages", {"task_id": "", "content": "", "actor_type": None}, {"task_id", "actor_type"}),
        ("documents", {}, {"task_id", "title", "content"}),
        ("documents", {"task_id": "t", "title": "x", "content": "y", "doc_type": True}, {"doc_type"}),
    ],
)  # fmt: skip
def test_every_error_is_named(agent: Agent, endpoint: str, body: dict[str, Any], faults: set[str]) -> None:
    found = agent.post(f"{ROOT}/{endpoint}", body, 400)
    assert set(found) == {"error", "code", "details"}
    assert set(found["details"]["fieldErrors"]) == faults


def test_null_means_left_out_where_the_contract_allows_it(agent: Agent) -> None:
    task = agent.post(f"{ROOT}/tasks", {"title": "x", "description": None, "metadata": None, "idempotency_key": None})
    assert (task["description"], task["metadata"]) == ("", {})
    body = {"task_id": task["id"], "content": "", "agent_role": None, "attachments": None}
    message = agent.post(f"{ROOT}/messages", body)
    assert (message["agent_role"], message["attachments"], message["actor_type"]) == ("jarvis", {}, "agent")


def test_a_key_used_before_an_upgrade_still_answers(agent: Agent) -> None:
    """Hashes and responses of requests are stored; they must not depend on how this code names things."""
    request = {"description": "", "key": "k", "metadata": {"a": 1}, "status": "in_progress", "title": "x"}
    record = {"id": UNKNOWN_ID, "title": "x", "status": "in_progress", "description": "", "metadata": {"a": 1}}
    UsedKey.objects.create(
        tenant_id="user-1",
        user_id="user-1",
        endpoint="tasks",
        key="k",
        request_hash=hashlib.sha256(json.dumps(request, separators=(",", ":")).encode()).hexdigest(),
        response=json.dumps({**record, "created_at": "2026-01-05T09:00:00.120Z"}),
        created_at=datetime.now(UTC),
    )
    found = agent.post(f"{ROOT}/tasks", {"title": "x", "metadata": {"a": 1}, "idempotency_key": "k"})
    assert found == {**record, "created_at": "2026-01-05T09:00:00.120Z"}


def test_unknown_fields_are_accepted(agent: Agent) -> None:
    agent.post(f"{ROOT}/tasks", {"title": "x", "actor_id": "later contract"})


@pytest.mark.parametrize(
    ("content_type", "body", "status", "code"),
    [
        ("application/json", b"{", 400, "invalid_json"),
        ("application/json", b"[]", 400, "invalid_request"),
        ("application/json", b'{"title": "a\\u0000b"}', 400, "invalid_json"),
        ("text/plain", b"title", 415, "unsupported_media_type"),
    ],
)
def test_bodies_that_are_no_request(agent: Agent, content_type: str, body: bytes, status: int, code: str) -> None:
    response = agent.client.post(f"{ROOT}/tasks", body, content_type=content_type)
    assert (response.status_code, response.json()["code"]) == (status, code)


def test_wrong_method(agent: Agent) -> None:
    assert agent.client.delete(f"{ROOT}/tasks").json()["code"] == "method_not_allowed"


# --- Tokens ------------------------------------------------------------------------------------------------------


def refused(header: str | None) -> bool:
    client = Client(headers={} if header is None else {"X-Agent-Token": header})
    paths = ["capabilities", "tasks", f"tasks/{UNKNOWN_ID}", f"tasks/{UNKNOWN_ID}/messages"]
    answers = [client.get(f"{ROOT}/{path}") for path in paths] + [client.get("/api/tools")]
    creating = [f"{ROOT}/tasks", f"{ROOT}/messages", f"{ROOT}/documents", "/api/tools/orders:lookup"]
    answers += [client.post(path, {}, content_type="application/json") for path in creating]
    assert len({answer.status_code for answer in answers}) == 1
    if answers[0].status_code == 401:
        assert set(answers[0].json()) == {"error", "code", "details"}
    return answers[0].status_code == 401


def test_tokens_that_are_refused_everywhere() -> None:
    past = datetime.now(UTC) - timedelta(minutes=5)
    unsigned = jwt.encode({"type": "agent", "user_id": "u", "agent_role": "r"}, "", algorithm="none")
    for each in (None, "", "nonsense", unsigned, token(secret="x" * 40), token(exp=past), token()[:-4] + "AAAA"):
        assert refused(each), each


@pytest.mark.parametrize(
    "changes",
    [
        {"type": "user"},
        {"type": None},
        {"user_id": None},
        {"user_id": ""},
        {"user_id": 7},
        {"user_id": "u" * 129},
        {"agent_role": None},
        {"agent_role": []},
        {"tenant_id": ""},
        {"tenant_id": {}},
        {"aud": "somebody-else"},
        {"aud": []},
    ],
)
def test_claims_that_are_refused(changes: dict[str, Any]) -> None:
    response = Client(headers={"X-Agent-Token": token(**changes)}).get(f"{ROOT}/tasks")
    assert (response.status_code, response.json()["code"]) == (401, "invalid_token")


@pytest.mark.parametrize(
    "changes",
    [{}, {"agent_id": "a"}, {"aud": "control-plane"}, {"aud": ["x", "control-plane"]}, {"sub": "clasper:jarvis"}],
)
def test_claims_that_are_accepted(changes: dict[str, Any]) -> None:
    assert Agent(**changes).get(f"{ROOT}/tasks")["items"] == []
