"""The scaffold that `init_workspace` writes."""

from __future__ import annotations

from io import StringIO
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command
from pytest_django import Settings

from apps.workspaces.domain.composition import compose_static
from apps.workspaces.services import load_workspace


def init(*args: str) -> str:
    out = StringIO()
    call_command("init_workspace", *args, stdout=out)
    return out.getvalue()


def test_a_new_workspace_is_complete_and_works(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "workspace"
    text = init(str(target))
    assert "wrote  AGENTS.md" in text
    assert f"CLASPER_WORKSPACE={target}" in text
    read = load_workspace(target)
    names = ["AGENTS.md", "BOOT.md", "HEARTBEAT.md", "IDENTITY.md", "MEMORY.md", "SOUL.md", "TOOLS.md", "USER.md"]
    assert [path for path in read.files if "/" not in path] == names
    assert read.skipped == ()
    assert (target / "memory").is_dir()
    built = compose_static(read, role="support", skills_max_chars=100_000)
    assert [(use.name, use.tools) for use in built.skills] == [("order-status", ("orders:lookup",))]
    assert "support agent" in built.text
    assert sorted(path.name for path in target.rglob(".*")) == []


def test_existing_files_are_kept_unless_forced(tmp_path: Path) -> None:
    (tmp_path / "SOUL.md").write_text("Mine")
    (tmp_path / "other.txt").write_text("Mine too")
    assert "kept   SOUL.md" in init(str(tmp_path))
    assert (tmp_path / "SOUL.md").read_text() == "Mine"
    assert "wrote  SOUL.md" in init(str(tmp_path), "--force")
    assert (tmp_path / "SOUL.md").read_text() != "Mine"
    assert (tmp_path / "other.txt").read_text() == "Mine too"


def test_nothing_is_written_through_a_link(tmp_path: Path) -> None:
    target = tmp_path / "workspace"
    target.mkdir()
    (tmp_path / "precious").write_text("keep")
    (target / "SOUL.md").symlink_to(tmp_path / "precious")
    init(str(target), "--force")
    assert (tmp_path / "precious").read_text() == "keep"
    assert not (target / "SOUL.md").is_symlink()


def test_the_default_is_the_configured_workspace(tmp_path: Path, settings: Settings) -> None:
    settings.CLASPER_WORKSPACE = tmp_path / "configured"
    init()
    assert (tmp_path / "configured" / "AGENTS.md").exists()


def test_a_place_that_cannot_be_written_is_a_command_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(CommandError, match="Cannot write"):
        init(str(tmp_path / "file"))
