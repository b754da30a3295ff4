"""The API reference's JSON samples are goldens: the running server takes each request and answers in each shape."""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from apps.agents.delivery.outbox import deliver_due
from clasper.core.clock import utc_now
from fakes.llm import FakeProvider, half_stream, reply, tool_calls
from tests.conftest import run
from tests.contracts.shapes import EXAMPLES, differences, example, examples
from tests.world import USER, Server, send_body

TENANT = "tenant-123"
USAGE = {"prompt_tokens": 1250, "completion_tokens": 150, "total_tokens": 1400}

DATA = {
    "GET /traces": ["traces[].labels"],
    "GET /traces/:id": ["labels", "skill_versions", "steps[].input", "steps[].output"],
    "GET /traces/:id/replay": ["skill_versions"],
    "GET /traces/stats": ["traces_by_status"],
    "POST /traces/:id/label": ["labels"],
    "GET /audit": ["entries[].details"],
    "GET /audit/stats": ["entries_by_type"],
    "GET /skills": ["skills[].metadata"],
}
"""Objects whose keys are values of their owner, not of the API."""

NULLABLE = {
    "GET /health": {
        "config.defaultTask": "CLASPER_DEFAULT_TASK is optional",
        "config.fallbackModel": "LLM_MODEL_FALLBACK is optional",
    },
    "GET /boot": {"content": "a workspace need not have a BOOT.md"},
    "GET /traces/:id": {
        "task_id": "with skip_backend there is no task",
        "message_id": "with skip_backend nothing is posted",
        "document_id": "only a kickoff writes a document",
    },
    "GET /audit/stats": {"oldest_entry": "an empty log has no oldest entry"},
    "POST /retention/enforce": {"result.oldestRemainingTrace": "a tenant need not have a trace"},
    "POST /cost/forecast": {"forecast.budgetRemaining": "a tenant need not have a budget"},
}
"""Fields that may be null, and when."""


@dataclass
class Told:
    """A server on which everything that the samples show has happened to tenant-123."""

    server: Server
    trace_id: str

    def get(self, path: str, **query: Any) -> Any:
        response = self.server.get(path, params=query)
        assert response.status_code == 200, response.text
        return response.json()

    def post(self, path: str, body: Any) -> Any:
        response = self.server.post(path, body)
        assert response.status_code == 200, response.text
        return response.json()

    def label(self) -> Any:
        return self.post(f"/traces/{self.trace_id}/label", example("trace_label", "request"))

    def annotate(self) -> Any:
        response = self.server.post(f"/traces/{self.trace_id}/annotate", example("trace_annotate", "request"))
        assert response.status_code == 201, response.text
        return response.json()

    def annotations(self) -> Any:
        self.annotate()
        return self.get(f"/traces/{self.trace_id}/annotations")

    def by_label(self) -> Any:
        self.label()
        return self.get("/traces/by-label", label="baseline", value="true")

    def by_entity(self) -> Any:
        return self.get("/traces/by-entity", task_id=self.get(f"/traces/{self.trace_id}")["task_id"])

    def policy(self) -> Any:
        self.post("/retention/policy", example("retention_policy_post", "request"))
        return self.get("/retention/policy", tenant_id=TENANT)


