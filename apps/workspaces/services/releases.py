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
    await store_release(release, now=now)
    return release


async def store_release(release: Release, *, now: datetime) -> None:
    """Stores the snapshot of a release that was just loaded from the directory, unless it is stored already.

    Raises Unavailable when the database is.
    """
    await store_snapshot(release.workspace.snapshot_hash, tenant_id=SHARED, now=now)


def current_release() -> Release:
    """What the directory contains now. Its snapshot may not be stored yet: see `store_release`."""
    return Release(load_workspace())


def release_of_snapshot(snapshot_hash: str, *, tenant_id: str) -> Release:
    """The release that an earlier run of the tenant used. Raises NotFound when its snapshot is not stored."""
    return Release(load_snapshot(snapshot_hash, tenant_id=tenant_id))
