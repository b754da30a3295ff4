"""The content that runs used, kept by its hash: written when a run first uses it, read when one is repeated."""

from __future__ import annotations

import time
from datetime import datetime

import msgspec

from apps.workspaces.domain.workspace import Workspace, assemble_workspace, parse_file
from apps.workspaces.models import WorkspaceContent, WorkspaceFile
from apps.workspaces.services import current_platform, load_workspace, raw_content
from clasper.core.db import Batch, Job
from clasper.core.errors import NotFound

KNOWN_SECONDS = 60.0
"""How long this process believes that a content is stored, before it makes sure again."""

_ADD_FILE = "INSERT INTO workspace_files (digest, content) VALUES (%s, %s) ON CONFLICT (digest) DO NOTHING"
_ADD_CONTENT = (
    "INSERT INTO workspace_contents (hash, created_at, files) VALUES (%s, %s, %s) ON CONFLICT (hash) DO NOTHING"
)

_known: dict[str, float] = {}


def keep_content(content_hash: str, *, now: datetime) -> Job[None] | None:
    """A job that stores the content of a workspace that was just loaded; None when it is stored already."""
    if _known.get(content_hash, 0.0) > time.monotonic():
        return None
    raw = raw_content(content_hash)
    if raw is None:
        return None
    files = msgspec.json.encode({path: file.digest for path, file in raw.files.items()}).decode()

    def job(batch: Batch) -> None:
        if batch.execute(_ADD_CONTENT, (content_hash, now, files)):
            for file in raw.files.values():
                batch.execute(_ADD_FILE, (file.digest, file.content))

    return job


def content_is_kept(content_hash: str) -> None:
    """Notes that the job of `keep_content` was committed."""
    _known[content_hash] = time.monotonic() + KNOWN_SECONDS


def forget_known() -> None:
    """Makes sure of every content again, as after the database was put back."""
    _known.clear()


def load_files(content_hash: str) -> dict[str, bytes]:
    """The files of a content, by path. Raises NotFound for a content that no run used."""
    found = WorkspaceContent.objects.filter(hash=content_hash).first()
    if found is None:
        forget_known()
        raise NotFound("No run used this workspace content.", details={"workspace_version": content_hash})
    digests: dict[str, str] = msgspec.json.decode(found.files)
    rows = WorkspaceFile.objects.filter(digest__in=set(digests.values())).values_list("digest", "content")
    contents = {digest: bytes(content) for digest, content in rows}
    return {path: contents[digest] for path, digest in digests.items()}


def load_content(content_hash: str) -> Workspace:
    """The workspace of a content, byte for byte as a run used it; its skills' gates are those of this machine, now.

    Raises NotFound for a content that no run used.
    """
    current = load_workspace()
    if current.hash == content_hash:
        return current
    files = load_files(content_hash)
    digests: dict[str, str] = msgspec.json.decode(WorkspaceContent.objects.get(hash=content_hash).files)
    return assemble_workspace(
        root=current.root,
        files={path: parse_file(path, content) for path, content in files.items()},
        digests=digests,
        platform=current_platform(),
    )
