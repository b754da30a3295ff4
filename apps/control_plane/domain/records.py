"""What the contract's endpoints answer with: records as callers see them, free of rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Generic, TypeVar

R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class TaskRecord:
    """A task as the API shows it."""

    id: str
    title: str
    status: str
    description: str
    metadata: dict[str, Any]
    created_at: str


@dataclass(frozen=True, slots=True)
class MessageRecord:
    """A message as the API shows it."""

    id: str
    task_id: str
    content: str
    actor_type: str
    agent_role: str
    attachments: dict[str, Any] | list[Any]
    created_at: str


@dataclass(frozen=True, slots=True)
class DocumentRecord:
    """A document as the API shows it."""

    id: str
    title: str
    doc_type: str
    task_id: str
    content: str
    created_at: str


@dataclass(frozen=True, slots=True)
class Listing(Generic[R]):
    """A part of a list, newest first; `next_cursor` is None on the last part."""

    items: list[R]
    next_cursor: str | None
