"""POST /api/agents/send on the way that goes well: the answer, and everything that is kept of it."""

from __future__ import annotations

import uuid

from tests.world import ACME, Server


def test_a_run_leaves_answer_trace_message_cost_and_audit(server: Server) -> None:
    response = server.send("Hello there")
    assert response.status_code == 200, response.text
    body = response.json()
    assert body["status"] == "ok"
    assert "offline model" in body["response"]
    assert uuid.UUID(body["trace_id"]).version == 7
    assert response.headers["X-Trace-Id"] == body["trace_id"]
    assert body["cost"]["totalCost"] == body["cost"]["inputCost"] + body["cost"]["outputCost"]

    trace = server.trace(body["trace_id"])
    assert trace["status"] == "success"
    assert trace["tenant_id"] == ACME
    assert trace["cost"]["totalCost"] == body["cost"]["totalCost"]
    assert trace["task_id"] == body["task_id"]
    assert trace["message_id"]
    assert trace["input"]["message"] == "Hello there"
    assert trace["output"] == {"response": body["response"]}
    assert [entry["event_type"] for entry in server.audit(tenant_id=ACME)] == ["agent.start", "agent.complete"]
    assert server.get("/audit/verify").json()["valid"] is True
