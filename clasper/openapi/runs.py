"""How the runs are described: they are not Django views, so their operations are listed here, with their Structs.

A new route of `apps.agents.urls.run_routes` must have an entry in RUNS.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from apps.agents.domain.compaction import CompactBody
from apps.agents.domain.llm_task import TaskBody
from apps.agents.domain.replay import ReplayBody
from apps.agents.domain.requests import SendBody
from apps.agents.domain.responses import (
    AgentAnswer,
    CompactResponse,
    ReplayContext,
    ReplayResponse,
    SendResponse,
    TaskResponse,
)

DONE_EVENT = AgentAnswer
"""The data of a stream's last event, apart from its `type`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOperation:
    """A method of a run's route; without a `body` it starts no run."""

    operation_id: str
    summary: str
    description: str
    body: type[msgspec.Struct] | None = None
    response: type[msgspec.Struct] | None = None
    streams: bool = False


_STREAM = (
    "Server-sent events. `start` opens; `chunk` carries text in `data`; `tool_call` and `tool_result` name a tool, its "
    "status and duration; the last is `done` (schema AgentAnswer) or `error` (schema ErrorBody). Each event's `data` "
    "is one line of JSON whose `type` is the event's name. A comment is sent every 15 seconds of silence."
)
STREAM_EXAMPLE = (
    'event: start\ndata: {"type":"start"}\n\n'
    'event: chunk\ndata: {"type":"chunk","data":"Hello"}\n\n'
    'event: done\ndata: {"type":"done","trace_id":"…","task_id":"…","response":"Hello","usage":{…},"cost":{…}}\n\n'
)

RUNS: Mapping[str, Mapping[str, RunOperation]] = {
    "api/agents/send": {
        "POST": RunOperation(
            operation_id="agents_send",
            summary="Run an agent",
            description="Runs the agent to its answer, which is also posted to the control plane's task. With "
            f"`stream: true` the answer comes as in `/api/agents/stream`. {_STREAM}",
            body=SendBody,
            response=SendResponse,
            streams=True,
        )
    },
    "api/agents/stream": {
        "POST": RunOperation(
            operation_id="agents_stream",
            summary="Run an agent and stream its answer",
            description="The same run as `/api/agents/send`. It is cancelled when the client disconnects. A repeated "
            f"request (Idempotency-Key) streams the stored answer as one chunk. {_STREAM}",
            body=SendBody,
            streams=True,
        )
    },
    "llm-task": {
        "POST": RunOperation(
            operation_id="llm_task",
            summary="Run a structured task",
            description="Asks a model for one JSON value. An output that does not fulfil the schema is asked for once "
            "more; if it still does not, it is returned with `validated: false` and the errors. An answer that is not "
            "JSON at all is the error `invalid_output`.",
            body=TaskBody,
            response=TaskResponse,
        )
    },
    "compact": {
        "POST": RunOperation(
            operation_id="compact",
            summary="Compact a conversation",
            description="Replaces the older turns with a summary. The result may be sent as `messages` of the next "
            "run.",
            body=CompactBody,
            response=CompactResponse,
        )
    },
    "traces/<str:trace_id>/replay": {
        "GET": RunOperation(
            operation_id="traces_replay_context",
            summary="What a run was asked",
            description="The request as it is stored (redacted), the workspace snapshot and the skills that it "
            "used. 409 `trace_stripped` when its texts are no longer kept.",
            response=ReplayContext,
        ),
        "POST": RunOperation(
            operation_id="traces_replay",
            summary="Run it again",
            description="Repeats a run, with the changes of the body, and describes the difference. Its tools answer "
            "from the recording unless `tools` is `live`; nothing is written to the control plane.",
            body=ReplayBody,
            response=ReplayResponse,
        ),
    },
}
"""The operations of the runs, by their route's pattern."""
