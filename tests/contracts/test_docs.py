"""The documentation is complete: every setting, event, command, scope and error code is explained where it belongs."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from django.core.management import get_commands

from apps.audit.domain.chain import EVENT_TYPES
from apps.identity.domain.permissions import SCOPES
from clasper.core.errors import ClasperError

ROOT = Path(__file__).resolve().parents[2]


def settings_read() -> set[str]:
    """The variables that settings.py reads: the first argument of `env.str(...)` and its like."""
    tree = ast.parse((ROOT / "clasper" / "settings.py").read_text())
    return {
        str(node.args[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and isinstance(node.func.value, ast.Name)
        and node.func.value.id == "env"
        and node.args
        and isinstance(node.args[0], ast.Constant)
    } | {"DATABASE_URL"}  # read by env.db_url()


def errors_of(kind: type[ClasperError]) -> Iterator[type[ClasperError]]:
    yield kind
    for each in kind.__subclasses__():
        if each.__module__ == ClasperError.__module__:
            yield from errors_of(each)


def codes_given() -> set[str]:
    """Codes that places in the code base give to an error instead of its own. Those of the embedded control plane are
    another API's."""
    found: set[str] = set()
    kinds = {kind.__name__ for kind in errors_of(ClasperError)}
    for package in ("clasper", "apps"):
        for path in (ROOT / package).rglob("*.py"):
            if path.relative_to(ROOT).parts[:2] == ("apps", "control_plane"):
                continue
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call) and getattr(node.func, "id", "") in kinds:
                    found |= {
                        str(keyword.value.value)
                        for keyword in node.keywords
                        if keyword.arg == "code" and isinstance(keyword.value, ast.Constant)
                    }
    return found


def our_commands() -> set[str]:
    return {name for name, app in get_commands().items() if app.split(".")[0] in ("clasper", "apps")}


def read(name: str) -> str:
    path = ROOT / name
    assert path.exists(), f"{name} is missing"
    return path.read_text()


def missing(names: set[str], text: str) -> list[str]:
    """Those names that do not stand in the text as a word of their own."""
    return sorted(name for name in names if not re.search(rf"(?<![\w:.-]){re.escape(name)}(?![\w:-]|\.\w)", text))


def test_the_search_finds_words_only() -> None:
    text = "`audit.verify`, agents:run. SECRET_KEY=x"
    assert missing({"audit.verify", "agents:run", "SECRET_KEY"}, text) == []
    assert missing({"audit", "agents", "KEY", "verify", "run"}, text) == ["KEY", "agents", "audit", "run", "verify"]


DOCUMENTED = {
    "settings in .env.example": (".env.example", settings_read),
    "settings": ("docs/settings.md", settings_read),
    "audit events": ("docs/audit.md", lambda: set(EVENT_TYPES)),
    "commands": ("docs/commands.md", our_commands),
    "scopes": ("docs/authentication.md", lambda: set(SCOPES)),
    "error codes": ("docs/errors.md", lambda: {kind.code for kind in errors_of(ClasperError)}),
    "error codes of single places": ("docs/errors.md", codes_given),
}


@pytest.mark.parametrize("what", DOCUMENTED)
def test_everything_is_documented(what: str) -> None:
    name, names = DOCUMENTED[what]
    found = names()
    assert found
    assert missing(found, read(name)) == [], f"not in {name}"


def test_links_between_the_documents_lead_somewhere() -> None:
    broken = [
        f"{page.relative_to(ROOT)}: {target}"
        for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
        if page.exists()
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text())
        if "://" not in target and not target.startswith("mailto:") and not (page.parent / target).exists()
    ]
    assert broken == []
