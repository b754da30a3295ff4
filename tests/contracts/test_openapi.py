"""The OpenAPI document: valid, complete, true to what the server answers, and readable without the internet."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib import import_module
from typing import Any

import msgspec
import pytest
from django.core.management import call_command

from apps.agents.urls import run_routes
from clasper import openapi
from fakes.llm import FakeProvider, half_stream
from tests.contracts.routes import PUBLIC, ROUTES, Route
from tests.world import Server, send_body

jsonschema: Any = import_module("jsonschema")  # it has no types

HIDDEN = {"api/schema", "api/docs"}
"""The document does not describe itself."""


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    found: dict[str, Any] = msgspec.json.decode(openapi.document())
    return found


def validate(document: dict[str, Any], name: str, value: Any) -> None:
    """Checks a value against one of the document's schemas."""
    schema = {"$ref": f"#/components/schemas/{name}", "components": document["components"]}
    jsonschema.Draft202012Validator(schema).validate(value)


def test_it_is_valid_without_a_warning(capsys: pytest.CaptureFixture[str]) -> None:
    call_command("spectacular", "--validate", "--fail-on-warn", "--file", "/dev/null")
    assert capsys.readouterr().err == ""


def test_it_holds_every_route_and_no_other(document: dict[str, Any]) -> None:
    described = {(method.upper(), path) for path, methods in document["paths"].items() for method in methods}
    expected = {(route.method, f"/{route.pattern}") for route in ROUTES if route.pattern not in HIDDEN}
    assert described == {(method, path.replace("<str:trace_id>", "{trace_id}")) for method, path in expected}


@pytest.mark.parametrize("route", [each for each in ROUTES if each.pattern not in HIDDEN], ids=lambda each: each.name)
def test_an_operation_says_who_may_call_and_how_it_fails(route: Route, document: dict[str, Any]) -> None:
    path = f"/{route.pattern}".replace("<str:trace_id>", "{trace_id}")
    operation = document["paths"][path][route.method.lower()]
    wanted: list[dict[str, list[str]]] = [] if route.scope == PUBLIC else [{"daemonKey": []}, {"tenantKey": []}]
    assert operation.get("security", []) == wanted
    assert operation["description"]
    assert operation["tags"][0] in {"Runs", *openapi._TAGS.values()}, "give the route a section"
    failures = [each for status, each in operation["responses"].items() if status == "default" or status >= "400"]
    assert failures
    assert operation["responses"].keys() & {"200", "201"}
    assert operation["responses"].keys() & {"default", "402"}


BODIES = ("SendBody", "Turn", "TurnToolCall", "CalledFunction", "Webhook", "Options", "TaskBody", "CompactBody")


@pytest.mark.parametrize("name", [*BODIES, "ReplayBody"])
def test_every_field_of_a_run_is_explained(name: str, document: dict[str, Any]) -> None:
    for field, schema in document["components"]["schemas"][name]["properties"].items():
        assert schema.get("description"), field


def test_options_without_effect_say_so(document: dict[str, Any]) -> None:
    options = document["components"]["schemas"]["Options"]["properties"]
    for name in ("skipSmartContext", "smart_context_max_skills", "smart_context_token_budget"):
        assert "no effect" in options[name]["description"]


def test_a_stream_takes_the_same_headers_as_a_send(document: dict[str, Any]) -> None:
    send, stream = (document["paths"][f"/api/agents/{name}"]["post"]["parameters"] for name in ("send", "stream"))
    assert send == stream
    assert {"$ref": "#/components/parameters/Idempotency-Key"} in stream


