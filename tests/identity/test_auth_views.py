"""The guard of REST views: declared scopes, closed by default, public views, and what a refusal answers."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

import pytest
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.test import APIRequestFactory
from rest_framework.views import APIView

from apps.audit.services.reading import list_audit
from apps.identity.api import principal_of, tenant_of
from apps.identity.services import authentication as access
from apps.identity.services.keys import KeyLimits, create_api_key
from clasper.core.errors import Unauthenticated
from clasper.core.tenancy import OneTenant

DAEMON = {"X-Agent-Daemon-Key": "daemon-key"}
WRONG = {"X-Agent-Daemon-Key": "wrong"}


@pytest.fixture(autouse=True)
def guarded(settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    settings.AGENT_DAEMON_API_KEY = "daemon-key"
    monkeypatch.setattr(access, "_failures", access._FailureBudget())


class Echo(APIView):
    """Answers who called."""

    def get(self, request: Request) -> Response:
        return Response({"actor": principal_of(request).actor if request.auth else None})

    def post(self, request: Request) -> Response:
        body: Any = request.data
        return Response({"tenant": tenant_of(request, body.get("tenant_id")).audit_chain})


class Undeclared(Echo):
    pass


class OneScope(Echo):
    required_scopes = "traces:read"


class ByMethod(Echo):
    required_scopes = {"GET": "traces:read", "POST": "traces:write"}


class OnlyGet(Echo):
    required_scopes = {"GET": "traces:read"}


class Public(Echo):
    public = True


class NearlyPublic(Echo):
    public = "yes"


def call(view: type[APIView], headers: dict[str, str], method: str = "get", **body: Any) -> tuple[int, dict[str, Any]]:
    request = getattr(APIRequestFactory(), method)(
        "/", body if method == "post" else None, format="json", headers=headers
    )
    answer = view.as_view()(request)
    answer.render()
    return answer.status_code, json.loads(answer.content or b"{}")


def key(now: datetime, *scopes: str, **limits: Any) -> dict[str, str]:
    new = create_api_key(
        tenant_id="acme", name="", scopes=scopes, actor="user:ada", now=now, limits=KeyLimits(**limits)
    )
    return {"Authorization": f"Bearer {new.key}"}


@pytest.mark.parametrize(
    ("view", "method", "status"),
    [
        (OneScope, "get", 200),
        (OneScope, "post", 200),
        (ByMethod, "get", 200),
        (ByMethod, "head", 200),
        (ByMethod, "post", 403),
        (OnlyGet, "post", 403),
        (OnlyGet, "put", 405),
        (Undeclared, "get", 403),
        (NearlyPublic, "get", 403),
        (Public, "post", 200),
    ],
)
def test_a_reader(store: None, now: datetime, view: type[APIView], method: str, status: int) -> None:
    assert call(view, key(now, "traces:read"), method)[0] == status


def test_a_view_that_declares_nothing_is_closed_even_to_the_platform(store: None) -> None:
    status, body = call(Undeclared, DAEMON)
    assert (status, body["details"]) == (403, {"permission": "undeclared"})
    (entry,) = list_audit(tenants=OneTenant("")).entries
    assert (entry.event_type, entry.actor) == ("permission.denied", "system:daemon")


def test_errors_keep_their_status_and_code(store: None) -> None:
    status, body = call(OneScope, WRONG)
    assert (status, body) == (403, {"error": "Invalid daemon key", "code": "invalid_daemon_key", "details": {}})
    status, body = call(OneScope, {"Authorization": "Bearer clk_nope"})
    assert (status, body["code"]) == (401, "invalid_token")


@pytest.mark.parametrize(
    ("headers", "actor"),
    [({}, None), (WRONG, None), ({"Authorization": "Bearer clk_nope"}, None), (DAEMON, "system:daemon")],
)
def test_a_public_view_knows_its_caller_if_it_can(store: None, headers: dict[str, str], actor: str | None) -> None:
    assert call(Public, headers) == (200, {"actor": actor})


def test_a_public_view_without_credentials_has_no_principal(store: None) -> None:
    assert call(Public, {}, "post")[0] == Unauthenticated.status


def test_a_foreign_tenant_is_refused_and_recorded(store: None, now: datetime) -> None:
    caller = key(now, "*")
    assert call(ByMethod, caller, "post") == (200, {"tenant": "acme"})
    assert call(ByMethod, caller, "post", tenant_id="globex")[0] == 403
    assert list_audit(tenants=OneTenant("acme")).entries[0].details["permission"] == "tenant"
    assert call(ByMethod, DAEMON, "post", tenant_id="globex") == (200, {"tenant": "globex"})
    assert call(ByMethod, DAEMON, "post") == (200, {"tenant": ""})


def test_the_rate_limit_answers_429_with_retry_after(store: None, now: datetime) -> None:
    caller = key(now, "*", rate_limit="1/minute")
    assert call(OneScope, caller)[0] == 200
    request = APIRequestFactory().get("/", headers=caller)
    answer = OneScope.as_view()(request)
    assert answer.status_code == 429
    assert 0 < int(answer["Retry-After"]) <= 60


def test_principal_of_a_guarded_view(store: None) -> None:
    class Who(APIView):
        required_scopes = "traces:read"

        def get(self, request: Request) -> Response:
            return Response({"actor": principal_of(request).actor})

    assert call(Who, DAEMON) == (200, {"actor": "system:daemon"})
