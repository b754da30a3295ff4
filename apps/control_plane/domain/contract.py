"""The requests and responses of contract v1, each declared once. Fields of later versions are ignored."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from clasper.core.ids import is_uuid
from clasper.core.schemas import Codec, Input, Instant, Query, Resource

CONTRACT_VERSION = "v1"
FEATURES = {
    "tasks": True,
    "messages": True,
    "documents": True,
    "notifications_dispatch": False,
    "events_sse": False,
    "heartbeat": False,
    "standup": False,
    "tool_requests": False,
    "tools": True,
    "tool_discover": True,
    "tool_execute": True,
    "tool_idempotency": True,
}

_MAX_CONTENT_CHARS = 1_000_000


def _null_means(default: Any) -> Codec:
    return Codec(read=lambda value: default if value is None else value)


Id = Annotated[str, Meta(min_length=1, max_length=64)]
Label = Annotated[str, Meta(min_length=1, max_length=64)]
Title = Annotated[str, Meta(min_length=1, max_length=1000)]
Content = Annotated[str, Meta(max_length=_MAX_CONTENT_CHARS)]
Key = Annotated[str, Meta(min_length=1, max_length=255)]
JsonObject = Annotated[dict[str, Any], _null_means({})]
Json = Annotated[dict[str, Any] | list[Any], _null_means({})]


def _read_cursor(value: Any) -> str:
    if not is_uuid(value):
        raise ValueError("Not a cursor of this list.")
    return str(value)


# --- Requests --------------------------------------------------------------------------------------------------------


class Write(Input, frozen=True, kw_only=True, forbid_unknown_fields=False):
    """A body that creates something; under the same `idempotency_key` it is created once."""

    key: Key | None = msgspec.field(name="idempotency_key", default=None)


class NewTask(Write, frozen=True, kw_only=True):
    """A task to be created."""

    title: Title
    description: Annotated[Content, _null_means("")] = ""
    status: Label = "in_progress"
    metadata: JsonObject = {}


class NewMessage(Write, frozen=True, kw_only=True):
    """A message to be added to a task, by default of the token's role."""

    task_id: Id
    content: Content
    actor_type: Literal["agent", "user", "system"] = "agent"
    agent_role: Annotated[str, Meta(max_length=128), _null_means("")] = ""
    attachments: Json = {}


class NewDocument(Write, frozen=True, kw_only=True):
    """A document to be added to a task."""

    task_id: Id
    title: Title
    content: Content
    doc_type: Label = "note"


class ToolCall(Write, frozen=True, kw_only=True):
    """A call of a tool."""

    arguments: dict[str, Any] = {}
    tenant_id: str | msgspec.UnsetType = msgspec.UNSET
    workspace_id: str = ""
    trace_id: Annotated[str, Meta(max_length=64)] = ""


class Page(Query, frozen=True, kw_only=True):
    """Which part of a list is requested; `cursor` is the `next_cursor` of the previous part."""

    limit: Annotated[int, Meta(ge=1, le=100)] = 50
    cursor: Annotated[str, Codec(read=_read_cursor)] = ""


# --- Responses -------------------------------------------------------------------------------------------------------


class TaskRecord(Resource, frozen=True, kw_only=True):
    """A task."""

    id: str
    title: str
    status: str
    description: str
    metadata: dict[str, Any]
    created_at: Instant


class MessageRecord(Resource, frozen=True, kw_only=True):
    """A message on a task."""

    id: str
    task_id: str
    content: str
    actor_type: str
    agent_role: str
    attachments: dict[str, Any] | list[Any]
    created_at: Instant


class DocumentRecord(Resource, frozen=True, kw_only=True):
    """A document of a task."""

    id: str
    title: str
    doc_type: str
    task_id: str
    content: str
    created_at: Instant


class Listing(Resource, frozen=True, kw_only=True):
    """A part of a list, newest first; `next_cursor` is None on the last part."""

    items: Sequence[Resource]
    next_cursor: str | None
