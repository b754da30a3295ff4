"""Doing something once for an idempotency key: a repetition gets the first response, another request is refused."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from datetime import datetime
from typing import Any, TypeVar

import msgspec
from django.db import transaction

from apps.control_plane.domain.scope import Scope
from apps.control_plane.models import UsedKey
from clasper.core.errors import IdempotencyMismatch

R = TypeVar("R")


def once(
    *, scope: Scope, endpoint: str, key: str | None, request: Any, kind: type[R], now: datetime, create: Callable[[], R]
) -> R:
    """The result of `create`, or the one it had for the same `request` under this key of the user and endpoint.

    Key and effect are committed together; of concurrent requests one creates and the others wait for it. Without a key
    every call creates. Raises IdempotencyMismatch when the key was used for a different request.
    """
    with transaction.atomic():
        if not key:
            return create()
        request_hash = hashlib.sha256(msgspec.json.encode(request, order="sorted")).hexdigest()
        used, fresh = UsedKey.objects.get_or_create(
            tenant_id=scope.tenant_id,
            user_id=scope.user_id,
            endpoint=endpoint,
            key=key,
            defaults={"request_hash": request_hash, "response": "", "created_at": now},
        )
        if not fresh:
            if used.request_hash != request_hash:
                raise IdempotencyMismatch("This idempotency_key was used with a different request.")
            return msgspec.json.decode(used.response, type=kind)
        result = create()
        used.response = msgspec.json.encode(result).decode()
        used.save(update_fields=["response"])
        return result
