"""Creating tasks, and messages and documents on them."""

from __future__ import annotations

from datetime import datetime

import msgspec

from apps.control_plane.domain.records import DocumentRecord, MessageRecord, TaskRecord
from apps.control_plane.domain.requests import NewDocument, NewMessage, NewTask
from apps.control_plane.domain.scope import Scope
from apps.control_plane.models import Document, Message, Task
from apps.control_plane.queries import document_record, find_task, message_record, task_record
from apps.control_plane.services.once import once


def create_task(*, scope: Scope, new: NewTask, now: datetime) -> TaskRecord:
    """Makes a task of the user. Raises IdempotencyMismatch."""

    def create() -> TaskRecord:
        row = Task.objects.create(
            tenant_id=scope.tenant_id,
            user_id=scope.user_id,
            title=new.title,
            description=new.description,
            status=new.status,
            metadata=msgspec.json.encode(new.metadata).decode(),
            created_by=scope.actor,
            created_at=now,
        )
        return task_record(row)

    return once(scope=scope, endpoint="tasks", key=new.key, request=new, kind=TaskRecord, now=now, create=create)


def create_message(*, scope: Scope, new: NewMessage, trace_id: str, now: datetime) -> MessageRecord:
    """Adds a message to one of the user's tasks. Raises NotFound and IdempotencyMismatch."""

    def create() -> MessageRecord:
        row = Message.objects.create(
            tenant_id=scope.tenant_id,
            user_id=scope.user_id,
            task_id=find_task(scope=scope, task_id=new.task_id).id,
            content=new.content,
            actor_type=new.actor_type,
            agent_role=new.agent_role,
            attachments=msgspec.json.encode(new.attachments).decode(),
            trace_id=trace_id,
            created_at=now,
        )
        return message_record(row)

    return once(scope=scope, endpoint="messages", key=new.key, request=new, kind=MessageRecord, now=now, create=create)


def create_document(*, scope: Scope, new: NewDocument, trace_id: str, now: datetime) -> DocumentRecord:
    """Adds a document to one of the user's tasks. Raises NotFound and IdempotencyMismatch."""

    def create() -> DocumentRecord:
        row = Document.objects.create(
            tenant_id=scope.tenant_id,
            user_id=scope.user_id,
            task_id=find_task(scope=scope, task_id=new.task_id).id,
            title=new.title,
            content=new.content,
            doc_type=new.doc_type,
            trace_id=trace_id,
            created_at=now,
        )
        return document_record(row)

    return once(
        scope=scope, endpoint="documents", key=new.key, request=new, kind=DocumentRecord, now=now, create=create
    )
