"""Whose request it is, by its agent token. Everything is read and written within a scope."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeGuard

AUDIENCE = "control-plane"
MAX_ID_CHARS = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """A user within a tenant. A token that names no tenant makes its user one, which is the contract's scoping."""

    tenant_id: str
    user_id: str
    agent_role: str

    @property
    def actor(self) -> str:
        return f"agent:{self.agent_role}"


def scope_of(claims: Mapping[str, Any]) -> Scope | None:
    """The scope of a verified token's claims, or None when they are not those of an agent for this audience."""
    user_id, role = claims.get("user_id"), claims.get("agent_role")
    tenant_id = claims.get("tenant_id", user_id)
    audience = claims.get("aud", AUDIENCE)
    audiences = audience if isinstance(audience, list) else [audience]
    if claims.get("type") != "agent" or AUDIENCE not in audiences:
        return None
    if not (_is_id(user_id) and _is_id(role) and _is_id(tenant_id)):
        return None
    return Scope(tenant_id=tenant_id, user_id=user_id, agent_role=role)


def _is_id(value: Any) -> TypeGuard[str]:
    return isinstance(value, str) and 0 < len(value) <= MAX_ID_CHARS and "\x00" not in value