@pytest.fixture
def furnished(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The workspace holds the skill of the samples and first-run instructions; its SOUL.md is too long."""
    skill = workspace / "skills" / "web-search" / "SKILL.md"
    skill.parent.mkdir()
    skill.write_text(
        "---\nname: web-search\ndescription: Search the web for information\n"
        'metadata: {"openclaw": {"emoji": "🔍", "requires": {"env": ["SEARCH_API_KEY"]}}}\n---\nSearch first.\n'
    )
    monkeypatch.setenv("SEARCH_API_KEY", "set")
    (workspace / "skills" / "tone" / "SKILL.md").unlink()  # it has no metadata to show
    (workspace / "BOOT.md").write_text("## First Run Setup\n\nInstructions for first run...")
    (workspace / "SOUL.md").write_text("x" * 25_000)


@pytest.fixture
def told(furnished: None, server: Server, openai: FakeProvider, settings: Any) -> Told:
    settings.CLASPER_DEFAULT_TASK = "My Agent Thread"
    settings.LLM_MODEL_DEFAULT = settings.LLM_MODEL_FALLBACK = "gpt-4o-mini"
    assert server.post("/budget", example("budget_post", "request")).status_code == 200
    openai.script(
        tool_calls(("orders_lookup", '{"order_id": "ORD-1001"}'), ("delete_user", "{}"), usage=USAGE),
        reply("Agent reply text", usage=USAGE),
    )
    answer = server.send(
        tenant_id=TENANT, metadata={"kickoff_plan": True}, headers={"X-Trace-Id": "a label, not an id"}
    )
    assert answer.status_code == 200, answer.text
    return Told(server, answer.json()["trace_id"])


GOLDENS: dict[str, tuple[str, Callable[[Told], Any]]] = {
    "GET /usage": ("usage", lambda told: told.get("/usage")),
    "GET /skills": ("skills", lambda told: told.get("/skills")),
    "GET /boot": ("boot", lambda told: told.get("/boot")),
    "POST /boot/complete": ("boot_complete", lambda told: told.post("/boot/complete", None)),
    "GET /health": ("health", lambda told: told.get("/health")),
    "GET /context": ("context", lambda told: told.get("/context")),
    "GET /traces": ("traces", lambda told: told.get("/traces")),
    "GET /traces/:id": ("trace", lambda told: told.get(f"/traces/{told.trace_id}")),
    "GET /traces/stats": ("traces_stats", lambda told: told.get("/traces/stats")),
    "POST /traces/:id/label": ("trace_label", lambda told: told.label()),
    "POST /traces/:id/annotate": ("trace_annotate", lambda told: told.annotate()),
    "GET /traces/:id/replay": ("trace_replay", lambda told: told.get(f"/traces/{told.trace_id}/replay")),
    "GET /traces/:id/annotations": ("trace_annotations", lambda told: told.annotations()),
    "GET /traces/by-label": ("traces_by_label", lambda told: told.by_label()),
    "GET /traces/by-entity": ("traces_by_entity", lambda told: told.by_entity()),
    "GET /audit": ("audit", lambda told: told.get("/audit", event_type="tool.denied")),
    "GET /audit/stats": ("audit_stats", lambda told: told.get("/audit/stats")),
    "GET /budget": ("budget_get", lambda told: told.get("/budget", tenant_id=TENANT)),
    "POST /budget": ("budget_post", lambda told: told.post("/budget", example("budget_post", "request"))),
    "POST /budget/check": (
        "budget_check",
        lambda told: told.post("/budget/check", example("budget_check", "request")),
    ),
    "POST /cost/forecast": (
        "cost_forecast",
        lambda told: told.post("/cost/forecast", example("cost_forecast", "request")),
    ),
    "GET /retention/policy": ("retention_policy_get", lambda told: told.policy()),
    "POST /retention/policy": (
        "retention_policy_post",
        lambda told: told.post("/retention/policy", example("retention_policy_post", "request")),
    ),
    "POST /retention/enforce": (
        "retention_enforce",
        lambda told: told.post("/retention/enforce", example("retention_enforce", "request")),
    ),
    "GET /retention/stats": ("retention_stats", lambda told: told.get("/retention/stats")),
    "POST /risk/score": ("risk_score", lambda told: told.post("/risk/score", example("risk_score", "request"))),
    "GET /api/version": ("version", lambda told: told.get("/api/version")),
    "GET /api/compatibility": ("compatibility", lambda told: told.get("/api/compatibility")),
}


@pytest.mark.parametrize("endpoint", GOLDENS)
def test_an_answer_has_the_shape_of_its_sample(endpoint: str, told: Told) -> None:
    name, ask = GOLDENS[endpoint]
    answer = ask(told)
    assert differences(example(name), answer, data=DATA.get(endpoint, ())) == []
    if endpoint == "GET /skills":
        shown = next(skill for skill in answer["skills"] if skill["name"] == "web-search")
        wanted = example("skills")["skills"][0]
        assert {**shown, "location": ""} == {**wanted, "location": ""}


def test_every_sample_of_the_release_is_tested() -> None:
    names = {name for name, _ in GOLDENS.values()} | {"send", "stream", "llm_task", "compact", "control_plane"}
    names |= {"traces_diff"}  # its two runs are stored by tests/traces/test_diff.py
    assert {path.stem for path in EXAMPLES.glob("*.json")} == names


@pytest.mark.parametrize("endpoint", [each for each in GOLDENS if each in NULLABLE])
def test_on_an_empty_system_only_the_listed_fields_are_null(endpoint: str, server: Server) -> None:
    trace_id = ""
    if endpoint == "GET /traces/:id":
        answer = server.send("Please use tool orders:lookup {}", metadata={"skip_backend": True})
        trace_id = answer.json()["trace_id"]
    name, ask = GOLDENS[endpoint]
    found = differences(example(name), ask(Told(server, trace_id)), data=DATA.get(endpoint, ()))
    nulls = {fault.removesuffix(": null") for fault in found if fault.endswith(": null")}
    assert nulls == set(NULLABLE[endpoint])


def test_the_check_over_the_hard_limit(told: Told) -> None:
    refused = told.post("/budget/check", {**example("budget_check", "request"), "amount": 1000.0})
    assert differences(example("budget_check", number=1), refused) == []
    assert refused["allowed"] is False
    assert refused["error"] == example("budget_check", number=1)["error"]


def test_the_version_announces_the_features_of_the_reference(server: Server) -> None:
    answer = server.get("/api/version").json()
    assert {**answer, **example("version")} == answer


# --- Runs --------------------------------------------------------------------------------------------------------


def test_send_counts_and_costs_exactly_as_the_sample(server: Server, openai: FakeProvider, settings: Any) -> None:
    settings.CLASPER_CONTEXT_WARNING_THRESHOLD = 0.0
    openai.script(reply("Agent reply text", usage=USAGE))
    answer = server.send()
    wanted = example("send")
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert differences(wanted, body) == []
    assert body["usage"] == wanted["usage"]
    assert body["cost"] == wanted["cost"]
    assert body["response"] == wanted["response"]
    percent = re.compile(r"\d+\.\d%")
    assert percent.sub("%", body["context_warning"]) == percent.sub("%", wanted["context_warning"])


SEND_REQUESTS = [each.value for each in examples("send") if each.part == "request"]


@pytest.mark.parametrize("number", range(len(SEND_REQUESTS)))
def test_a_send_request_of_the_reference_is_never_invalid(number: int, server: Server) -> None:
    """Verbatim, but for `{userId}`, a placeholder for the body's user_id.

    A task_id that the control plane does not know ends in 502 once the message is to be posted.
    """
    body = dict(SEND_REQUESTS[number])
    body["session_key"] = body["session_key"].replace("{userId}", body["user_id"])
    answer = server.post("/api/agents/send", body)
    if "task_id" in body:
        assert (answer.status_code, answer.json()["code"]) == (502, "backend_error")
        assert server.trace(answer.json()["trace_id"])["status"] == "success"
        known = server.send(**{**body, "tenant_id": None, "task_id": None, "task_title": "Existing"}).json()["task_id"]
        answer = server.post("/api/agents/send", {**body, "task_id": known})
    assert answer.status_code == 200, answer.text


def test_an_error_has_the_shape_of_the_sample(server: Server) -> None:
    answer = server.post("/api/agents/send", {})
    assert answer.status_code == 400
    assert differences(example("send", "error"), answer.json()) == []


def test_stream_events_have_the_shapes_of_the_samples(server: Server, openai: FakeProvider) -> None:
    openai.script(reply("Hello , world!", usage=USAGE), half_stream(1))
    good, bad = server.stream(), server.stream()
    assert [event.name for event in good if event.name != "chunk"] == ["start", "done"]
    assert [event.name for event in bad if event.name != "chunk"] == ["start", "error"]
    for sample in (each.value for each in examples("stream")):
        shown = [event.data for event in good + bad if event.name == sample["type"]]
        assert shown, sample["type"]
        for data in shown:
            assert data["type"] == sample["type"]
            assert differences(sample, data) == []


def test_a_task_counts_and_costs_exactly_as_the_sample(server: Server, openai: FakeProvider) -> None:
    wanted = example("llm_task")
    openai.script(reply(json.dumps(wanted["output"]), usage=wanted["usage"]))
    answer = server.post("/llm-task", example("llm_task", "request"))
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert differences(wanted, body) == []
    assert {name: body[name] for name in wanted if name != "cost"} | {"cost": wanted["cost"]} == wanted
    assert {name: body["cost"][name] for name in wanted["cost"]} == wanted["cost"]


def test_a_compaction_is_exactly_the_sample(server: Server, openai: FakeProvider) -> None:
    wanted = example("compact")
    summary = wanted["compacted_messages"][0]["content"].partition("\n")[2]
    openai.script(reply(summary, usage=wanted["usage"]))
    answer = server.post("/compact", example("compact", "request"))
    assert answer.status_code == 200, answer.text
    assert {name: answer.json()[name] for name in wanted} == wanted


# --- Webhook -----------------------------------------------------------------------------------------------------


@dataclass
class Receiver:
    """A customer's endpoint that remembers what came."""

    url: str = ""
    seen: list[tuple[dict[str, str], bytes]] = field(default_factory=list)


@pytest.fixture
def receiver(settings: Any) -> Iterator[Receiver]:
    found = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            headers = {name.lower(): value for name, value in self.headers.items()}
            found.seen.append((headers, self.rfile.read(int(headers["content-length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *args: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as listener:
        thread = threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        found.url = f"http://127.0.0.1:{listener.server_port}/callback"
        settings.CLASPER_URL_ALLOWLIST = ["127.0.0.1"]
        yield found
        listener.shutdown()
        thread.join()


def test_the_webhook_request_is_taken_as_printed(server: Server) -> None:
    """Nothing is delivered here: the sample's address belongs to somebody else."""
    assert server.send(**example("send", "webhook")).status_code == 200


def test_the_webhook_has_the_shape_of_the_sample(server: Server, receiver: Receiver) -> None:
    webhook = {**example("send", "webhook")["webhook"], "url": receiver.url}
    answer = server.send(webhook=webhook).json()
    run(deliver_due(now=utc_now()))
    ((headers, body),) = receiver.seen
    payload = json.loads(body)
    wanted = example("send", "webhook", 1)
    assert differences(wanted, payload) == []
    assert payload["event"] == wanted["event"]
    assert {name: payload[name] for name in ("trace_id", "task_id", "usage", "cost", "response")} == {
        name: answer[name] for name in ("trace_id", "task_id", "usage", "cost", "response")
    }
    assert (payload["user_id"], payload["role"]) == (USER, send_body()["session_key"].rpartition(":")[2])
    signature = hmac.new(webhook["secret"].encode(), body, hashlib.sha256).hexdigest()
    assert headers["x-clasper-signature"] == signature
    assert headers["x-custom-header"] == "value"
