"""What workspaces do: load the files of an agent, report their sizes, and the first-run instructions."""

from __future__ import annotations

import logging
import os
import shutil
import sys
import threading
import time
from datetime import datetime
from functools import cache, lru_cache
from pathlib import Path
from typing import Annotated

from django.conf import settings

from apps.audit.services.recording import record_audit
from apps.skills.domain.gates import Platform
from apps.workspaces.domain.report import ContextReport, report_context
from apps.workspaces.domain.workspace import Parsed, Workspace, assemble_workspace, parse_file, regate
from clasper.core.clock import iso
from clasper.core.db import atomic_batch
from clasper.core.errors import NotFound, Unavailable
from clasper.core.schemas import Resource, about
from clasper.gateways.workspace_files import RawWorkspace, WorkspaceReader, write_boot_marker

logger = logging.getLogger("clasper.workspaces")

GATE_SECONDS = 5.0
"""How long the result of gates is kept: programs and variables appear rarely, and looking for programs is slow."""

BOOT_FILE = "BOOT.md"


class BootStatus(Resource, frozen=True, kw_only=True, rename="camel"):
    """First-run instructions."""

    has_boot: bool
    is_complete: Annotated[bool, about(example=False)]
    content: Annotated[str | None, about("BOOT.md until it is completed, then null.", example="## First run")]


class WorkspaceLoader:
    """One workspace directory, kept parsed. A file is parsed again only when it has changed."""

    def __init__(self, reader: WorkspaceReader) -> None:
        self._reader = reader
        self._lock = threading.Lock()
        self._parsed: dict[str, tuple[str, Parsed]] = {}
        self._loaded: tuple[RawWorkspace, Workspace, float] | None = None
        self._latest: tuple[tuple[str, RawWorkspace], ...] = ()

    def raw(self, snapshot_hash: str) -> RawWorkspace | None:
        """The files of the snapshot with this hash, if it is one of the two that were loaded last."""
        return dict(self._latest).get(snapshot_hash)

    def load(self, *, fresh: bool = False) -> Workspace:
        """The workspace as it is; `fresh` also notices a change of the last milliseconds."""
        raw = self._reader.read(fresh=fresh)
        loaded = self._loaded
        if loaded is not None and loaded[0] is raw and not fresh and time.monotonic() < loaded[2]:
            return loaded[1]
        with self._lock:
            return self._update(raw)

    def _update(self, raw: RawWorkspace) -> Workspace:
        platform = current_platform()
        if self._loaded is not None and self._loaded[0] is raw:
            workspace = regate(self._loaded[1], platform)
        else:
            workspace = self._assemble(raw, platform)
            # Another thread may load a change before a run has stored what it loaded.
            self._latest = (*self._latest[-1:], (workspace.snapshot_hash, raw))
        self._loaded = (raw, workspace, time.monotonic() + GATE_SECONDS)
        return workspace

    def _assemble(self, raw: RawWorkspace, platform: Platform) -> Workspace:
        known, self._parsed = self._parsed, {}
        for path, file in raw.files.items():
            digest, parsed = known.get(path, ("", None))
            if parsed is None or digest != file.digest:
                parsed = parse_file(path, file.content)
            self._parsed[path] = (file.digest, parsed)
        for path, reason in raw.skipped:
            logger.warning("workspace file %s is skipped: %s", path, reason)
        return assemble_workspace(
            root=raw.root,
            files=self._parsed,
            platform=platform,
            missing=raw.missing,
            boot_complete=raw.boot_complete,
            skipped=raw.skipped,
        )


@lru_cache(maxsize=128)
def _loader(root: Path) -> WorkspaceLoader:
    return WorkspaceLoader(WorkspaceReader(root))


def load_workspace(root: Path | None = None, *, fresh: bool = False) -> Workspace:
    """The workspace at `root` (default: CLASPER_WORKSPACE), at most milliseconds old; `fresh` checks every file now.

    A missing directory is an empty workspace with `missing` set. `root` comes from settings, never from a caller.
    """
    return _loader(root or settings.CLASPER_WORKSPACE).load(fresh=fresh)


def raw_workspace(snapshot_hash: str, root: Path | None = None) -> RawWorkspace | None:
    """The files of a snapshot that was just loaded; None when the directory has changed twice since."""
    return _loader(root or settings.CLASPER_WORKSPACE).raw(snapshot_hash)


def current_platform() -> Platform:
    """This machine, as the gates of skills see it."""
    env = frozenset(name for name, value in os.environ.items() if value)
    return Platform(
        os=sys.platform,
        env=env,
        has_bin=cache(lambda name: os.sep not in name and shutil.which(name) is not None),
        config=_has_config,
    )


def _has_config(name: str) -> bool:
    """Whether the setting is set: `default.task`, `DEFAULT_TASK` and `CLASPER_DEFAULT_TASK` mean the same one."""
    key = name.upper().replace(".", "_").replace("-", "_")
    return any(bool(getattr(settings, candidate, None)) for candidate in (key, f"CLASPER_{key}"))


def context_report(workspace: Workspace, role: str = "") -> ContextReport:
    """The sizes of the files and the prompt that `role` gets."""
    return report_context(workspace, role=role, skills_max_chars=settings.CLASPER_SKILLS_MAX_CHARS)


def boot_status(*, root: Path | None = None) -> BootStatus:
    """Whether there are first-run instructions and whether they are done."""
    workspace = load_workspace(root, fresh=True)
    text = workspace.files[BOOT_FILE].text if workspace.text(BOOT_FILE) else ""
    is_open = bool(text) and not workspace.boot_complete
    return BootStatus(has_boot=bool(text), is_complete=workspace.boot_complete, content=text if is_open else None)


def complete_boot(*, actor: str, now: datetime, root: Path | None = None) -> BootStatus:
    """Marks the first-run instructions as done. Repeating it changes nothing.

    Raises NotFound when there are none and Unavailable when the marker cannot be written.
    """
    status = boot_status(root=root)
    if not status.has_boot:
        raise NotFound("The workspace has no BOOT.md.")
    if not status.is_complete:
        try:
            write_boot_marker(root or settings.CLASPER_WORKSPACE, f"{iso(now)} {actor}\n")
        except OSError as error:
            raise Unavailable("The workspace cannot be written.") from error
        with atomic_batch() as batch:
            record_audit(batch, tenant_id="", event_type="boot.complete", actor=actor, now=now)
    return boot_status(root=root)
