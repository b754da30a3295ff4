"""Replays: what a run was asked, the same run again with changes, and how the two differ.

A replay is a run like any other: with identity, permission, budget, redaction, trace and audit. It writes nothing to
the control plane. Its tools answer from the recording, unless live ones are asked for.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import msgspec

from apps.agents.delivery.idempotency import stored_result
from apps.agents.domain.replay import RecordedCall, Recording, ReplayBody
from apps.agents.domain.responses import OriginalRequest, ReplayContext, WorkspaceSnapshot
from apps.agents.domain.run import Idempotency, ReplaySource, RunFinished, RunRequest, RunScope, TraceRef
from apps.agents.domain.schema import InvalidSchema
from apps.agents.domain.stored_request import StoredRequest, read_request
from apps.agents.services.runs import collect
from apps.traces.domain.views import TraceDetail
from apps.traces.services.diffing import compare_traces
from apps.traces.services.reading import record_read
from apps.traces.services.replaying import RecordedRun, replay_source
from apps.workspaces.domain.release import Release
from apps.workspaces.services.releases import current_release, release_of_snapshot
from apps.workspaces.services.snapshots import load_files
from clasper.core.auth import Principal
from clasper.core.errors import ClasperError, Conflict, InvalidRequest, NotFound
from clasper.core.tenancy import TenantScope
from clasper.core.threads import in_thread

CURRENT = "current"
"""The workspace version that means the files as they are now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayOutcome:
    """A replay that ended well, and how it differs from the run it repeats (None when that run is gone)."""

    finished: RunFinished
    diff: dict[str, Any] | None = None
    summary_text: str | None = None


async def replay(
    *,
    principal: Principal,
    tenants: TenantScope,
    trace_id: str,
    body: ReplayBody,
    trace: TraceRef,
    idempotency: Idempotency | None,
    now: datetime,
) -> ReplayOutcome:
    """Runs the trace again with the changes of the body, and compares the two.

    Raises NotFound, Conflict as `describe_replay`, Conflict `workspace_missing` when the snapshot that it used is
    not stored, InvalidRequest for a workspace version or skill version that is not known, and what the run raises.
    """
    try:
        request, release = await in_thread(_replay_request, principal, tenants, trace_id, body, trace, idempotency, now)
    except (NotFound, Conflict):
        # Retention may have removed what a repeated request repeats; its answer is still stored.
        finished = await in_thread(_stored, tenants, idempotency, now)
        if finished is None:
            raise
    else:
        finished = await _collect(request, release, replay_of=trace_id)
    try:
        compared = await in_thread(
            compare_traces, tenants=tenants, base_id=trace_id, compare_id=finished.result.trace_id
        )
    except NotFound:
        return ReplayOutcome(finished=finished)
    return ReplayOutcome(finished=finished, diff=compared.diff, summary_text=compared.summary_text)


def describe_replay(*, tenants: TenantScope, trace_id: str, actor: str, now: datetime) -> ReplayContext:
    """What is needed to repeat a run: its request as stored, the workspace it used, its skills, model and tools.
    Audited as `trace.read`.

    Raises NotFound, and Conflict for a run that has not ended or whose texts are gone.
    """
    source = replay_source(tenants=tenants, trace_id=trace_id)
    trace, asked = source.trace, _read(source)
    record_read([trace], part="replay", actor=actor, now=now)
    files = _texts(trace)
    return ReplayContext(
        trace_id=trace.id,
        original_request=OriginalRequest(message=asked.message, messages=asked.messages, metadata=asked.metadata),
        workspace_snapshot=WorkspaceSnapshot(hash=trace.snapshot_hash, kept=files is not None, files=files or {}),
        skill_versions=trace.skill_versions,
        kind=trace.kind,
        model=f"{trace.provider}/{trace.model}",
        temperature=asked.model_options(model="").temperature,
        tools=[tool["name"] for tool in source.tools],
    )


async def _collect(request: RunRequest, release: Release | None, *, replay_of: str) -> RunFinished:
    try:
        return await collect(request, release)
    except ClasperError as error:
        error.details["replay_of"] = replay_of
        raise


