"""The prompt: its order, its bounds, and which skills may grant tools."""

from __future__ import annotations

import hashlib
from datetime import date, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apps.skills.domain.gates import Platform
from apps.workspaces.domain.composition import (
    CATALOGUE_MAX_CHARS,
    Prompt,
    SkillUse,
    compose_static,
    finish,
    memory_block,
    time_block,
)
from apps.workspaces.domain.workspace import Workspace, assemble_workspace, parse_file
from apps.workspaces.services import load_workspace
from tests.agents.prompts import whole_prompt

BARE = Platform(os="linux", env=frozenset(), has_bin=lambda name: False, config=lambda name: False)
DEMO = Path(__file__).parents[2] / "fixtures" / "workspaces" / "demo"
BERLIN = ZoneInfo("Europe/Berlin")
NEW_YORK = ZoneInfo("America/New_York")


def workspace(files: dict[str, str]) -> Workspace:
    return assemble_workspace(
        root="/srv/w",
        files={
            path: (hashlib.sha256(text.encode()).hexdigest(), parse_file(path, text.encode()))
            for path, text in files.items()
        },
        platform=BARE,
    )


def prompt(
    files: dict[str, str], *, role: str = "agent", limit: int = 100_000, force: tuple[str, ...] = (), time: bool = False
) -> Prompt:
    return whole_prompt(
        workspace(files),
        role=role,
        local_now=datetime(2026, 11, 22, 2, 59, tzinfo=BERLIN),
        timezone="Europe/Berlin",
        with_time=time,
        skills_max_chars=limit,
        force_include=force,
    )


def skill(name: str, body: str = "Do it.", *, always: bool = False, tools: str = "", description: str = "") -> str:
    return (
        f"---\nname: {name}\nversion: 1.0.0\ndescription: '{description}'\n"
        f"metadata: {{clasper: {{always: {str(always).lower()}, tools: '{tools}'}}}}\n---\n{body}\n"
    )


FULL = {
    "SOUL.md": "\nYou are the common soul.\n\n",
    "souls/support.md": "You are support.",
    "AGENTS.md": "Rule one.\n",
    "IDENTITY.md": "Name: Juniper",
    "TOOLS.md": "Use them well.",
    "USER.md": "A hiker.",
    "HEARTBEAT.md": "HEARTBEAT TEXT",
    "BOOT.md": "BOOT TEXT",
    "MEMORY.md": "Shops close on Sundays.",
    "memory/2026-11-21.md": "It snowed.",
    "memory/2026-11-22.md": "It thawed.",
    "memory/2026-11-20.md": "OLD TEXT",
    "skills/b/SKILL.md": skill("beta", "Second skill.", tools="orders:lookup, crm:*"),
    "skills/a/SKILL.md": "---\nname: zeta\nmetadata: {openclaw: {emoji: 🔍}}\n---\nLast skill.",
    "skills/c/SKILL.md": "---\nmetadata: {clasper: {requires: {env: NO_SUCH}}}\n---\nGATED TEXT",
}

FULL_TEXT = """You are support.

## Operating Rules

Rule one.

## Identity

Name: Juniper

## Tools

Use them well.

## User

A hiker.

## Skills

### beta

Second skill.

---

### 🔍 zeta

Last skill.

## Recent Memory

### Long-term Memory

Shops close on Sundays.

### Yesterday (2026-11-21)

It snowed.

### Today (2026-11-22)

It thawed.

## Current Time

- **Date:** Sunday, November 22, 2026
- **Time:** 2:59 AM
- **Timezone:** Europe/Berlin"""


def test_a_full_prompt() -> None:
    built = prompt(FULL, role="support", time=True)
    assert built.text == FULL_TEXT
    names = [name for name, _ in built.sections]
    assert names == ["soul", "rules", "identity", "tools", "user", "skills", "memory", "time"]
    assert sum(chars for _, chars in built.sections) + 2 * (len(names) - 1) == len(built.text)
    assert [(use.name, use.tools) for use in built.skills] == [("beta", ("orders:lookup", "crm:*")), ("zeta", ())]
    assert built.skills[0] == SkillUse("beta", "1.0.0", ("orders:lookup", "crm:*"))
    assert built.skills[1].version.startswith("sha256:")
    assert built.listed_skills == ()


def test_a_role_without_a_soul_gets_the_common_one() -> None:
    assert prompt(FULL, role="stranger").text.startswith("You are the common soul.\n\n## Operating Rules")