def operations(document: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    return [
        (method.upper(), path, operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]


def json_contents(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """All JSON requests and responses, errors too."""
    for method, path, operation in operations(document):
        parts = {"request": operation.get("requestBody", {}), **operation["responses"]}
        for name, part in parts.items():
            part = document["components"]["responses"]["Error"] if "$ref" in part else part
            if (content := part.get("content", {}).get("application/json")) is not None:
                yield f"{method} {path} {name}", content


def test_every_body_has_a_schema_and_an_example_of_it(document: dict[str, Any]) -> None:
    seen = 0
    for name, content in json_contents(document):
        schema = {**content["schema"], "components": document["components"]}
        assert content["schema"].keys() <= {"$ref", "oneOf"}, f"{name} has no typed schema"
        jsonschema.Draft202012Validator(schema).validate(content["example"])
        seen += 1
    assert seen > 100


def test_every_operation_has_a_summary(document: dict[str, Any]) -> None:
    for method, path, operation in operations(document):
        assert operation["summary"], f"{method} {path}"
        assert len(operation["summary"]) < 120, f"{method} {path}"


def test_both_kinds_of_key_are_explained(document: dict[str, Any]) -> None:
    schemes = document["components"]["securitySchemes"]
    assert "AGENT_DAEMON_API_KEY" in schemes["daemonKey"]["description"]
    assert "api_key create" in schemes["tenantKey"]["description"]


def test_a_run_route_without_a_description_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openapi, "run_routes", [*run_routes, ("api/agents/new", run_routes[0][1])])
    with pytest.raises(KeyError, match="api/agents/new"):
        openapi.add_runs({"paths": {}}, None, None, True)


def test_runs_are_as_described(document: dict[str, Any], server: Server, openai: FakeProvider, settings: Any) -> None:
    settings.CLASPER_CONTEXT_WARNING_THRESHOLD = 0.0
    validate(document, "SendBody", send_body(stream=False, metadata={"timezone": "UTC"}))
    send, replayed = (server.send(headers={"Idempotency-Key": "k"}) for _ in range(2))
    described = document["paths"]["/api/agents/send"]["post"]["responses"]["200"]["headers"]
    assert described.keys() == {"X-Trace-Id", "Idempotency-Replayed"}
    assert described.keys() <= {name.title() for name in replayed.headers}
    validate(document, "SendResponse", send.json())
    validate(document, "SendResponse", server.send(metadata={"skip_backend": True}).json())
    done = server.stream()[-1]
    assert done.name == "done"
    validate(document, "AgentAnswer", done.data)
    openai.script(half_stream(1))
    validate(document, "ErrorBody", server.stream()[-1].data)
    validate(document, "ErrorBody", server.post("/api/agents/send", {}).json())


@pytest.mark.parametrize("method", ["send", "stream"])
def test_statuses_of_a_run_carry_their_codes(method: str, document: dict[str, Any]) -> None:
    responses = document["paths"][f"/api/agents/{method}"]["post"]["responses"]
    statuses = {"200", "400", "401", "402", "403", "409", "413", "415", "429", "502", "503", "504"}
    assert responses.keys() == statuses
    assert "`budget_exceeded`" in responses["402"]["description"]
    assert responses["429"]["headers"].keys() == {"X-Trace-Id", "Retry-After"}


# --- Over HTTP -----------------------------------------------------------------------------------------------------


def test_the_document_is_served(server: Server, document: dict[str, Any]) -> None:
    response = server.get("/api/schema", key="")
    assert response.headers["content-type"] == "application/json"
    assert response.json() == document


def test_the_page_needs_nothing_from_elsewhere(server: Server) -> None:
    page = server.get("/api/docs", key="")
    assert page.status_code == 200
    assert page.headers["content-type"].startswith("text/html")
    assert "<title>Clasper API</title>" in page.text
    assert not re.search(r"<script>|<script [^>]*>[^<]", page.text), "a script in the page needs a looser CSP"
    links = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert len(links) >= 5
    kinds = set()
    for link in links:
        assert link.startswith("/"), link
        file = server.get(link.replace("&amp;", "&"), key="")
        assert file.status_code == 200, link
        assert file.content
        kinds.add(file.headers["content-type"].partition(";")[0])
    assert kinds <= {"text/css", "text/javascript", "application/javascript", "image/png"}
    script = server.get("/api/docs?script=", key="").text
    assert "/api/schema" in script
    assert "http://" not in script
    assert "https://" not in script


def test_static_files_take_conditions_and_ranges(server: Server) -> None:
    path = "/static/drf_spectacular_sidecar/swagger-ui-dist/swagger-ui.css"
    whole = server.get(path, key="")
    assert int(whole.headers["content-length"]) == len(whole.content) > 10_000
    unchanged = server.get(path, key="", headers={"If-None-Match": whole.headers["ETag"]})
    assert (unchanged.status_code, unchanged.content) == (304, b"")
    part = server.get(path, key="", headers={"Range": "bytes=10-19"})
    assert (part.status_code, part.content) == (206, whole.content[10:20])
    head = server.request("HEAD", path, key="")
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == whole.headers["content-length"]


# --- Trying it out --------------------------------------------------------------------------------------------------

FILES = {"/traces/export", "/audit/export"}
"""What they return is a file."""

CONFIGURED = {"/audit/checkpoint": 503}
"""What an open server lacks: a signing key."""


def tried(document: dict[str, Any]) -> list[Any]:
    return [
        pytest.param(method, path, operation, id=f"{method} {path}")
        for method, path, operation in operations(document)
        if path != "/ops/api/events"
    ]


@pytest.mark.parametrize(("method", "path", "operation"), tried(msgspec.json.decode(openapi.document())))
def test_an_open_server_takes_every_example(
    method: str, path: str, operation: dict[str, Any], server: Server, settings: Any
) -> None:
    """As the page sends it: the example body, the examples of required parameters, no credential."""
    settings.AGENT_DAEMON_API_KEY = ""
    body = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("example")
    parameters = [each for each in operation.get("parameters", []) if "$ref" not in each]
    examples = {(each["in"], each["name"]): each["example"] for each in parameters if "example" in each}
    assert {(each["in"], each["name"]) for each in parameters if each.get("required")} <= examples.keys()
    query = {name: value for (where, name), value in examples.items() if where == "query"}
    address = path.replace("{trace_id}", str(examples.get(("path", "trace_id"), "")))
    response = server.request(method, address, key="", params=query, **({"json": body} if body is not None else {}))
    allowed = {200, 201}
    if "{trace_id}" in path or path in {"/traces/diff", "/budget", "/retention/policy", "/boot/complete"}:
        allowed.add(404)
    allowed.add(CONFIGURED.get(path, 200))
    assert response.status_code in allowed, response.text
