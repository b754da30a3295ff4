"""How the runs are described: they are no Django views, so nothing can be read off them but their bodies' Structs.

A new route of `apps.agents.urls.run_routes` must be described in RUNS, each field of its body in FIELDS.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from apps.agents.domain.compaction import CompactBody
from apps.agents.domain.llm_task import TaskBody
from apps.agents.domain.replay import ReplayBody
from apps.agents.domain.requests import SendBody

REF = "#/components/schemas/{name}"
BODIES: tuple[type[msgspec.Struct], ...] = (SendBody, TaskBody, CompactBody, ReplayBody)
_EVENTS = "text/event-stream"

_WHOSE = {
    "user_id": "Whom it is for; also the tenant, unless the credential or `tenant_id` names one.",
    "agent_role": "The agent's name in the trace; its model, if CLASPER_ROLE_MODELS gives it one.",
    "tenant_id": "The platform key may name any tenant, a tenant's key only its own. Default: `default`.",
    "workspace_id": "Where the run is booked. Default: `default`.",
    "environment": "Where the run is booked. Default: `default`.",
    "metadata": "Kept with the trace.",
}

FIELDS: Mapping[str, Mapping[str, str]] = {
    "SendBody": {
        "user_id": "Whom the run is for; also its tenant, unless the credential or `tenant_id` names one.",
        "session_key": "`user:{user_id}:{role}`. The role is the agent's name and picks its soul.",
        "message": "What the user says.",
        "messages": "Earlier turns of the conversation, oldest first.",
        "task_id": "An existing task of the control plane.",
        "task_title": "Without `task_id`: the title of the task to find or create. Default: CLASPER_DEFAULT_TASK.",
        "task_description": "Description of a task that is created.",
        "task_metadata": "Metadata of a task that is created.",
        "metadata": "Options of this request.",
        "webhook": "Where to report the end of the run.",
        "stream": "On `send`: answer with server-sent events.",
        "tenant_id": "The platform key may name any tenant, a tenant's key only its own.",
        "workspace_id": "Default: `metadata.workspace_id`, then `default`.",
        "environment": "Default: `metadata.environment`, then the workspace's default environment.",
    },
    "Turn": {
        "role": "Who said it.",
        "content": "What was said, as text. Only beside `tool_calls` it may be missing.",
        "tool_calls": "On an assistant's turn: the tools it called. Each call must be answered by a `tool` turn.",
        "tool_call_id": "On a `tool` turn: the call whose result it is.",
    },
    "TurnToolCall": {"id": "Named by the turn that answers it.", "type": "Always `function`.", "function": "The tool."},
    "CalledFunction": {"name": "The tool's name.", "arguments": "Its arguments, as JSON text."},
    "TaskBody": {
        "prompt": "What to do.",
        "input": "The data to do it with: any JSON.",
        "schema": "JSON Schema that the output must fulfil: draft 2020-12, or the one that `$schema` names.",
        "model": "The model to ask: a tier's name, `provider/model`, or `model`. Default: the default model.",
        "temperature": "How free the model is.",
        "max_tokens": "Most output tokens, within CLASPER_MAX_OUTPUT_TOKENS.",
        **_WHOSE,
    },
    "ReplayBody": {
        "model": "Another model: a tier's name, `provider/model`, or `model`.",
        "temperature": "Another temperature.",
        "max_tokens": "Another limit of output tokens.",
        "system_prompt": "Another system prompt; needs the scope `prompt:override`.",
        "prompt": "The same as `system_prompt`.",
        "workspace_version": "Another content that a run used, by its hash, or `current` for the files as they are.",
        "skill_versions": "Versions that skills must have in that content; otherwise the replay is refused.",
        "tools": "`recorded`: tools answer as they did then. `live`: they are called.",
    },
    "CompactBody": {
        "messages": "The conversation, oldest first.",
        "instructions": "What the summary should stress, in place of facts, decisions and open questions.",
        "keep_recent": "How many of the latest turns stay as they are; more where a tool call and its result meet.",
        "model": "The model to ask. Default: the cheap one (LLM_MODEL_CHEAP).",
        **_WHOSE,
    },
    "Webhook": {
        "url": "http or https; private, loopback and metadata addresses only if the operator lists them.",
        "secret": "Signs the body: `X-Clasper-Signature` is its lower-case hex HMAC-SHA256.",
        "headers": "Headers to send along.",
    },
    "Options": {
        "system_prompt": "Replaces the workspace's prompt; needs the scope `prompt:override`.",
        "kickoff_plan": "Also write the answer as a plan document.",
        "kickoff_note": "Steers a kickoff and heads its plan.",
        "plan_title": "Title of the plan document.",
        "timezone": "IANA name, for the time in the prompt.",
        "model": "The model to ask: a tier (`cheap`, `best`, …), `provider/model`, or `model`.",
        "workspace_id": "As the field of the same name in the body.",
        "environment": "As the field of the same name in the body.",
        "skip_backend": "Write nothing to the control plane; then no task is needed.",
        "skipSmartContext": "No smart selection of skills and memory for this request.",
        "forceIncludeSkills": "Skills that are in the prompt in any case.",
        "smart_context_max_skills": "Most skills that smart selection takes.",
        "smart_context_max_memory": "Most memory chunks that smart selection takes.",
        "smart_context_token_budget": "Most tokens that smart selection takes; 0 is no limit.",
    },
}
"""What the fields of a run's body mean; `requests.py` says what they may hold."""