def test_an_empty_soul_file_counts_as_absent() -> None:
    assert prompt({"souls/agent.md": " \n", "SOUL.md": "common"}).text == "common"


@pytest.mark.parametrize("files", [{}, {"SOUL.md": "", "AGENTS.md": "\n", "HEARTBEAT.md": "x", "BOOT.md": "y"}])
def test_an_empty_workspace_becomes_one_sentence_with_the_role(files: dict[str, str]) -> None:
    built = prompt(files, role="planner")
    assert "planner" in built.text
    assert len(built.text) < 200
    assert [name for name, _ in built.sections] == ["soul"]


def test_a_workspace_of_skills_only_needs_no_sentence() -> None:
    assert prompt({"skills/a/SKILL.md": "Body"}).text == "## Skills\n\n### a\n\nBody"


def test_a_skill_without_instructions_shows_its_description() -> None:
    assert prompt({"skills/a/SKILL.md": skill("a", "", description="Knows.")}).text.endswith("### a\n\nKnows.")
    assert prompt({"skills/a/SKILL.md": skill("a", "")}).text.endswith("### a")


MANY = {
    "skills/a/SKILL.md": skill("alpha", "a" * 400, tools="t:alpha", description="First. " + "d" * 300),
    "skills/b/SKILL.md": skill("beta", "b" * 400, tools="t:beta"),
    "skills/c/SKILL.md": skill("gamma", "c" * 400, tools="t:gamma", always=True),
    "skills/d/SKILL.md": skill("delta", "d" * 100, tools="t:delta"),
}


@pytest.mark.parametrize(
    ("limit", "force", "chosen"),
    [
        (10_000, (), ["alpha", "beta", "delta", "gamma"]),
        (1_000, (), ["alpha", "delta", "gamma"]),
        (1_000, ("beta",), ["beta", "delta", "gamma"]),
        (1_000, ("nobody", "beta"), ["beta", "delta", "gamma"]),
        (500, (), ["gamma"]),
        (450, ("alpha",), ["alpha"]),
        (0, ("alpha",), []),
    ],
)
def test_always_and_forced_skills_come_first_when_space_is_short(
    limit: int, force: tuple[str, ...], chosen: list[str]
) -> None:
    built = prompt(MANY, limit=limit, force=force)
    assert [use.name for use in built.skills] == chosen
    assert list(built.listed_skills) == [name for name in ("alpha", "beta", "delta", "gamma") if name not in chosen]
    assert {tool for use in built.skills for tool in use.tools} == {f"t:{name}" for name in chosen}


def test_what_does_not_fit_is_listed_with_a_short_description() -> None:
    text = prompt(MANY, limit=500).text
    line = next(line for line in text.splitlines() if line.startswith("- alpha"))
    assert line.startswith("- alpha: First. ddd")
    assert line.endswith("…")
    assert len(line) == len("- alpha: ") + 200
    assert "\n- beta\n" in text
    assert "aaaa" not in text


def test_five_hundred_skills_stay_bounded() -> None:
    files = {
        f"skills/s{n:03}/SKILL.md": skill(f"skill-{n:03}", "x" * 3_000, tools=f"t:{n}", description="d" * 500)
        for n in range(500)
    }
    built = prompt(files, limit=50_000)
    assert 0 < len(built.skills) < 500
    assert len(built.skills) + len(built.listed_skills) == 500
    assert len(built.text) < 50_000 + CATALOGUE_MAX_CHARS + 500
    assert "more" in built.text.splitlines()[-1]


@given(st.lists(st.tuples(st.integers(0, 300), st.booleans(), st.booleans()), max_size=12), st.integers(0, 1_500))
def test_no_choice_of_skills_exceeds_the_limit(sizes: list[tuple[int, bool, bool]], limit: int) -> None:
    files = {
        f"skills/s{n:02}/SKILL.md": skill(f"s{n:02}", "x" * size, always=always)
        for n, (size, always, _) in enumerate(sizes)
    }
    forced = tuple(f"s{n:02}" for n, (_, _, force) in enumerate(sizes) if force)
    built = compose_static(workspace(files), role="a", skills_max_chars=limit, force_include=forced)
    in_full, _, _ = built.text.partition("\n\n### More skills")
    names = [use.name for use in built.skills]
    if names:
        assert len(in_full.removeprefix("## Skills\n\n").removesuffix("\n\n---")) <= limit
    assert names == sorted(names)
    assert sorted([*names, *built.listed_skills]) == sorted(f"s{n:02}" for n in range(len(sizes)))


