"""The control plane contract's JSON samples are goldens: the embedded control plane answers in their shapes."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from django.conf import settings

from clasper.core.clock import utc_now
from clasper.gateways.control_plane import mint_agent_token
from tests.contracts.shapes import Example, differences, examples
from tests.world import ACME, USER, Server

CONTRACT = examples("control_plane")
REQUESTS = {each.endpoint: each.value for each in CONTRACT if each.part == "request"}
RESPONSES = [each for each in CONTRACT if each.part == "response"]


def call(server: Server, endpoint: str, **changes: Any) -> httpx.Response:
    """The sample's request of the endpoint, with another value for some of its placeholders."""
    token = mint_agent_token(
        user_id=USER,
        agent_role="jarvis",
        tenant_id=ACME,
        secret=settings.AGENT_JWT_SECRET,
        algorithm=settings.AGENT_JWT_ALGORITHM,
        now=utc_now(),
    )
    method, path = endpoint.split(" ")
    options = {"json": {**REQUESTS[endpoint], **changes}} if method == "POST" else {"params": {"limit": 1}}
    return server.request(method, path, key="", headers={"X-Agent-Token": token}, **options)


@pytest.mark.parametrize("sample", RESPONSES, ids=lambda sample: sample.endpoint)
def test_an_answer_has_the_shape_of_its_sample(sample: Example, server: Server) -> None:
    tasks = "POST /api/mission-control/tasks"
    created = [call(server, tasks), call(server, tasks, title="Another", idempotency_key="another")]
    placeholder = {"task_id": created[0].json()["id"]} if "task_id" in REQUESTS.get(sample.endpoint, {}) else {}
    answer = call(server, sample.endpoint, **placeholder)
    assert answer.status_code == 200, answer.text
    assert differences(sample.value, answer.json()) == []
    if sample.endpoint.startswith("POST"):
        given = {**REQUESTS[sample.endpoint], **placeholder}
        echoed = sample.value.keys() & given.keys()
        assert {name: answer.json()[name] for name in echoed} == {name: given[name] for name in echoed}


def test_an_error_has_the_shape_of_the_sample(server: Server) -> None:
    (wanted,) = (each.value for each in CONTRACT if each.part == "error")
    answer = call(server, "POST /api/mission-control/documents", task_id="unknown")
    assert answer.status_code == 404
    assert differences(wanted, answer.json()) == []
