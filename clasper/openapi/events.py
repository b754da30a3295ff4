"""How the live events are described: like the runs, they are no Django view."""

from __future__ import annotations

from typing import Any

_EXAMPLE = (
    'id: 16\nevent: agent.complete\ndata: {"id":21,"timestamp":"2026-02-01T19:30:00.000Z","event_type":'
    '"agent.complete","tenant_id":"acme","trace_id":"…","actor":"agent:support","details":{…},"seq":16,"prev_hash":"…","hash":"…"}\n\n'
)


def _parameter(name: str, where: str, text: str, kind: str = "string") -> dict[str, Any]:
    return {"name": name, "in": where, "description": text, "schema": {"type": kind}}


EVENTS_PATH: dict[str, Any] = {
    "/ops/api/events": {
        "get": {
            "operationId": "live_events",
            "summary": "Follow the audit log",
            "description": "Server-sent events: each audit entry of a tenant as it is committed, in order and without "
            "a gap. `event` is its type, `id` its `seq`, `data` the entry as `GET /audit` shows it. It begins with the "
            "present, or after the event that was seen last. A comment is sent every 15 seconds of silence. When the "
            "credential stops being valid, an event `error` ends the feed.",
            "tags": ["Operations"],
            "parameters": [
                _parameter("tenant_id", "query", "The tenant; required with the platform's key."),
                _parameter("last_event_id", "query", "As Last-Event-ID, which comes first.", "integer"),
                _parameter("Last-Event-ID", "header", "The id of the event seen last.", "integer"),
            ],
            "security": [{"daemonKey": []}, {"tenantKey": []}],
            "responses": {
                "200": {
                    "description": "The feed, which does not end by itself.",
                    "content": {"text/event-stream": {"schema": {"type": "string"}, "example": _EXAMPLE}},
                },
                "default": {"$ref": "#/components/responses/Error"},
            },
        }
    }
}