def test_a_caller_may_be_narrowed_to_some_skills() -> None:
    built = compose_static(
        workspace(MANY), role="a", skills_max_chars=9_999, force_include=["alpha"], allowed_skills=frozenset({"beta"})
    )
    assert [use.name for use in built.skills] == ["beta"]
    assert "alpha" not in built.text


@pytest.mark.parametrize(
    ("moment", "words"),
    [
        (datetime(2026, 11, 22, 2, 59, tzinfo=NEW_YORK), ("Sunday, November 22, 2026", "2:59 AM")),
        (datetime(2026, 2, 1, 0, 5, tzinfo=NEW_YORK), ("Sunday, February 1, 2026", "12:05 AM")),
        (datetime(2026, 2, 10, 12, 0, tzinfo=NEW_YORK), ("Tuesday, February 10, 2026", "12:00 PM")),
        (datetime(2028, 2, 29, 23, 9, tzinfo=NEW_YORK), ("Tuesday, February 29, 2028", "11:09 PM")),
    ],
)
def test_the_time_block(moment: datetime, words: tuple[str, str]) -> None:
    block = time_block(moment, "America/New_York")
    assert block == (
        f"## Current Time\n\n- **Date:** {words[0]}\n- **Time:** {words[1]}\n- **Timezone:** America/New_York"
    )


def test_memory_follows_the_zone_of_the_request() -> None:
    files = {"memory/2026-02-10.md": "tenth", "memory/2026-02-11.md": "eleventh"}
    moment = datetime(2026, 2, 10, 15, 30, tzinfo=ZoneInfo("UTC"))
    texts = {
        zone: whole_prompt(workspace(files), local_now=moment.astimezone(ZoneInfo(zone)), timezone=zone).text
        for zone in ("UTC", "Asia/Tokyo", "Pacific/Kiritimati")
    }
    assert "### Today (2026-02-10)\n\ntenth" in texts["UTC"]
    assert "### Yesterday (2026-02-10)\n\ntenth\n\n### Today (2026-02-11)\n\neleventh" in texts["Asia/Tokyo"]


def test_without_memory_there_is_no_heading() -> None:
    read = workspace({"SOUL.md": "Soul"})
    assert memory_block(read, date(2026, 2, 10)) == ""
    static = compose_static(read, role="a", skills_max_chars=0)
    assert finish(static).text == "Soul"


def test_the_cache_returns_the_same_and_forgets_the_oldest() -> None:
    read = workspace(MANY)
    first = compose_static(read, role="a", skills_max_chars=1_000)
    assert compose_static(workspace(MANY), role="a", skills_max_chars=1_000) is first
    assert compose_static(read, role="a", skills_max_chars=1_000, force_include=["nobody"]) is first
    assert compose_static(read, role="a", skills_max_chars=1_000, force_include=["beta"]) is not first
    assert compose_static(read, role="a", skills_max_chars=500) is not first
    for limit in range(63):
        compose_static(read, role="a", skills_max_chars=limit)
    compose_static(read, role="a", skills_max_chars=500)
    again = compose_static(read, role="a", skills_max_chars=1_000)
    assert again == first
    assert again is not first


def test_the_cache_distinguishes_souls_and_roles() -> None:
    read = workspace({"SOUL.md": "common", "souls/support.md": "mine"})
    assert compose_static(read, role="support", skills_max_chars=0).text == "mine"
    assert compose_static(read, role="x", skills_max_chars=0) is compose_static(read, role="y", skills_max_chars=0)
    empty = workspace({})
    assert compose_static(empty, role="x", skills_max_chars=0) != compose_static(empty, role="y", skills_max_chars=0)


def test_the_demo_grants_lookups_and_no_refund() -> None:
    demo = load_workspace(DEMO)
    built = compose_static(demo, role="support", skills_max_chars=100_000)
    assert {tool for use in built.skills for tool in use.tools} == {"orders:lookup", "customers:search"}
    assert [use.name for use in built.skills] == ["order-support", "refund-policy", "tone-of-voice"]
    assert [(skill.file.name, skill.gate_reason) for skill in demo.skills if not skill.enabled] == [
        ("carrier-claims", "Missing env: HARBOR_CARRIER_API_TOKEN")
    ]
    assert built.text.startswith("You are the support agent of Harbor & Pine")
    assert compose_static(demo, role="planner", skills_max_chars=0).text.startswith("You plan work")
    assert demo.skipped == ()