_TEXT, _COUNT, _DOLLARS = {"type": "string"}, {"type": "integer", "minimum": 0}, {"type": "number", "minimum": 0}


def _object(properties: Mapping[str, Any], *, optional: Sequence[str] = (), description: str = "") -> dict[str, Any]:
    required = [name for name in properties if name not in optional]
    found: dict[str, Any] = {"type": "object", "properties": dict(properties), "required": required}
    return {"description": description, **found} if description else found


def ref(name: str) -> dict[str, str]:
    return {"$ref": REF.format(name=name)}


_ANSWER = {
    "task_id": {"type": ["string", "null"], "description": "Null when `skip_backend` left no task."},
    "trace_id": {"type": "string", "format": "uuid"},
    "response": {"type": "string", "description": "The agent's answer."},
    "usage": ref("RunUsage"),
    "cost": ref("RunCost"),
    "context_warning": {"type": "string", "description": "Present over CLASPER_CONTEXT_WARNING_THRESHOLD."},
    "skipped_backend": {"type": "boolean", "description": "Present when nothing was written to the control plane."},
}
_RARE = ("context_warning", "skipped_backend")

SCHEMAS: dict[str, Any] = {
    "Error": _object(
        {
            "error": {"type": "string", "description": "A sentence for people."},
            "code": {"type": "string", "description": "For programs.", "examples": ["invalid_request"]},
            "details": {
                "type": "object",
                "description": "Particulars. Validation gives `fieldErrors` and `formErrors`, all faults at once.",
                "additionalProperties": True,
            },
            "trace_id": {"type": "string", "description": "The run that ended so, if any."},
        },
        optional=("trace_id",),
        description="The one error body.",
    ),
    "RunUsage": _object(
        {"prompt_tokens": _COUNT, "completion_tokens": _COUNT, "total_tokens": _COUNT},
        description="Tokens of all model calls of the run; cached ones count as prompt tokens.",
    ),
    "RunCost": _object(
        {
            "model": _TEXT,
            "inputTokens": _COUNT,
            "outputTokens": _COUNT,
            "inputCost": _DOLLARS,
            "outputCost": _DOLLARS,
            "totalCost": _DOLLARS,
            "currency": {"const": "USD"},
        },
        description="Exact to the nano-dollar; inputCost and outputCost add up to totalCost.",
    ),
    "TaskAnswer": _object(
        {
            "status": {"const": "ok"},
            "output": {"description": "The JSON value."},
            "usage": ref("RunUsage"),
            "cost": ref("RunCost"),
            "validated": {"type": "boolean", "description": "There was a schema and the output fulfils it."},
            "trace_id": {"type": "string", "format": "uuid"},
            "validation_errors": {
                "type": "array",
                "items": _object({"path": _TEXT, "message": _TEXT}),
                "description": "Present when the output does not fulfil the schema, also not when asked again.",
            },
        },
        optional=("validation_errors",),
    ),
    "ReplayContext": _object(
        {
            "trace_id": _TEXT,
            "original_request": {"type": "object", "additionalProperties": True},
            "workspace_snapshot": _object(
                {
                    "hash": _TEXT,
                    "kept": {"type": "boolean", "description": "False when this content is not stored."},
                    "files": {"type": "object", "additionalProperties": _TEXT},
                }
            ),
            "skill_versions": {"type": "object", "additionalProperties": _TEXT},
            "kind": _TEXT,
            "model": _TEXT,
            "temperature": {"type": "number"},
            "tools": {"type": "array", "items": _TEXT},
        }
    ),
    "ReplayAnswer": {
        **_object(
            {
                "status": {"const": "ok"},
                "trace_id": {"type": "string", "format": "uuid", "description": "The new run's trace."},
                "replay_of": {"type": "string", "format": "uuid"},
                "response": _TEXT,
                "usage": ref("RunUsage"),
                "cost": ref("RunCost"),
                "overrides": {
                    "type": "object",
                    "additionalProperties": True,
                    "description": "What the body changed; of a prompt only `system_prompt_chars`.",
                },
                "diff": {
                    "type": ["object", "null"],
                    "additionalProperties": True,
                    "description": "As of `POST /traces/diff`; null when the first run is gone.",
                },
                "summary_text": {"type": ["string", "null"]},
            }
        ),
        "additionalProperties": True,
    },
    "CompactAnswer": _object(
        {
            "status": {"const": "ok"},
            "compacted_messages": {"type": "array", "items": ref("Turn")},
            "usage": ref("RunUsage"),
            "original_count": _COUNT,
            "compacted_count": _COUNT,
            "cost": {"oneOf": [ref("RunCost"), {"type": "null"}], "description": "Null when no model was asked."},
            "trace_id": {"type": ["string", "null"], "description": "Null when no model was asked."},
        }
    ),
    "RunAnswer": _object({"status": {"const": "ok"}, **_ANSWER}, optional=_RARE),
    "RunDone": _object(
        {"type": {"const": "done"}, **_ANSWER}, optional=_RARE, description="The data of a stream's `done` event."
    ),
}

