"""The workspace's routes: the documented shapes, and nothing without a credential."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from django.test import Client
from pytest_django import Settings

KEY = {"x-agent-daemon-key": "test-daemon-key"}

pytestmark = pytest.mark.usefixtures("store")


@pytest.fixture
def root(tmp_path: Path, settings: Settings) -> Path:
    settings.CLASPER_WORKSPACE = tmp_path
    settings.AGENT_DAEMON_API_KEY = KEY["x-agent-daemon-key"]
    settings.MIDDLEWARE = []
    return tmp_path


def put(root: Path, path: str, text: str) -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text)


def get(path: str, **headers: str) -> Any:
    return Client().get(path, headers=headers or KEY)


def test_skills_are_listed_with_the_reason_of_disabled_ones(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SEARCH_API_KEY", raising=False)
    metadata = '{"openclaw":{"emoji":"🔍","requires":{"env":["SEARCH_API_KEY"]}}}'
    text = f"---\nname: web-search\ndescription: Search the web for information\nmetadata: {metadata}\n---\n"
    put(root, "skills/web-search/SKILL.md", text)
    put(root, "skills/plain/SKILL.md", "Body")
    put(root, "skills/broken/SKILL.md", "---\na: b: c\n---\n")
    answer = get("/skills")
    assert answer.status_code == 200
    assert answer.json() == {
        "enabled": 1,
        "total": 3,
        "skills": [
            {
                "name": "broken",
                "description": "",
                "enabled": False,
                "location": f"{root}/skills/broken",
                "gateReason": "Unreadable frontmatter: not valid YAML in its line 1: "
                "mapping values are not allowed in this context",
            },
            {"name": "plain", "description": "", "enabled": True, "location": f"{root}/skills/plain"},
            {
                "name": "web-search",
                "description": "Search the web for information",
                "enabled": False,
                "gateReason": "Missing env: SEARCH_API_KEY",
                "location": f"{root}/skills/web-search",
                "metadata": {"openclaw": {"emoji": "🔍", "requires": {"env": ["SEARCH_API_KEY"]}}},
            },
        ],
    }
    monkeypatch.setenv("SEARCH_API_KEY", "1")
    shown = get("/skills").json()
    assert shown["enabled"] == 2
    assert "gateReason" not in shown["skills"][2]


def test_boot(root: Path) -> None:
    assert get("/boot").json() == {"hasBoot": False, "isComplete": False, "content": None}
    missing = Client().post("/boot/complete", headers=KEY)
    assert (missing.status_code, missing.json()["code"]) == (404, "not_found")
    put(root, "BOOT.md", "## First Run Setup\n\nInstructions for first run...")
    assert get("/boot").json() == {
        "hasBoot": True,
        "isComplete": False,
        "content": "## First Run Setup\n\nInstructions for first run...",
    }
    done = Client().post("/boot/complete", headers=KEY, content_type="application/json")
    assert (done.status_code, done.json()) == (200, {"status": "ok"})
    assert get("/boot").json() == {"hasBoot": True, "isComplete": True, "content": None}
    assert (root / ".boot-complete").exists()


def test_context(root: Path) -> None:
    put(root, "AGENTS.md", "a" * 1_500)
    put(root, "SOUL.md", "s" * 25_000)
    answer = get("/context").json()
    assert set(answer) == {
        *("workspacePath", "maxCharsPerFile", "files", "totalBootstrapChars", "systemPromptChars"),
        "estimatedSystemPromptTokens",
    }
    assert (answer["workspacePath"], answer["maxCharsPerFile"]) == (str(root), 20_000)
    assert answer["files"][:2] == [
        {
            "name": "AGENTS.md",
            "exists": True,
            "rawChars": 1_500,
            "injectedChars": 1_500,
            "truncated": False,
            "estimatedTokens": 375,
        },
        {
            "name": "SOUL.md",
            "exists": True,
            "rawChars": 25_000,
            "injectedChars": 20_000,
            "truncated": True,
            "estimatedTokens": 5_000,
        },
    ]
    assert answer["totalBootstrapChars"] == 21_500
    assert answer["systemPromptChars"] > 21_500


@pytest.mark.parametrize("role", ["../AGENTS", "..%2FAGENTS", "a/b", "a.b", "x" * 65, "a%00b", "é"])
def test_a_role_is_no_path(root: Path, role: str) -> None:
    put(root, "AGENTS.md", "secret")
    (root / "souls").mkdir()
    answer = get(f"/context?role={role}")
    assert answer.status_code == 400
    assert list(answer.json()["details"]["fieldErrors"]) == ["role"]
    assert "secret" not in answer.content.decode()


def test_a_role_names_its_soul(root: Path) -> None:
    put(root, "souls/support.md", "mine")
    files = get("/context?role=support").json()["files"]
    assert [(file["name"], file["exists"]) for file in files[1:3]] == [
        ("souls/support.md", True),
        ("IDENTITY.md", False),
    ]
    assert get("/context?role=").status_code == 200


@pytest.mark.parametrize(
    ("method", "path"), [("get", "/skills"), ("get", "/boot"), ("get", "/context"), ("post", "/boot/complete")]
)
def test_nothing_without_a_credential(root: Path, method: str, path: str) -> None:
    put(root, "BOOT.md", "Do this.")
    for headers in ({}, {"x-agent-daemon-key": "wrong"}):
        answer = getattr(Client(), method)(path, headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (403, "invalid_daemon_key")
        assert str(root) not in answer.content.decode()
    assert not (root / ".boot-complete").exists()


def test_other_methods_are_refused(root: Path) -> None:
    assert Client().post("/skills", headers=KEY).status_code == 405
    assert get("/boot/complete").status_code == 405
