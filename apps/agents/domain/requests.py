"""The body of a run request, as the API reference spells it, and what can be wrong with it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo

import msgspec

from apps.agents.domain.session import SessionKey, parse_session_key
from apps.workspaces.domain.workspace import is_role

Text = Annotated[str, msgspec.Meta(max_length=1_000_000)]
Id = Annotated[str, msgspec.Meta(min_length=1, max_length=128, pattern=r"^[^\x00-\x1f\x7f]+$")]
OptionalId = Annotated[str, msgspec.Meta(max_length=128, pattern=r"^[^\x00-\x1f\x7f]*$")]
Slug = Annotated[str, msgspec.Meta(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9._-]+$")]
Title = Annotated[str, msgspec.Meta(max_length=500)]

Faults = dict[str, list[str]]

MAX_HISTORY = 2_000
"""Turns; far beyond any window, it only bounds the work before the window is checked."""


CallId = Annotated[str, msgspec.Meta(min_length=1, max_length=256)]


class CalledFunction(msgspec.Struct, frozen=True, kw_only=True):
    """What a tool call asked for; `arguments` is a JSON text as the model wrote it."""

    name: Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
    arguments: Text


class TurnToolCall(msgspec.Struct, frozen=True, kw_only=True):
    """A tool call of an earlier assistant turn."""

    id: CallId
    type: Literal["function"] = "function"
    function: CalledFunction


class Turn(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One earlier turn of the conversation, in the spelling of OpenAI's chat API.

    `content` may only be missing or null beside `tool_calls`; `history_faults` says so, types cannot.
    """

    role: Literal["user", "assistant", "system", "tool"]
    content: Text | None = None
    tool_calls: list[TurnToolCall] | None = None
    tool_call_id: CallId | None = None

    @property
    def text(self) -> str:
        """What was said; empty when the turn only called tools."""
        return self.content or ""


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


class Booked(msgspec.Struct, frozen=True, kw_only=True):
    """Whom a run without a session is for and where it is booked; all of it may be left out."""

    user_id: Id | None = None
    agent_role: Annotated[str, msgspec.Meta(max_length=64)] | None = None
    tenant_id: Id | None = None
    workspace_id: Slug | None = None
    environment: Slug | None = None
    metadata: dict[str, Any] | None = None


def booking_faults(raw: Mapping[str, Any]) -> Faults:
    """What types cannot say of Booked: a role that is none."""
    role = raw.get("agent_role")
    if isinstance(role, str) and not is_role(role):
        return {"agent_role": ["A role has 1 to 64 letters, digits, _ or -."]}
    return {}


def body_faults(raw: Mapping[str, Any]) -> Faults:
    """What the types cannot say: blank message, broken history, user and session that disagree, unknown time zone.

    Looks at the body as it came, so that these faults are told together with those of types.
    """
    faults: Faults = {}
    message = raw.get("message")
    if isinstance(message, str) and not message.strip():
        faults["message"] = ["The message is empty."]
    if texts := history_faults(raw.get("messages")):
        faults["messages"] = texts
    if fault := _session_fault(raw.get("session_key"), raw.get("user_id")):
        faults["session_key"] = [fault]
    options = raw.get("metadata")
    zone = options.get("timezone") if isinstance(options, dict) else None
    if isinstance(zone, str) and zone and not _is_timezone(zone):
        faults["metadata"] = ["timezone: Not a known IANA time zone."]
    return faults


def history_faults(messages: Any) -> list[str]:
    """What is wrong with the turns of a conversation as a whole, each fault with its place: `[2]: …`.

    Every tool turn must answer a call of the assistant turn before it, and every call must be answered once before
    the next user or assistant turn. Looks at the list as it came; what types say is not said again.
    """
    faults: list[str] = []
    waiting: dict[str, str] = {}
    answered: set[str] = set()
    for n, turn in enumerate(messages if isinstance(messages, list) else ()):
        if not isinstance(turn, dict):
            continue
        role = turn.get("role")
        faults += _content_faults(turn, f"[{n}]")
        if role == "tool":
            faults += _answer_faults(turn.get("tool_call_id"), f"[{n}]", waiting, answered)
        elif turn.get("tool_call_id") is not None:
            faults.append(f"[{n}].tool_call_id: Only a tool turn answers a call.")
        if role in ("user", "assistant"):
            faults += waiting.values()
            waiting, answered = {}, set()
        if calls := _calls(turn):
            faults += _call_faults(role, calls, f"[{n}].tool_calls", waiting)
    return faults + list(waiting.values())


def _content_faults(turn: Mapping[str, Any], place: str) -> list[str]:
    content = turn.get("content")
    if isinstance(content, list):
        return [f"{place}.content: Only text is taken, as one string; images and files are not supported."]
    if content is None and not (turn.get("role") == "assistant" and _calls(turn)):
        return [f"{place}.content: This field is required."]
    return []


def _answer_faults(call_id: Any, place: str, waiting: dict[str, str], answered: set[str]) -> list[str]:
    if call_id is None:
        return [f"{place}.tool_call_id: This field is required."]
    if not isinstance(call_id, str):
        return []
    if call_id in answered:
        return [f"{place}: The call {call_id[:256]} is answered already."]
    if waiting.pop(call_id, None) is None:
        return [f"{place}: The assistant turn before it made no call {call_id[:256]}."]
    answered.add(call_id)
    return []


def _call_faults(role: Any, calls: list[Any], place: str, waiting: dict[str, str]) -> list[str]:
    """Faults of the calls of one turn; those that are in order are put into `waiting`, with what to say if they stay.

    A call that has no id is left to the types.
    """
    if role != "assistant":
        return [f"{place}: Only an assistant turn calls tools."]
    faults = []
    for n, call in enumerate(calls):
        call_id = call.get("id") if isinstance(call, dict) else None
        if not isinstance(call_id, str):
            continue
        if call_id in waiting:
            faults.append(f"{place}[{n}].id: Another call of this turn has the same id.")
        else:
            waiting[call_id] = f"{place}[{n}]: No tool turn answers the call {call_id[:256]}."
    return faults


def _calls(turn: Mapping[str, Any]) -> list[Any]:
    calls = turn.get("tool_calls")
    return calls if isinstance(calls, list) else []


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