TRACE_HEADER = {"X-Trace-Id": {"description": "The run's trace.", "schema": {"type": "string", "format": "uuid"}}}
RETRY_HEADER = {"Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer"}}}
REPLAYED_HEADER = {
    "Idempotency-Replayed": {
        "description": "Present when the answer is that of an earlier request.",
        "schema": {"const": "true"},
    }
}
PARAMETERS = {
    "X-Trace-Id": {
        "name": "X-Trace-Id",
        "in": "header",
        "description": "A UUID becomes the run's trace id; any other text is kept as the label `correlation_id`.",
        "schema": {"type": "string", "maxLength": 255},
    },
    "Idempotency-Key": {
        "name": "Idempotency-Key",
        "in": "header",
        "description": "The same key and body within 24 hours give the stored answer instead of another run. "
        "The same key with another body, or of a run under way, is a conflict. Streams ignore it.",
        "schema": {"type": "string", "maxLength": 255},
    },
}

_STREAM = (
    "Server-sent events. `start` opens; `chunk` carries text in `data`; `tool_call` and `tool_result` name a tool, its "
    "status and duration; the last is `done` (schema RunDone) or `error` (the error body). Each event's `data` is one "
    "line of JSON whose `type` is the event's name. A comment is sent every 15 seconds of silence."
)
_STREAM_EXAMPLE = (
    'event: start\ndata: {"type":"start"}\n\n'
    'event: chunk\ndata: {"type":"chunk","data":"Hello"}\n\n'
    'event: done\ndata: {"type":"done","trace_id":"…","task_id":"…","response":"Hello","usage":{…},"cost":{…}}\n\n'
)
_EVENT_STREAM = {_EVENTS: {"schema": {"type": "string"}, "example": _STREAM_EXAMPLE}}
_JSON_ANSWER = {"application/json": {"schema": ref("RunAnswer")}}

RUNS: Mapping[str, Mapping[str, Any]] = {
    "api/agents/send": {
        "operationId": "agents_send",
        "body": "SendBody",
        "summary": "Run an agent",
        "description": "Runs the agent to its answer, which is also posted to the control plane's task. With "
        f"`stream: true` the answer comes as in `/api/agents/stream`. {_STREAM}",
        "content": {**_JSON_ANSWER, **_EVENT_STREAM},
        "parameters": ("Idempotency-Key", "X-Trace-Id"),
    },
    "api/agents/stream": {
        "operationId": "agents_stream",
        "body": "SendBody",
        "summary": "Run an agent and stream its answer",
        "description": f"The same run as `/api/agents/send`. Leaving cancels it. {_STREAM}",
        "content": _EVENT_STREAM,
        "parameters": ("X-Trace-Id",),
    },
    "llm-task": {
        "operationId": "llm_task",
        "body": "TaskBody",
        "summary": "Run a structured task",
        "description": "Asks a model for one JSON value. An output that does not fulfil the schema is asked for once "
        "more; if it still does not, it is given with `validated: false` and the errors. An answer that is no JSON at "
        "all is the error `invalid_output`.",
        "content": {"application/json": {"schema": ref("TaskAnswer")}},
        "parameters": ("Idempotency-Key", "X-Trace-Id"),
    },
    "traces/<str:trace_id>/replay": {
        "GET": {
            "operationId": "traces_replay_context",
            "summary": "What a run was asked",
            "description": "The request as it is stored (redacted), the exact workspace content and the skills that it "
            "used. 409 `trace_stripped` when its texts are not kept any more.",
            "content": {"application/json": {"schema": ref("ReplayContext")}},
            "parameters": (),
        },
        "POST": {
            "operationId": "traces_replay",
            "body": "ReplayBody",
            "summary": "Run it again",
            "description": "Repeats a run, with the changes of the body, and tells the difference. Its tools answer "
            "from the recording unless `tools` is `live`; nothing is written to the control plane.",
            "content": {"application/json": {"schema": ref("ReplayAnswer")}},
            "parameters": ("Idempotency-Key", "X-Trace-Id"),
        },
    },
    "compact": {
        "operationId": "compact",
        "body": "CompactBody",
        "summary": "Compact a conversation",
        "description": "Replaces the older turns with a summary. The result may be sent as `messages` of the next run.",
        "content": {"application/json": {"schema": ref("CompactAnswer")}},
        "parameters": ("Idempotency-Key", "X-Trace-Id"),
    },
}
"""The routes of the runs, by their pattern."""
