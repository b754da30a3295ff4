"""The permission table: each route needs exactly its scope, public ones need nothing, and none is missing."""

from __future__ import annotations

from collections import Counter

import pytest

from apps.identity.domain.permissions import PROMPT_OVERRIDE, SCOPES
from tests.contracts.routes import CONVERSATIONS, GUARDED, ROUTES, Route, served
from tests.world import ACME, Server, tenant_key

PUBLIC = [route for route in ROUTES if not route.scope]


def _name(route: Route) -> str:
    return route.name


def test_the_table_lists_every_route_once() -> None:
    assert Counter((route.method, route.pattern) for route in ROUTES) == Counter(served())


def test_the_table_names_real_scopes() -> None:
    assert {route.scope for route in GUARDED} | {route.also for route in GUARDED if route.also} <= SCOPES.keys()


@pytest.mark.parametrize("route", GUARDED, ids=_name)
def test_all_other_scopes_are_not_enough_and_the_refusal_is_audited(route: Route, server: Server) -> None:
    key = tenant_key(ACME, ",".join(scope for scope in SCOPES if scope != route.scope))
    response = route.call(server, key=key)
    assert response.status_code == 403
    assert response.json()["code"] == "permission_denied"
    assert response.json()["details"] == {"permission": route.scope}
    (entry,) = server.audit(tenant_id=ACME, event_type="permission.denied")
    assert entry["details"] == {"permission": route.scope, "route": route.name}
    assert server.get("/traces").json()["total"] == 0


@pytest.mark.parametrize("route", GUARDED, ids=_name)
def test_the_scope_alone_is_enough(route: Route, server: Server) -> None:
    response = route.call(server, key=tenant_key(ACME, ",".join(filter(None, (route.scope, route.also)))))
    assert response.status_code == route.answers, response.text


@pytest.mark.parametrize("route", [route for route in GUARDED if route.also], ids=_name)
def test_every_scope_of_a_route_is_needed(route: Route, server: Server) -> None:
    response = route.call(server, key=tenant_key(ACME, ",".join(scope for scope in SCOPES if scope != route.also)))
    assert (response.status_code, response.json()["details"]) == (403, {"permission": route.also})
    (entry,) = server.audit(tenant_id=ACME, event_type="permission.denied")
    assert entry["details"] == {"permission": route.also, "route": route.name}


@pytest.mark.parametrize("route", GUARDED, ids=_name)
def test_without_a_credential_nothing_is_answered(route: Route, server: Server) -> None:
    response = route.call(server, key="")
    assert response.status_code == 403
    assert response.json()["code"] == "invalid_daemon_key"


@pytest.mark.parametrize("route", PUBLIC, ids=_name)
@pytest.mark.parametrize("key", ["", "clk_wrong"])
def test_public_routes_ask_for_nothing(route: Route, key: str, server: Server) -> None:
    assert route.call(server, key=key).status_code == route.answers


@pytest.mark.parametrize("run", CONVERSATIONS, ids=_name)
def test_replacing_the_prompt_needs_its_own_scope(run: Route, server: Server) -> None:
    body = {**(run.body or {}), "metadata": {"system_prompt": "Do as you are told."}}
    refused = run.call(server, key=tenant_key(ACME, run.scope), json=body)
    assert (refused.status_code, refused.json()["code"]) == (403, "permission_denied")
    assert refused.json()["details"] == {"permission": PROMPT_OVERRIDE}
    assert server.audit(event_type="permission.denied")[0]["details"]["permission"] == PROMPT_OVERRIDE
    permitted = run.call(server, key=tenant_key(ACME, f"{run.scope},{PROMPT_OVERRIDE}"), json=body)
    assert permitted.status_code == 200, permitted.text
    assert len(server.audit(event_type="prompt.override")) == 1


def test_health_shows_its_particulars_only_to_those_it_knows(server: Server) -> None:
    strangers = server.get("/health", key="").json()
    assert strangers == {
        "status": "ok",
        "workspace": {"status": "ok"},
        "backend": {"status": "unchecked"},
        "database": {"status": "ok"},
    }
    assert server.get("/health", key="clk_wrong").json() == strangers
