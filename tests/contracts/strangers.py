"""A tenant with something to hide, and a stranger who may do everything with what is his own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import httpx
from django.apps import apps

from tests.world import ACME, GLOBEX, Server, tenant_key

SECRET = "the vault is behind the painting"


@dataclass
class World:
    """acme has run and has a budget; `stranger` is a key of globex that may do everything."""

    server: Server
    trace_id: str
    task_id: str
    stranger: str

    @classmethod
    def of(cls, server: Server) -> Self:
        server.set_budget(ACME)
        answer = server.send(SECRET)
        assert answer.status_code == 200, answer.text
        return cls(server, answer.json()["trace_id"], answer.json()["task_id"], tenant_key(GLOBEX))

    def get(self, path: str, **query: Any) -> Any:
        """What the stranger is answered."""
        response = self.server.get(path, key=self.stranger, params=query)
        assert response.status_code == 200, response.text
        assert ACME not in response.text
        assert self.trace_id not in response.text
        assert SECRET not in response.text
        return response.json()

    def rows(self) -> list[str]:
        """Everything that is stored for acme, as texts that differ when anything is added, changed or removed."""
        models = [model for model in apps.get_models() if model.__module__.startswith("apps.")]
        return sorted(
            f"{model._meta.db_table} {row}"
            for model in models
            if hasattr(model, "tenant_id")
            for row in model._default_manager.filter(tenant_id=ACME).values_list()
        )

    def hidden_from(self, response: httpx.Response) -> bool:
        """Whether an answer tells nothing of acme's run; what the caller said himself does not count."""
        return SECRET not in response.text and self.trace_id not in response.text.replace(str(response.url), "")


def refused(response: httpx.Response) -> None:
    assert response.status_code == 403, response.text
    assert response.json()["code"] == "permission_denied"
    assert response.json()["details"] == {"permission": "tenant"}
