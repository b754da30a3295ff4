"""Loading a workspace and completing its first run, on real files."""

from __future__ import annotations

import os
import time
from datetime import datetime
from pathlib import Path

import pytest
from pytest_django import Settings

from apps.workspaces.domain.composition import memory_block
from apps.workspaces.services import (
    BootStatus,
    boot_status,
    complete_boot,
    context_report,
    current_platform,
    load_workspace,
)
from clasper.core.errors import NotFound, Unavailable
from tests.agents.prompts import whole_prompt


def put(root: Path, path: str, text: str) -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text)


def test_the_default_is_the_configured_workspace(tmp_path: Path, settings: Settings) -> None:
    settings.CLASPER_WORKSPACE = tmp_path
    put(tmp_path, "SOUL.md", "Soul")
    read = load_workspace(fresh=True)
    assert (read.root, read.text("SOUL.md"), read.missing) == (str(tmp_path), "Soul", False)


def test_a_missing_workspace_is_empty(tmp_path: Path, now: datetime) -> None:
    read = load_workspace(tmp_path / "none")
    assert (read.missing, dict(read.files), read.skills) == (True, {}, ())
    assert boot_status(root=tmp_path / "none") == BootStatus(has_boot=False, is_complete=False, content=None)
    with pytest.raises(NotFound):
        complete_boot(actor="key:1", now=now, root=tmp_path / "none")


def test_the_snapshot_stays_until_a_file_changes(tmp_path: Path) -> None:
    put(tmp_path, "skills/a/SKILL.md", "A")
    put(tmp_path, "skills/b/SKILL.md", "B")
    first = load_workspace(tmp_path)
    assert load_workspace(tmp_path) is load_workspace(tmp_path, fresh=True) is first
    put(tmp_path, "skills/b/SKILL.md", "Changed")
    second = load_workspace(tmp_path, fresh=True)
    assert second.skills[1].file.instructions == "Changed"
    assert second.skills[0].file is first.skills[0].file
    assert second.snapshot_hash != first.snapshot_hash


def test_memory_written_after_the_first_read_is_seen(tmp_path: Path, now: datetime) -> None:
    assert memory_block(load_workspace(tmp_path), now.date()) == ""
    put(tmp_path, f"memory/{now:%Y-%m-%d}.md", "Later.")
    assert memory_block(load_workspace(tmp_path, fresh=True), now.date()).endswith("\n\nLater.")


def test_two_workspaces_do_not_mix(tmp_path: Path) -> None:
    put(tmp_path, "one/skills/a/SKILL.md", "One")
    put(tmp_path, "two/skills/a/SKILL.md", "Two")
    texts = [load_workspace(tmp_path / name).skills[0].file.instructions for name in ("one", "two")]
    assert texts == ["One", "Two"]


def test_gates_follow_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, "skills/a/SKILL.md", "---\nmetadata: {clasper: {requires: {env: GATE_OF_A_TEST}}}\n---\n")
    monkeypatch.setenv("GATE_OF_A_TEST", "")
    assert load_workspace(tmp_path).skills[0].gate_reason == "Missing env: GATE_OF_A_TEST"
    monkeypatch.setenv("GATE_OF_A_TEST", "1")
    assert load_workspace(tmp_path, fresh=True).skills[0].enabled


def test_this_machine_as_gates_see_it(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings.CLASPER_DEFAULT_TASK = "Inbox"
    program = tmp_path / "clasper-test-program"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    platform = current_platform()
    assert platform.has_bin("clasper-test-program")
    assert not platform.has_bin("no-such-program-anywhere")
    assert not platform.has_bin(str(program))
    assert [platform.config(name) for name in ("default.task", "DEFAULT_TASK", "clasper-default-task")] == [True] * 3
    assert not platform.config("no.such.setting")


def test_booting_is_completed_once(tmp_path: Path, now: datetime, store: None) -> None:
    put(tmp_path, "BOOT.md", "## First Run Setup\n\nDo this.\n")
    before = load_workspace(tmp_path)
    assert boot_status(root=tmp_path) == BootStatus(
        has_boot=True, is_complete=False, content="## First Run Setup\n\nDo this.\n"
    )
    assert complete_boot(actor="key:1", now=now, root=tmp_path) == BootStatus(
        has_boot=True, is_complete=True, content=None
    )
    marker = tmp_path / ".boot-complete"
    assert marker.read_text() == "2026-02-10T12:00:00.000Z key:1\n"
    complete_boot(actor="key:2", now=now, root=tmp_path)
    assert "key:1" in marker.read_text()
    assert load_workspace(tmp_path).snapshot_hash == before.snapshot_hash
    marker.unlink()
    assert not boot_status(root=tmp_path).is_complete


def test_an_empty_boot_file_is_none(tmp_path: Path, now: datetime) -> None:
    put(tmp_path, "BOOT.md", " \n")
    assert not boot_status(root=tmp_path).has_boot
    with pytest.raises(NotFound):
        complete_boot(actor="key:1", now=now, root=tmp_path)


def test_a_marker_that_cannot_be_written_is_an_error(tmp_path: Path, now: datetime, store: None) -> None:
    put(tmp_path, "BOOT.md", "Do this.")
    (tmp_path / ".boot-complete").symlink_to("no/such/place")
    complete_boot(actor="key:1", now=now, root=tmp_path)
    (tmp_path / ".boot-complete").unlink()
    (tmp_path / ".boot-complete").symlink_to(".boot-complete")
    complete_boot(actor="key:1", now=now, root=tmp_path)
    assert not (tmp_path / ".boot-complete").is_symlink()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_workspace_says_so(tmp_path: Path, now: datetime) -> None:
    put(tmp_path, "BOOT.md", "Do this.")
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(Unavailable, match="cannot be written"):
            complete_boot(actor="key:1", now=now, root=tmp_path)
    finally:
        tmp_path.chmod(0o700)


def test_five_hundred_skills_load_and_stay_bounded(tmp_path: Path, now: datetime) -> None:
    block = "---\nname: skill-{n}\ndescription: Does {n}\nmetadata: {{clasper: {{tools: 't:{n}'}}}}\n---\n"
    for n in range(500):
        put(tmp_path, f"skills/s{n}/SKILL.md", block.format(n=n) + f"Rule {n}. " * 300)
    read = load_workspace(tmp_path)
    assert len(read.enabled_skills) == 500
    built = whole_prompt(read, local_now=now, with_time=True)
    assert len(built.text) < 125_000
    assert context_report(read).system_prompt_chars < 125_000
    started = time.process_time()
    for _ in range(1_000):
        load_workspace(tmp_path)
    assert time.process_time() - started < 2
