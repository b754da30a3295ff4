"""The body of a run request, as the API reference spells it, and what can be wrong with it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, NamedTuple
from zoneinfo import ZoneInfo

import msgspec
from msgspec import Meta

from apps.workspaces.domain.workspace import is_role
from clasper.core.schemas import Errors, Input, about

Text = Annotated[str, Meta(max_length=1_000_000)]
Id = Annotated[str, Meta(min_length=1, max_length=128, pattern=r"^[^\x00-\x1f\x7f]+$")]
OptionalId = Annotated[str, Meta(max_length=128, pattern=r"^[^\x00-\x1f\x7f]*$")]
Slug = Annotated[str, Meta(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9._-]+$")]
Title = Annotated[str, Meta(max_length=500)]

MAX_USER_ID_CHARS = 128

_SESSION_FORMAT = "session_key must have the format user:{userId}:{role}"
_FORBIDDEN = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")

MAX_HISTORY = 2_000
"""Turns; far beyond any window, it only bounds the work before the window is checked."""


CallId = Annotated[str, Meta(min_length=1, max_length=256)]


class CalledFunction(msgspec.Struct, frozen=True, kw_only=True):
    """What a tool call asked for."""

    name: Annotated[str, about("The tool's name.", example="orders:lookup", min_length=1, max_length=256)]
    arguments: Annotated[Text, about("Its arguments, as JSON text.", example='{"id": 7}')]


class TurnToolCall(msgspec.Struct, frozen=True, kw_only=True):
    """A tool call of an earlier assistant turn."""

    id: Annotated[CallId, about("Named by the turn that answers it.", example="call_1")]
    type: Annotated[Literal["function"], about("Always `function`.")] = "function"
    function: Annotated[CalledFunction, about("The tool.")]


class Turn(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One earlier turn of the conversation, in the spelling of OpenAI's chat API.

    `content` may only be missing or null beside `tool_calls`; `history_errors` says so, types cannot.
    """

    role: Annotated[Literal["user", "assistant", "system", "tool"], about("Who said it.", example="user")]
    content: Annotated[
        Text | None, about("What was said, as text. It may be missing only beside `tool_calls`.", example="Hello")
    ] = None
    tool_calls: Annotated[
        list[TurnToolCall] | None,
        about("On an assistant's turn: the tools it called. Each call must be answered by a `tool` turn."),
    ] = None
    tool_call_id: Annotated[CallId | None, about("On a `tool` turn: the call whose result it is.")] = None

    @property
    def text(self) -> str:
        """What was said; empty when the turn only called tools."""
        return self.content or ""


class Webhook(msgspec.Struct, frozen=True, kw_only=True):
    """Where to report the end of the run."""

    url: Annotated[
        str,
        about(
            "http or https; private, loopback and metadata addresses only if the operator lists them.",
            example="https://example.com/callback",
            min_length=1,
            max_length=2048,
        ),
    ]
    secret: Annotated[
        Annotated[str, Meta(max_length=1024)] | None,
        about("Signs the body: `X-Clasper-Signature` is its lower-case hex HMAC-SHA256."),
    ] = None
    headers: Annotated[dict[str, str], about("Headers to send along.")] = {}


Model = Annotated[str, Meta(max_length=160)]
UNUSED = "Accepted for compatibility; has no effect today."


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """`metadata`: options of this request. Keys that are not listed here are kept with the trace and change nothing."""

    system_prompt: Annotated[
        Text | None, about("Replaces the workspace's prompt; needs the scope `prompt:override`.")
    ] = None
    kickoff_plan: Annotated[bool | None, about("Also write the answer as a plan document.")] = None
    kickoff_note: Annotated[Text | None, about("Steers a kickoff and heads its plan.")] = None
    plan_title: Annotated[Title | None, about("Title of the plan document.")] = None
    timezone: Annotated[Annotated[str, Meta(max_length=64)] | None, about("IANA name, for the time in the prompt.")] = (
        None
    )
    model: Annotated[
        Model | None, about("The model to ask: a tier (`cheap`, `best`, …), `provider/model`, or `model`.")
    ] = None
    workspace_id: Annotated[Slug | None, about("As the field of the same name in the body.")] = None
    environment: Annotated[Slug | None, about("As the field of the same name in the body.")] = None
    skip_backend: Annotated[
        bool | None, about("Write nothing to the control plane; then no task is needed.", example=True)
    ] = None
    skip_smart_context: Annotated[bool | None, about(UNUSED)] = msgspec.field(default=None, name="skipSmartContext")
    force_include_skills: Annotated[
        list[Annotated[str, Meta(max_length=64)]] | None, about("Skills that are in the prompt in any case.")
    ] = msgspec.field(default=None, name="forceIncludeSkills")
    smart_context_max_skills: Annotated[Annotated[int, Meta(ge=0, le=1000)] | None, about(UNUSED)] = None
    smart_context_max_memory: Annotated[Annotated[int, Meta(ge=0, le=1000)] | None, about(UNUSED)] = None
    smart_context_token_budget: Annotated[Annotated[int, Meta(ge=0, le=10_000_000)] | None, about(UNUSED)] = None


