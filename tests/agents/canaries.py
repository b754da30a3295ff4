"""Unique personal data and secrets for the fields of a request, and a look at every place where they must not be."""

from __future__ import annotations

import base64
import json
import logging
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from urllib.parse import quote

import pytest
from django.conf import settings
from django.db import connection

from clasper.core.logs import JSONFormatter
from tests.agents.backend import Receiver

PHRASES = {
    "email": "write to {}",
    "phone": "call {}",
    "card": "card {}",
    "key": "key {}",
    "token": "token {}",
}
"""The kinds of canaries, each in words that a person might use."""

IDS = frozenset({"tenant_id", "user_id", "session_key", "task_id", "workspace_id", "environment", "agent_role"})
"""Fields that name somebody or something and are stored as they are, as the documentation says."""


@dataclass
class Canaries:
    """Makes texts that hold canaries, and remembers every value by the field it was made for."""

    dice: random.Random = field(default_factory=lambda: random.Random(7))
    values: dict[str, str] = field(default_factory=dict)

    def text(self, where: str, *kinds: str) -> str:
        """Words with a new canary of each kind, or of these kinds only."""
        made = {kind: self._new(kind) for kind in kinds or PHRASES}
        self.values.update({f"{where} {kind}": value for kind, value in made.items()})
        return ", ".join(PHRASES[kind].format(value) for kind, value in made.items())

    def name(self, where: str) -> str:
        """A new canary without a blank: an address."""
        return self.text(where, "email").removeprefix(PHRASES["email"].format(""))

    def of(self, where: str) -> list[str]:
        return [value for name, value in self.values.items() if name.rpartition(" ")[0] == where]

    def found_in(self, haystack: str) -> list[str]:
        """The names of the canaries that are there, in whole or in part, plain or as a part of an address."""
        return [name for name, value in self.values.items() if any(each in haystack for each in _forms(name, value))]

    def _new(self, kind: str) -> str:
        if kind == "email":
            return f"canary.{self._letters(12)}@mail-{self._letters(6)}.example"
        if kind == "phone":
            return f"+1 415 {self.dice.randrange(200, 999)} {self.dice.randrange(1000, 9999)}"
        if kind == "card":
            return self._card()
        return f"sk-proj-{self._letters(40)}" if kind == "key" else self._token()

    def _letters(self, number: int) -> str:
        return "".join(self.dice.choices("abcdefghjkmnpqrstuvwxyz23456789", k=number))

    def _card(self) -> str:
        digits = [4, *self.dice.choices(range(10), k=14)]
        doubled = [d if i % 2 else (2 * d - 9 if d > 4 else 2 * d) for i, d in enumerate(digits)]
        digits.append(-sum(doubled) % 10)
        number = "".join(map(str, digits))
        return " ".join(number[i : i + 4] for i in range(0, 16, 4))

    def _token(self) -> str:
        def part(value: dict[str, str]) -> str:
            return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")

        return f"{part({'alg': 'HS256', 'typ': 'JWT'})}.{part({'sub': self._letters(16)})}.{self._letters(43)}"


def _forms(name: str, value: str) -> set[str]:
    """What gives a canary away; of the long ones a piece is enough, so that one that was cut is found too."""
    if name.endswith((" email", " key")):
        value = value[:20]
    elif name.endswith(" token"):
        value = value[-20:]
    return {value, quote(value), quote(value, safe="")}


def stored() -> Iterator[tuple[str, str]]:
    """Every value of every table but the embedded control plane's, with the column it stands in."""
    with connection.cursor() as cursor:
        for table in connection.introspection.table_names(cursor):
            if table.startswith("cp_"):
                continue
            cursor.execute(f"SELECT * FROM {connection.ops.quote_name(table)}")
            columns = [column[0] for column in cursor.description]
            for row in cursor.fetchall():
                for column, value in zip(columns, row, strict=True):
                    text = bytes(value).decode("latin-1") if isinstance(value, bytes | memoryview) else str(value)
                    yield f"{table}.{column}", text


def listen(caplog: pytest.LogCaptureFixture) -> None:
    """From now on everything that is logged is kept for `leaks`, our own lines of every level."""
    caplog.set_level(logging.INFO)
    caplog.set_level(logging.DEBUG, logger="clasper")


def leaks(canaries: Canaries, caplog: pytest.LogCaptureFixture, receiver: Receiver | None = None) -> list[str]:
    """Where a canary was kept, as "place: canary"."""
    found = [f"{column}: {name}" for column, text in stored() for name in canaries.found_in(text)]
    formatter = JSONFormatter(redactor=settings.LOGGING["formatters"]["json"]["redactor"])
    written = "\n".join(map(formatter.format, caplog.records))
    found += [f"log: {name}" for name in canaries.found_in(written)]
    sent = receiver.received if receiver else []
    found += [f"webhook: {name}" for _, body in sent for name in canaries.found_in(body.decode())]
    return sorted(set(found))
