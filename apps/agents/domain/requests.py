"""The body of a run request, as the API reference spells it, and what can be wrong with it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo

import msgspec

from apps.agents.domain.session import SessionKey, parse_session_key

Text = Annotated[str, msgspec.Meta(max_length=1_000_000)]
Id = Annotated[str, msgspec.Meta(min_length=1, max_length=128, pattern=r"^[^\x00-\x1f\x7f]+$")]
OptionalId = Annotated[str, msgspec.Meta(max_length=128, pattern=r"^[^\x00-\x1f\x7f]*$")]
Slug = Annotated[str, msgspec.Meta(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9._-]+$")]
Title = Annotated[str, msgspec.Meta(max_length=500)]

Faults = dict[str, list[str]]

MAX_HISTORY = 2_000
"""Turns; far beyond any window, it only bounds the work before the window is checked."""


class Turn(msgspec.Struct, frozen=True, kw_only=True):
    """One earlier turn of the conversation."""

    role: Literal["user", "assistant", "system"]
    content: Text


class Webhook(msgspec.Struct, frozen=True, kw_only=True):
    """Where to report the end of the run."""

    url: Annotated[str, msgspec.Meta(min_length=1, max_length=2048)]
    secret: Annotated[str, msgspec.Meta(max_length=1024)] | None = None
    headers: dict[str, str] = {}


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """`metadata`: options of this request. Keys that are not listed here are kept with the trace and change nothing."""

    system_prompt: Text | None = None
    kickoff_plan: bool | None = None
    kickoff_note: Text | None = None
    plan_title: Title | None = None
    timezone: Annotated[str, msgspec.Meta(max_length=64)] | None = None
    model: Annotated[str, msgspec.Meta(max_length=160)] | None = None
    workspace_id: Slug | None = None
    environment: Slug | None = None
    skip_backend: bool | None = None
    skip_smart_context: bool | None = msgspec.field(default=None, name="skipSmartContext")
    force_include_skills: list[Annotated[str, msgspec.Meta(max_length=64)]] | None = msgspec.field(
        default=None, name="forceIncludeSkills"
    )
    smart_context_max_skills: Annotated[int, msgspec.Meta(ge=0, le=1000)] | None = None
    smart_context_max_memory: Annotated[int, msgspec.Meta(ge=0, le=1000)] | None = None
    smart_context_token_budget: Annotated[int, msgspec.Meta(ge=0, le=10_000_000)] | None = None


class SendBody(msgspec.Struct, frozen=True, kw_only=True):
    """The body of `POST /api/agents/send` and `/api/agents/stream`."""

    user_id: Id
    session_key: Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
    message: Annotated[str, msgspec.Meta(min_length=1, max_length=1_000_000)]
    messages: Annotated[list[Turn], msgspec.Meta(max_length=MAX_HISTORY)] | None = None
    task_id: OptionalId | None = None
    task_title: Title | None = None
    task_description: Text | None = None
    task_metadata: dict[str, Any] | None = None
    metadata: Options | None = None
    webhook: Webhook | None = None
    stream: bool | None = None
    tenant_id: Id | None = None
    workspace_id: Slug | None = None
    environment: Slug | None = None


def body_faults(raw: Mapping[str, Any]) -> Faults:
    """What the types cannot say: blank message, user and session that disagree, unknown time zone.

    Looks at the body as it came, so that these faults are told together with those of types.
    """
    faults: Faults = {}
    message = raw.get("message")
    if isinstance(message, str) and not message.strip():
        faults["message"] = ["The message is empty."]
    if fault := _session_fault(raw.get("session_key"), raw.get("user_id")):
        faults["session_key"] = [fault]
    options = raw.get("metadata")
    zone = options.get("timezone") if isinstance(options, dict) else None
    if isinstance(zone, str) and zone and not _is_timezone(zone):
        faults["metadata"] = ["timezone: Not a known IANA time zone."]
    return faults


def _session_fault(key: Any, user_id: Any) -> str:
    if not isinstance(key, str) or not key:
        return ""
    try:
        session = parse_session_key(key)
    except ValueError as error:
        return str(error)
    if isinstance(user_id, str) and session.user_id != user_id:
        return "user_id does not match the user in session_key."
    return ""


def session_of(body: SendBody) -> SessionKey:
    """The session of a body without faults."""
    return parse_session_key(body.session_key)


def _is_timezone(name: str) -> bool:
    try:
        ZoneInfo(name)
    except (ValueError, OSError, ModuleNotFoundError):  # ZoneInfoNotFoundError is a KeyError on some inputs
        return False
    except KeyError:
        return False
    return True