class RunBody(Input, frozen=True, kw_only=True, forbid_unknown_fields=False):
    """The body of a run. Unknown fields are ignored, so that clients of a later release may send them."""


class SendBody(RunBody, frozen=True, kw_only=True):
    """The body of `POST /api/agents/send` and `/api/agents/stream`."""

    user_id: Annotated[
        Id,
        about("Whom the run is for; also its tenant, unless the credential or `tenant_id` names one.", example="ada"),
    ]
    session_key: Annotated[
        str,
        about(
            "`user:{user_id}:{role}`. The role is the agent's name and selects its soul.",
            example="user:ada:support",
            min_length=1,
            max_length=256,
        ),
    ]
    message: Annotated[str, about("What the user says.", example="Hello", min_length=1, max_length=1_000_000)]
    messages: Annotated[
        Annotated[list[Turn], Meta(max_length=MAX_HISTORY)] | None,
        about("Earlier turns of the conversation, oldest first."),
    ] = None
    task_id: Annotated[OptionalId | None, about("An existing task of the control plane.")] = None
    task_title: Annotated[
        Title | None,
        about(
            "Without `task_id`: the title of the task to find or create. Default: CLASPER_DEFAULT_TASK.",
            example="Try it out",
        ),
    ] = None
    task_description: Annotated[Text | None, about("Description of a task that is created.")] = None
    task_metadata: Annotated[dict[str, Any] | None, about("Metadata of a task that is created.")] = None
    metadata: Annotated[Options | None, about("Options of this request.")] = None
    webhook: Annotated[Webhook | None, about("Where to report the end of the run.")] = None
    stream: Annotated[bool | None, about("On `send`: answer with server-sent events.")] = None
    tenant_id: Annotated[Id | None, about("The platform key may name any tenant, a tenant's key only its own.")] = None
    workspace_id: Annotated[Slug | None, about("Default: `metadata.workspace_id`, then `default`.")] = None
    environment: Annotated[
        Slug | None, about("Default: `metadata.environment`, then the workspace's default environment.")
    ] = None

    @property
    def role(self) -> str:
        """The role in which the agent acts, as the session key says."""
        return self.session_key.rpartition(":")[2]

    @classmethod
    def cross_field_errors(cls, values: Mapping[str, Any], given: Mapping[str, Any]) -> Errors:
        """A blank message, a broken history, user and session that disagree, an unknown time zone.

        Looks at the body as it was sent, so that these errors are reported together with those of types.
        """
        errors: Errors = {}
        message = given.get("message")
        if isinstance(message, str) and not message.strip():
            errors["message"] = ["The message is empty."]
        if texts := history_errors(given.get("messages")):
            errors["messages"] = texts
        if text := _session_error(given.get("session_key"), given.get("user_id")):
            errors["session_key"] = [text]
        options = given.get("metadata")
        zone = options.get("timezone") if isinstance(options, dict) else None
        if isinstance(zone, str) and zone and not _is_timezone(zone):
            errors["metadata"] = ["timezone: Not a known IANA time zone."]
        return errors


class ScopedBody(RunBody, frozen=True, kw_only=True):
    """Whom a run without a session is for, and the scope it is recorded under; all of it may be left out."""

    user_id: Annotated[
        Id | None, about("Whom it is for; also the tenant, unless the credential or `tenant_id` names one.")
    ] = None
    agent_role: Annotated[
        Annotated[str, Meta(max_length=64)] | None,
        about("The agent's name in the trace; its model, if CLASPER_ROLE_MODELS has one for it."),
    ] = None
    tenant_id: Annotated[
        Id | None, about("The platform key may name any tenant, a tenant's key only its own. Default: `default`.")
    ] = None
    workspace_id: Annotated[Slug | None, about("Recorded with the run. Default: `default`.")] = None
    environment: Annotated[Slug | None, about("Recorded with the run. Default: `default`.")] = None
    metadata: Annotated[dict[str, Any] | None, about("Kept with the trace.")] = None

    @classmethod
    def cross_field_errors(cls, values: Mapping[str, Any], given: Mapping[str, Any]) -> Errors:
        role = given.get("agent_role")
        if isinstance(role, str) and not is_role(role):
            return {"agent_role": ["A role has 1 to 64 letters, digits, _ or -."]}
        return {}


