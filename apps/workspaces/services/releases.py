"""Which release a run uses."""

from __future__ import annotations

from datetime import datetime

from apps.workspaces.domain.release import Release
from apps.workspaces.services import load_workspace
from apps.workspaces.services.snapshots import SHARED, load_snapshot, store_snapshot


async def resolve_release(*, tenant_id: str, workspace_id: str, environment: str, now: datetime) -> Release:
    """The release of a workspace's environment, for a tenant: what the directory CLASPER_WORKSPACE contains.

    Its snapshot is stored before it is returned, so that a trace may name it. Raises Unavailable when the database is.
    """
    release = current_release()
    await store_snapshot(release.workspace.snapshot_hash, tenant_id=SHARED, now=now)
    return release


def current_release() -> Release:
    """What the directory contains now. Only `resolve_release` makes sure that its snapshot is stored."""
    return Release(load_workspace())


def release_of_snapshot(snapshot_hash: str, *, tenant_id: str) -> Release:
    """The release that an earlier run of the tenant used. Raises NotFound when its snapshot is not stored."""
    return Release(load_snapshot(snapshot_hash, tenant_id=tenant_id))
