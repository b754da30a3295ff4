"""Starting a run with the release that its scope uses, and running it to its end."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from apps.agents import engine
from apps.agents.domain.run import RunEvent, RunFinished, RunRequest
from apps.workspaces.domain.release import Release
from apps.workspaces.services.releases import resolve_release, store_release


async def start(request: RunRequest, release: Release | None = None) -> AsyncGenerator[RunEvent, None]:
    """The events of a run, which begins when the first one is awaited; close the generator to cancel the run.

    It uses the given release, else the one of its scope; with instructions of its own it uses none. Raises what
    `resolve_release` raises; the events raise what `engine.run` raises.
    """
    if release is not None:
        await store_release(release, now=request.now)
    elif request.conversation.instructions is None:
        scope = request.scope
        release = await resolve_release(
            tenant_id=scope.tenant_id, workspace_id=scope.workspace_id, environment=scope.environment, now=request.now
        )
    return engine.run(request, release)


async def collect(request: RunRequest, release: Release | None = None) -> RunFinished:
    """Runs to the end, as `start`. Raises the ClasperError that a run without an answer ends with."""
    async with aclosing(await start(request, release)) as events:
        async for event in events:
            if isinstance(event, RunFinished):
                return event
    raise AssertionError("a run ends with RunFinished or with an error")