def history_errors(messages: Any) -> list[str]:
    """What is wrong with the turns of a conversation as a whole, each error with its place: `[2]: …`.

    Every tool turn must answer a call of the assistant turn before it, and every call must be answered once before
    the next user or assistant turn. Looks at the list as it came; what types say is not said again.
    """
    errors: list[str] = []
    waiting: dict[str, str] = {}
    answered: set[str] = set()
    for n, turn in enumerate(messages if isinstance(messages, list) else ()):
        if not isinstance(turn, dict):
            continue
        role = turn.get("role")
        errors += _content_errors(turn, f"[{n}]")
        if role == "tool":
            errors += _answer_errors(turn.get("tool_call_id"), f"[{n}]", waiting, answered)
        elif turn.get("tool_call_id") is not None:
            errors.append(f"[{n}].tool_call_id: Only a tool turn answers a call.")
        if role in ("user", "assistant"):
            errors += waiting.values()
            waiting, answered = {}, set()
        if calls := _calls(turn):
            errors += _call_errors(role, calls, f"[{n}].tool_calls", waiting)
    return errors + list(waiting.values())


def _content_errors(turn: Mapping[str, Any], place: str) -> list[str]:
    content = turn.get("content")
    if isinstance(content, list):
        return [f"{place}.content: Only text is taken, as one string; images and files are not supported."]
    if content is None and not (turn.get("role") == "assistant" and _calls(turn)):
        return [f"{place}.content: This field is required."]
    return []


def _answer_errors(call_id: Any, place: str, waiting: dict[str, str], answered: set[str]) -> list[str]:
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


def _call_errors(role: Any, calls: list[Any], place: str, waiting: dict[str, str]) -> list[str]:
    """Errors of the calls of one turn; those that are in order are put into `waiting`, with what to say if they stay.

    A call that has no id is left to the types.
    """
    if role != "assistant":
        return [f"{place}: Only an assistant turn calls tools."]
    errors = []
    for n, call in enumerate(calls):
        call_id = call.get("id") if isinstance(call, dict) else None
        if not isinstance(call_id, str):
            continue
        if call_id in waiting:
            errors.append(f"{place}[{n}].id: Another call of this turn has the same id.")
        else:
            waiting[call_id] = f"{place}[{n}]: No tool turn answers the call {call_id[:256]}."
    return errors


def _calls(turn: Mapping[str, Any]) -> list[Any]:
    calls = turn.get("tool_calls")
    return calls if isinstance(calls, list) else []


class SessionKey(NamedTuple):
    """The parts of a session key."""

    user_id: str
    role: str


def parse_session_key(text: str) -> SessionKey:
    """The parts of `user:{userId}:{role}`. A user id may contain colons; the role is what follows the last one.

    Raises ValueError that names the expected format.
    """
    kind, _, rest = text.partition(":")
    user_id, _, role = rest.rpartition(":")
    if kind != "user" or not user_id.strip():
        raise ValueError(_SESSION_FORMAT)
    if len(user_id) > MAX_USER_ID_CHARS or _FORBIDDEN.search(user_id):
        raise ValueError(
            f"{_SESSION_FORMAT} with a userId of at most {MAX_USER_ID_CHARS} characters and no control characters"
        )
    if not is_role(role):
        raise ValueError(f"{_SESSION_FORMAT} with a role of 1 to 64 letters, digits, _ or -")
    return SessionKey(user_id, role)


def _session_error(key: Any, user_id: Any) -> str:
    if not isinstance(key, str) or not key:
        return ""
    try:
        session = parse_session_key(key)
    except ValueError as error:
        return str(error)
    if isinstance(user_id, str) and session.user_id != user_id:
        return "user_id does not match the user in session_key."
    return ""


def _is_timezone(name: str) -> bool:
    try:
        ZoneInfo(name)
    except (KeyError, ValueError, OSError, ModuleNotFoundError):  # which one depends on what is wrong with the name
        return False
    return True
