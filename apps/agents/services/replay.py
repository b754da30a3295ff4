"""Replays: what a run was asked, the same run again with changes, and how the two differ.

A replay is a run like any other: with identity, permission, budget, redaction, trace and audit. It writes nothing to
the control plane. Its tools answer from the recording, unless live ones are asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, TypeVar

import msgspec

from apps.agents.delivery.idempotency import stored_response
from apps.agents.domain.answers import replay_answer
from apps.agents.domain.json_output import JsonOutput
from apps.agents.domain.replay import RecordedCall, Recording, ReplayBody
from apps.agents.domain.requests import Options, Turn
from apps.agents.domain.run import TEMPERATURE, RunFinished, RunRequest
from apps.agents.domain.schema import InvalidSchema, compile_schema
from apps.traces.domain.views import TraceDetail
from apps.traces.services.diffing import compare_traces
from apps.traces.services.reading import record_read
from apps.traces.services.replaying import ReplaySource, replay_source
from apps.workspaces.domain.workspace import Workspace
from apps.workspaces.services import load_workspace
from apps.workspaces.services.contents import load_content, load_files
from clasper.core.auth import Principal
from clasper.core.errors import Conflict, InvalidRequest, NotFound
from clasper.core.tenancy import TenantScope

T = TypeVar("T")

CURRENT = "current"
"""The workspace version that means the files as they are now."""


def describe_replay(*, tenants: TenantScope, trace_id: str, actor: str, now: datetime) -> dict[str, Any]:
    """What is needed to repeat a run: its request as stored, the workspace it used, its skills, model and tools.
    Audited as `trace.read`.

    Raises NotFound, and Conflict for a run that has not ended or whose texts are gone.
    """
    source = replay_source(tenants=tenants, trace_id=trace_id)
    trace, asked = source.trace, source.request
    record_read([trace], part="replay", actor=actor, now=now)
    files = _texts(trace.workspace_hash)
    return {
        "trace_id": trace.id,
        "original_request": {
            "message": asked.get("message", ""),
            "messages": asked.get("messages", []),
            "metadata": asked.get("metadata", {}),
        },
        "workspace_snapshot": {"hash": trace.workspace_hash, "kept": files is not None, "files": files or {}},
        "skill_versions": dict(trace.skill_versions),
        "kind": trace.kind,
        "model": f"{trace.provider}/{trace.model}",
        "temperature": asked.get("temperature", TEMPERATURE),
        "tools": [tool["name"] for tool in source.tools],
    }


def replay_request(
    *, principal: Principal, tenants: TenantScope, trace_id: str, body: ReplayBody, named: Mapping[str, Any]
) -> RunRequest:
    """The run again, with the changes of the body.

    Raises NotFound, Conflict as `describe_replay`, Conflict `workspace_missing` when the content it used is not kept,
    and InvalidRequest for a workspace version or skill version that is not known.
    """
    source = replay_source(tenants=tenants, trace_id=trace_id)
    trace, asked = source.trace, source.request
    instructions, metadata = asked.get("instructions"), asked.get("metadata") or {}
    # A run without a workspace has no options: whatever its metadata says, it meant nothing.
    options = _stored(metadata, Options) if instructions is None else Options(system_prompt=asked.get("system_prompt"))
    if body.override is not None and instructions is None:
        metadata = {**metadata, "system_prompt": body.override}
    return RunRequest(
        kind="replay",
        principal=principal,
        tenant_id=trace.tenant_id,
        workspace_id=trace.workspace_id,
        environment=trace.environment,
        user_id=trace.user_id,
        agent_role=trace.agent_id,
        message=asked.get("message", ""),
        history=tuple(_stored(asked.get("messages") or [], list[Turn])),
        system_prompt=options.system_prompt if body.override is None else body.override,
        instructions=instructions,
        temperature=asked.get("temperature", TEMPERATURE) if body.temperature is None else body.temperature,
        max_output_tokens=body.max_tokens or asked.get("max_tokens"),
        expects=_expects(asked.get("expects")),
        kickoff_plan=bool(options.kickoff_plan),
        kickoff_note=options.kickoff_note or "",
        timezone=options.timezone or "",
        model=body.model or f"{trace.provider}/{trace.model}",
        skip_backend=True,
        force_include_skills=tuple(options.force_include_skills or ()),
        replay_of=trace.id,
        workspace=_workspace(trace, body),
        as_of=_stored(asked["as_of"], datetime) if "as_of" in asked else trace.started_at,
        recording=_recording(source) if body.tools == "recorded" else None,
        options={**metadata, "replay": body.changes},
        answer=replay_answer,
        **named,
    )


def repeated_replay(*, tenants: TenantScope, named: Mapping[str, Any]) -> RunFinished | None:
    """The stored answer of the earlier replay with the same Idempotency-Key and body, if there is one."""
    if not named["idempotency_key"]:
        return None
    body = stored_response(
        tenants=tenants, key=named["idempotency_key"], fingerprint=named["fingerprint"], now=named["now"]
    )
    return RunFinished(body["trace_id"], body, replayed=True) if body is not None else None


def compare_with_original(*, tenants: TenantScope, original_id: str, replay_id: str) -> dict[str, Any]:
    """How the replay differs from the run it repeats, as `POST /traces/diff` tells it; nulls when that run is gone."""
    try:
        compared = compare_traces(tenants=tenants, base_id=original_id, compare_id=replay_id)
    except NotFound:
        return {"diff": None, "summary_text": None}
    return {"diff": compared.diff, "summary_text": compared.summary_text}


def _stored(value: Any, kind: type[T]) -> T:
    """A stored part of the request. Raises Conflict when redaction has left something that is no request any more."""
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise _spoilt() from error


def _spoilt() -> Conflict:
    return Conflict("What was stored of this run is no request any more.", code="trace_stripped")


def _texts(content_hash: str) -> dict[str, str] | None:
    """The files of a content as texts; None when the run used none or they are not kept."""
    if not content_hash:
        return None
    try:
        return {path: content.decode("utf-8", "replace") for path, content in load_files(content_hash).items()}
    except NotFound:
        return None


def _workspace(trace: TraceDetail, body: ReplayBody) -> Workspace | None:
    """The workspace of the run or of the body; None for a run that used none."""
    if not trace.workspace_hash:
        given = [name for name in ("workspace_version", "skill_versions") if getattr(body, name) is not None]
        if given:
            raise InvalidRequest(field_errors={name: ["The run used no workspace."] for name in given})
        return None
    version = body.workspace_version or trace.workspace_hash
    try:
        workspace = load_workspace(fresh=True) if version == CURRENT else load_content(version)
    except NotFound as error:
        if body.workspace_version is not None:
            raise InvalidRequest(field_errors={"workspace_version": [error.message]}) from error
        raise Conflict(
            "The workspace content that this run used is not kept. To repeat it with the files as they are now, give "
            f"workspace_version: {CURRENT}.",
            code="workspace_missing",
            details={"workspace_hash": trace.workspace_hash},
        ) from error
    there = {skill.file.name: skill.file.version for skill in workspace.enabled_skills}
    faults = [
        f"{name}: {version} is not in this workspace version, which has {there.get(name, 'no such skill')}."
        for name, version in (body.skill_versions or {}).items()
        if there.get(name) != version
    ]
    if faults:
        raise InvalidRequest(field_errors={"skill_versions": faults})
    return workspace


def _expects(stored: Mapping[str, Any] | None) -> JsonOutput | None:
    if stored is None:
        return None
    try:
        return JsonOutput(compile_schema(stored["schema"]) if stored.get("schema") is not None else None)
    except InvalidSchema as error:
        raise _spoilt() from error


def _recording(source: ReplaySource) -> Recording:
    calls = [
        RecordedCall(step.name, step.input, step.status, step.output)
        for step in source.trace.steps
        if step.type == "tool_call"
    ]
    return Recording(source.tools, calls)
