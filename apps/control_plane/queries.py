"""Reads of the control plane, always within a scope; rows become records here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

from apps.control_plane.domain.records import DocumentRecord, Listing, MessageRecord, TaskRecord
from apps.control_plane.domain.requests import Page
from apps.control_plane.domain.scope import Scope
from apps.control_plane.models import Document, Message, Task
from clasper.core.clock import iso
from clasper.core.errors import NotFound
from clasper.core.tables import TenantQuerySet

R = TypeVar("R")


def task_record(row: Task) -> TaskRecord:
    return TaskRecord(
        id=row.id,
        title=row.title,
        status=row.status,
        description=row.description,
        metadata=msgspec.json.decode(row.metadata),
        created_at=iso(row.created_at),
    )


def message_record(row: Message) -> MessageRecord:
    return MessageRecord(
        id=row.id,
        task_id=row.task_id,
        content=row.content,
        actor_type=row.actor_type,
        agent_role=row.agent_role,
        attachments=msgspec.json.decode(row.attachments),
        created_at=iso(row.created_at),
    )


def document_record(row: Document) -> DocumentRecord:
    return DocumentRecord(
        id=row.id,
        title=row.title,
        doc_type=row.doc_type,
        task_id=row.task_id,
        content=row.content,
        created_at=iso(row.created_at),
    )


def find_task(*, scope: Scope, task_id: str) -> Task:
    """The user's task. Raises NotFound, also for a task of somebody else."""
    row: Task | None = _own(Task.objects.all(), scope).filter(id=task_id).first()
    if row is None:
        raise NotFound("No such task.", code="task_not_found")
    return row


def list_tasks(*, scope: Scope, page: Page) -> Listing[TaskRecord]:
    """The user's tasks, newest first."""
    return _listing(_own(Task.objects.all(), scope), page, task_record)


def list_messages(*, scope: Scope, task_id: str, page: Page) -> Listing[MessageRecord]:
    """The messages of one of the user's tasks, newest first. Raises NotFound."""
    task = find_task(scope=scope, task_id=task_id)
    return _listing(_own(Message.objects.all(), scope).filter(task_id=task.id), page, message_record)


def list_documents(*, scope: Scope, task_id: str, page: Page) -> Listing[DocumentRecord]:
    """The documents of one of the user's tasks, newest first. Raises NotFound."""
    task = find_task(scope=scope, task_id=task_id)
    return _listing(_own(Document.objects.all(), scope).filter(task_id=task.id), page, document_record)


def _own(rows: TenantQuerySet, scope: Scope) -> TenantQuerySet:
    return rows.for_tenant(scope.tenant_id).filter(user_id=scope.user_id)


def _listing(rows: TenantQuerySet, page: Page, record: Callable[[Any], R]) -> Listing[R]:
    if page.cursor:
        rows = rows.filter(id__lt=page.cursor)
    # One row more than shown tells whether there is a next part.
    found = list(rows.order_by("-id")[: page.limit + 1])
    shown = found[: page.limit]
    return Listing([record(row) for row in shown], shown[-1].id if len(found) > page.limit else None)