def _replay_request(
    principal: Principal,
    tenants: TenantScope,
    trace_id: str,
    body: ReplayBody,
    trace: TraceRef,
    idempotency: Idempotency | None,
    now: datetime,
) -> tuple[RunRequest, Release | None]:
    source = replay_source(tenants=tenants, trace_id=trace_id)
    original, asked = source.trace, _read(source)
    model = body.model or f"{original.provider}/{original.model}"
    try:
        conversation, options = asked.conversation(), asked.model_options(model=model)
        as_of = asked.began(original.started_at)
    except (msgspec.ValidationError, InvalidSchema, ValueError) as error:
        raise _unreadable() from error
    metadata = asked.metadata
    if body.override is not None:
        conversation = replace(conversation, system_prompt=body.override)
        if conversation.instructions is None:
            metadata = {**metadata, "system_prompt": body.override}
    if body.temperature is not None:
        options = replace(options, temperature=body.temperature)
    if body.max_tokens is not None:
        options = replace(options, max_output_tokens=body.max_tokens)
    release = _release(original, body)
    request = RunRequest(
        kind="replay",
        scope=RunScope(
            principal=principal,
            tenant_id=original.tenant_id,
            workspace_id=original.workspace_id,
            environment=original.environment,
            user_id=original.user_id,
            agent_role=original.agent_id,
        ),
        trace=trace,
        now=now,
        conversation=conversation,
        options=options,
        idempotency=idempotency,
        replay=ReplaySource(
            trace_id=original.id,
            overrides=body.changes,
            as_of=as_of,
            recording=None if body.tools == "live" else _recording(source),
        ),
        metadata=metadata,
    )
    return request, release


def _stored(tenants: TenantScope, idempotency: Idempotency | None, now: datetime) -> RunFinished | None:
    """The stored result of an earlier replay with the same Idempotency-Key and body, if there is one."""
    if idempotency is None:
        return None
    result = stored_result(tenants=tenants, key=idempotency.key, fingerprint=idempotency.fingerprint, now=now)
    return RunFinished(result, repeated=True) if result is not None else None


def _read(source: RecordedRun) -> StoredRequest:
    try:
        stored = read_request(source.request)
    except msgspec.ValidationError as error:
        raise _unreadable() from error
    if source.trace.replay_of:
        # Version 1.1 kept a replay's overrides among its metadata, where the caller had not put them.
        stored.metadata.pop("replay", None)
    return stored


def _unreadable() -> Conflict:
    return Conflict("The stored request was redacted and can no longer be replayed.", code="trace_stripped")


def _texts(trace: TraceDetail) -> dict[str, str] | None:
    """The files that the run used, as texts; None when it used none or they are not kept."""
    if not trace.snapshot_hash:
        return None
    try:
        files = load_files(trace.snapshot_hash, tenant_id=trace.tenant_id)
    except NotFound:
        return None
    return {path: content.decode("utf-8", "replace") for path, content in files.items()}


def _release(trace: TraceDetail, body: ReplayBody) -> Release | None:
    """The release of the run, or the version that the body names; None for a run that used no workspace."""
    if not trace.snapshot_hash:
        given = [name for name in ("workspace_version", "skill_versions") if getattr(body, name) is not None]
        if given:
            raise InvalidRequest(field_errors={name: ["The run used no workspace."] for name in given})
        return None
    version = body.workspace_version or trace.snapshot_hash
    try:
        release = current_release() if version == CURRENT else release_of_snapshot(version, tenant_id=trace.tenant_id)
    except NotFound as error:
        if body.workspace_version is not None:
            raise InvalidRequest(field_errors={"workspace_version": [error.message]}) from error
        raise Conflict(
            "The workspace snapshot that this run used is not stored. To repeat it with the current files, send "
            f"workspace_version: {CURRENT}.",
            code="workspace_missing",
            details={"workspace_hash": trace.snapshot_hash},
        ) from error
    _check_skills(release, body)
    return release


def _check_skills(release: Release, body: ReplayBody) -> None:
    found = {skill.file.name: skill.file.version for skill in release.workspace.enabled_skills}
    errors = [
        f"{name}: {version} is not in this workspace version, which has {found.get(name, 'no such skill')}."
        for name, version in (body.skill_versions or {}).items()
        if found.get(name) != version
    ]
    if errors:
        raise InvalidRequest(field_errors={"skill_versions": errors})


def _recording(source: RecordedRun) -> Recording:
    calls = [
        RecordedCall(step.name, step.input, step.status, step.output)
        for step in source.trace.steps
        if step.type == "tool_call"
    ]
    return Recording(source.tools, calls)
