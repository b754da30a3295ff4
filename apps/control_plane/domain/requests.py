"""What a well-formed request of the contract looks like: one schema an endpoint, and paging."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from apps.control_plane.domain.schema import Faults, Schema, faults_of
from clasper.core.ids import is_uuid

DEFAULT_LIMIT = 50
MAX_LIMIT = 100
MAX_CONTENT_CHARS = 1_000_000

_ID = {"type": "string", "minLength": 1, "maxLength": 64}
_KEY = {"type": ["string", "null"], "minLength": 1, "maxLength": 255}
_TITLE = {"type": "string", "minLength": 1, "maxLength": 1000}
_CONTENT = {"type": "string", "maxLength": MAX_CONTENT_CHARS}
_LABEL = {"type": "string", "minLength": 1, "maxLength": 64}

TASK: Schema = {
    "required": ["title"],
    "properties": {
        "title": _TITLE,
        "description": {"type": ["string", "null"], "maxLength": MAX_CONTENT_CHARS},
        "status": _LABEL,
        "metadata": {"type": ["object", "null"]},
        "idempotency_key": _KEY,
    },
}
MESSAGE: Schema = {
    "required": ["task_id", "content"],
    "properties": {
        "task_id": _ID,
        "content": _CONTENT,
        "actor_type": {"type": "string", "enum": ["agent", "user", "system"]},
        "agent_role": {"type": ["string", "null"], "maxLength": 128},
        "attachments": {"type": ["object", "array", "null"]},
        "idempotency_key": _KEY,
    },
}
DOCUMENT: Schema = {
    "required": ["task_id", "title", "content"],
    "properties": {
        "task_id": _ID,
        "title": _TITLE,
        "content": _CONTENT,
        "doc_type": _LABEL,
        "idempotency_key": _KEY,
    },
}
TOOL_CALL: Schema = {
    "properties": {
        "arguments": {"type": "object"},
        "tenant_id": {"type": "string"},
        "workspace_id": {"type": "string"},
        "trace_id": {"type": "string", "maxLength": 64},
        "idempotency_key": _KEY,
    },
}


@dataclass(frozen=True, slots=True)
class NewTask:
    """A task to be made; `key` makes a repetition safe."""

    title: str
    description: str
    status: str
    metadata: dict[str, Any]
    key: str


@dataclass(frozen=True, slots=True)
class NewMessage:
    """A message to be added to a task."""

    task_id: str
    content: str
    actor_type: str
    agent_role: str
    attachments: dict[str, Any] | list[Any]
    key: str


@dataclass(frozen=True, slots=True)
class NewDocument:
    """A document to be added to a task."""

    task_id: str
    title: str
    content: str
    doc_type: str
    key: str


@dataclass(frozen=True, slots=True)
class Page:
    """Which part of a list is asked for; `cursor` is what the part before ended with."""

    limit: int = DEFAULT_LIMIT
    cursor: str = ""


def read_task(body: Mapping[str, Any]) -> NewTask | Faults:
    """The task that a body describes, or every fault of the body."""
    return faults_of(body, TASK) or NewTask(
        title=body["title"],
        description=body.get("description") or "",
        status=body.get("status", "in_progress"),
        metadata=body.get("metadata") or {},
        key=body.get("idempotency_key") or "",
    )


def read_message(body: Mapping[str, Any], *, agent_role: str) -> NewMessage | Faults:
    """The message that a body describes (by default of the token's role), or every fault of the body."""
    return faults_of(body, MESSAGE) or NewMessage(
        task_id=body["task_id"],
        content=body["content"],
        actor_type=body.get("actor_type", "agent"),
        agent_role=body.get("agent_role") or agent_role,
        attachments=body.get("attachments") or {},
        key=body.get("idempotency_key") or "",
    )


def read_document(body: Mapping[str, Any]) -> NewDocument | Faults:
    """The document that a body describes, or every fault of the body."""
    return faults_of(body, DOCUMENT) or NewDocument(
        task_id=body["task_id"],
        title=body["title"],
        content=body["content"],
        doc_type=body.get("doc_type", "note"),
        key=body.get("idempotency_key") or "",
    )


def read_page(limit: str | None, cursor: str | None) -> Page | Faults:
    """The page that the query parameters name, or their faults."""
    faults: Faults = {}
    size = DEFAULT_LIMIT
    if limit is not None:
        if limit.isascii() and limit.isdigit() and 1 <= int(limit[:9]) <= MAX_LIMIT:
            size = int(limit)
        else:
            faults["limit"] = [f"Expected a whole number from 1 to {MAX_LIMIT}."]
    if cursor is not None and not is_uuid(cursor):
        faults["cursor"] = ["Not a cursor of this list."]
    return faults or Page(size, cursor or "")
