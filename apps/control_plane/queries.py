"""Reads of the control plane, always within a scope; rows become records here."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from apps.control_plane.domain.contract import DocumentRecord, Listing, MessageRecord, Page, TaskRecord
from apps.control_plane.domain.scope import Scope
from apps.control_plane.models import Document, Message, ScopedRow, Task
from clasper.core.errors import NotFound
from clasper.core.schemas import Resource
from clasper.core.tables import TenantQuerySet

R = TypeVar("R", bound=Resource)

_JSON_COLUMNS = frozenset({"metadata", "attachments"})


def record_of(row: ScopedRow, kind: type[R]) -> R:
    """The row as the API shows it: its columns by the names of the record's fields."""
    columns: dict[str, Any] = {name: getattr(row, name) for name in kind.__struct_fields__}
    return kind(
        **{name: msgspec.json.decode(value) if name in _JSON_COLUMNS else value for name, value in columns.items()}
    )


def find_task(*, scope: Scope, task_id: str) -> TaskRecord:
    """The user's task. Raises NotFound, also for a task of somebody else."""
    row = _own(Task, scope).filter(id=task_id).first()
    if row is None:
        raise NotFound("No such task.", code="task_not_found")
    return record_of(row, TaskRecord)


def list_tasks(*, scope: Scope, page: Page) -> Listing:
    """The user's tasks, newest first."""
    return _listing(_own(Task, scope), page, TaskRecord)


def list_messages(*, scope: Scope, task_id: str, page: Page) -> Listing:
    """The messages of one of the user's tasks, newest first. Raises NotFound."""
    task = find_task(scope=scope, task_id=task_id)
    return _listing(_own(Message, scope).filter(task_id=task.id), page, MessageRecord)


def list_documents(*, scope: Scope, task_id: str, page: Page) -> Listing:
    """The documents of one of the user's tasks, newest first. Raises NotFound."""
    task = find_task(scope=scope, task_id=task_id)
    return _listing(_own(Document, scope).filter(task_id=task.id), page, DocumentRecord)


def _own(model: type[ScopedRow], scope: Scope) -> TenantQuerySet:
    return model.objects.for_tenant(scope.tenant_id).filter(user_id=scope.user_id)


def _listing(rows: TenantQuerySet, page: Page, kind: type[Resource]) -> Listing:
    if page.cursor:
        rows = rows.filter(id__lt=page.cursor)
    # One row more than shown tells whether there is a next part.
    found = list(rows.order_by("-id")[: page.limit + 1])
    shown = found[: page.limit]
    next_cursor = shown[-1].id if len(found) > page.limit else None
    return Listing(items=[record_of(row, kind) for row in shown], next_cursor=next_cursor)
