"""Creating tasks, and messages and documents on them."""

from __future__ import annotations

from datetime import datetime
from typing import Any, TypeVar

import msgspec

from apps.control_plane.domain.contract import (
    DocumentRecord,
    MessageRecord,
    NewDocument,
    NewMessage,
    NewTask,
    TaskRecord,
    Write,
)
from apps.control_plane.domain.scope import Scope
from apps.control_plane.models import Document, Message, ScopedRow, Task
from apps.control_plane.queries import find_task, record_of
from apps.control_plane.services.once import once
from clasper.core.schemas import Resource

R = TypeVar("R", bound=Resource)


def create_task(*, scope: Scope, new: NewTask, now: datetime) -> TaskRecord:
    """Creates a task of the user. Raises IdempotencyMismatch."""
    return _create(Task, TaskRecord, "tasks", scope, new, now, created_by=scope.actor)


def create_message(*, scope: Scope, new: NewMessage, trace_id: str, now: datetime) -> MessageRecord:
    """Adds a message to one of the user's tasks. Raises NotFound and IdempotencyMismatch."""
    find_task(scope=scope, task_id=new.task_id)
    new = msgspec.structs.replace(new, agent_role=new.agent_role or scope.agent_role)
    return _create(Message, MessageRecord, "messages", scope, new, now, trace_id=trace_id)


def create_document(*, scope: Scope, new: NewDocument, trace_id: str, now: datetime) -> DocumentRecord:
    """Adds a document to one of the user's tasks. Raises NotFound and IdempotencyMismatch."""
    find_task(scope=scope, task_id=new.task_id)
    return _create(Document, DocumentRecord, "documents", scope, new, now, trace_id=trace_id)


def _create(
    model: type[ScopedRow], kind: type[R], endpoint: str, scope: Scope, new: Write, now: datetime, **more: str
) -> R:
    """Stores `new` with `more` columns as a row of the user, once for its key, and returns the row as a `kind`."""
    fields = msgspec.structs.asdict(new)

    def create() -> R:
        columns = {name: _column(value) for name, value in fields.items() if name != "key"}
        row = model.objects.create(tenant_id=scope.tenant_id, user_id=scope.user_id, created_at=now, **columns, **more)
        return record_of(row, kind)

    return once(scope=scope, endpoint=endpoint, key=new.key, request=fields, kind=kind, now=now, create=create)


def _column(value: Any) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()
