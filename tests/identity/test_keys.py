"""API keys: created once, stored hashed, found, revoked, audited; and the command that does it."""

from __future__ import annotations

import json
import re
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.core.management import CommandError, call_command
from django.test import Client

from apps.audit.services.reading import list_audit
from apps.identity.models import ApiKey
from apps.identity.services.keys import (
    KeyLimits,
    NewKey,
    create_api_key,
    list_api_keys,
    look_up_key,
    revoke_api_key,
    secret_hash,
)
from clasper.core.auth import Principal
from clasper.core.errors import InvalidRequest, NotFound
from clasper.core.tenancy import ALL_TENANTS, OneTenant


def find_key(secret: str, now: datetime) -> Principal | None:
    """The principal of a valid key."""
    found = look_up_key(secret, now)
    return None if found.failure(now) else found.principal


def make(now: datetime, **changes: Any) -> NewKey:
    limits = {name: changes.pop(name) for name in KeyLimits.__struct_fields__ if name in changes}
    chosen = {"tenant_id": "acme", "name": "ci", "scopes": ["agents:run"], "actor": "user:ada", "now": now}
    return create_api_key(**{**chosen, **changes}, limits=KeyLimits(**limits))


def test_a_key_is_shown_once_and_stored_hashed(store: None, now: datetime) -> None:
    new = make(now, scopes=["agents:run", "traces:read", "agents:run"])
    assert re.fullmatch(r"clk_[A-Za-z0-9_-]{43}", new.key)
    row = ApiKey.objects.get(id=new.id)
    assert row.secret_hash == secret_hash(new.key)
    assert row.prefix == new.key[:12]
    assert new.key not in json.dumps(list(ApiKey.objects.values()), default=str)
    (entry,) = list_audit(tenants=OneTenant("acme")).entries
    assert (entry.event_type, entry.actor, entry.details["key_id"]) == ("key.create", "user:ada", new.id)
    assert entry.details["prefix"] == row.prefix
    assert entry.details["scopes"] == ["agents:run", "traces:read"]
    assert new.key not in json.dumps(entry.details)


def test_a_key_becomes_a_principal(store: None, now: datetime) -> None:
    new = make(
        now,
        allowed_tools=["crm:*"],
        denied_tools=["crm:delete"],
        allowed_models=["openai/gpt-4o"],
        allowed_skills=["triage"],
        max_output_tokens=500,
        rate_limit="100/minute",
    )
    principal = find_key(new.key, now)
    assert principal is not None
    assert (principal.actor, principal.tenants) == (f"key:{new.id}", OneTenant("acme"))
    assert principal.scopes == {"agents:run"}
    assert principal.allowed_tools == {"crm:*"}
    assert principal.denied_tools == {"crm:delete"}
    assert principal.allowed_models == frozenset({"openai/gpt-4o"})
    assert principal.allowed_skills == frozenset({"triage"})
    assert (principal.max_output_tokens, principal.rate_limit) == (500, "100/minute")
    plain = find_key(make(now).key, now)
    assert plain is not None
    assert plain.allowed_tools == {"*"}
    assert (plain.allowed_models, plain.allowed_skills) == (None, None)


INVALID: list[tuple[dict[str, Any], set[str]]] = [
    ({"tenant_id": ""}, {"tenant_id"}),
    ({"tenant_id": "x" * 129, "name": "x" * 129}, {"tenant_id", "name"}),
    ({"scopes": []}, {"scopes"}),
    ({"scopes": ["agents:fly", "agents:run", "x"]}, {"scopes"}),
    ({"expires_at": datetime.fromisoformat("2026-02-10T12:00:00Z")}, {"expires_at"}),
    ({"max_output_tokens": 0}, {"max_output_tokens"}),
    ({"max_output_tokens": 2**31}, {"max_output_tokens"}),
    ({"rate_limit": "often"}, {"rate_limit"}),
    ({"rate_limit": "0/minute"}, {"rate_limit"}),
    ({"rate_limit": "1/minute;2/hour"}, {"rate_limit"}),
    ({"allowed_tools": ["a b"], "denied_tools": ["a,b"]}, {"allowed_tools", "denied_tools"}),
    ({"allowed_models": [""], "allowed_skills": ["\n"]}, {"allowed_models", "allowed_skills"}),
]


@pytest.mark.parametrize(("changes", "fields"), INVALID)
def test_all_errors_are_reported_at_once(store: None, now: datetime, changes: dict[str, Any], fields: set[str]) -> None:
    with pytest.raises(InvalidRequest) as refused:
        make(now, **changes)
    assert set(refused.value.details["fieldErrors"]) == fields
    assert not ApiKey.objects.exists()
    assert not list_audit(tenants=ALL_TENANTS).entries


def test_unknown_scopes_are_all_named(store: None, now: datetime) -> None:
    with pytest.raises(InvalidRequest) as refused:
        make(now, scopes=["agents:fly", "x"])
    assert refused.value.details["fieldErrors"]["scopes"] == ["Unknown scopes: agents:fly, x."]


def test_an_unknown_expired_or_revoked_key_is_not_found(store: None, now: datetime) -> None:
    soon = now + timedelta(minutes=5)
    expiring, revoked = make(now, expires_at=soon), make(now)
    revoke_api_key(key_id=revoked.id, actor="user:ada", now=now, tenants=ALL_TENANTS)
    cases = [
        (expiring.key, now, ""),
        (expiring.key, soon, "expired_key"),
        (revoked.key, now, "revoked_key"),
        ("clk_" + "x" * 43, now, "unknown_key"),
        ("clk_short", now, "unknown_key"),
        ("", now, "unknown_key"),
        (expiring.key + "x", now, "unknown_key"),
        (expiring.key[:-1] + "\n", now, "unknown_key"),
    ]
    for secret, at, fault in cases:
        assert look_up_key(secret, at).failure(at) == fault, secret
        assert (find_key(secret, at) is None) is bool(fault)


def test_last_use_is_recorded_once_a_minute(store: None, now: datetime) -> None:
    new = make(now)
    expected = [(0, 0), (59, 0), (60, 60), (61, 60)]
    for seconds, noted in expected:
        find_key(new.key, now + timedelta(seconds=seconds))
        assert ApiKey.objects.get().last_used_at == now + timedelta(seconds=noted)


def test_a_refused_use_is_not_recorded(store: None, now: datetime) -> None:
    new = make(now, expires_at=now + timedelta(seconds=1))
    find_key(new.key, now + timedelta(seconds=1))
    assert ApiKey.objects.get().last_used_at is None


def test_revoking_is_audited_once(store: None, now: datetime) -> None:
    new = make(now)
    first = revoke_api_key(key_id=new.id, actor="user:ada", now=now, tenants=OneTenant("acme"))
    again = revoke_api_key(key_id=new.id, actor="user:bob", now=now + timedelta(1), tenants=ALL_TENANTS)
    assert first.revoked_at == again.revoked_at == now
    assert [entry.event_type for entry in list_audit(tenants=OneTenant("acme")).entries] == ["key.revoke", "key.create"]


@pytest.mark.parametrize("tenant_id", ["globex", "acme"])
def test_a_foreign_or_missing_key_is_not_found(store: None, now: datetime, tenant_id: str) -> None:
    new = make(now)
    key_id = new.id if tenant_id == "globex" else "0194c8f0-7e1a-7000-8000-000000000001"
    with pytest.raises(NotFound):
        revoke_api_key(key_id=key_id, actor="user:ada", now=now, tenants=OneTenant(tenant_id))
    assert find_key(new.key, now)


def test_keys_are_listed_without_secrets(store: None, now: datetime) -> None:
    old, new = make(now - timedelta(hours=1)), make(now, tenant_id="globex")
    assert [key.id for key in list_api_keys(tenants=ALL_TENANTS)] == [new.id, old.id]
    (only,) = list_api_keys(tenants=OneTenant("acme"))
    assert (only.id, only.scopes, only.created_by, only.revoked_at) == (old.id, ("agents:run",), "user:ada", None)
    assert old.key not in repr(only)


# --- The command ----------------------------------------------------------------------------------------------------


def command(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    call_command("api_key", *arguments)
    return capsys.readouterr().out


def test_the_command_creates_lists_and_revokes(store: None, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--tenant", "acme", "--name", "ci", "--scopes", "agents:run, traces:read", "--expires-days", "2"]
    narrowed = ["--allowed-tools", "crm:*,search", "--rate-limit", "100/minute", "--json"]
    new = json.loads(command(capsys, "create", *options, *narrowed))
    assert (new["tenant_id"], new["name"], new["scopes"]) == ("acme", "ci", ["agents:run", "traces:read"])
    principal = find_key(new["key"], ApiKey.objects.get().created_at)
    assert principal is not None
    assert principal.allowed_tools == {"crm:*", "search"}
    (listed,) = json.loads(command(capsys, "list", "--tenant", "acme", "--json"))
    assert (listed["id"], listed["revoked_at"], listed["rate_limit"]) == (new["id"], None, "100/minute")
    assert "key" not in listed
    assert json.loads(command(capsys, "revoke", new["id"], "--json"))["revoked_at"] is not None
    assert "revoked" in command(capsys, "list")


def test_the_command_prints_for_people(store: None, capsys: pytest.CaptureFixture[str]) -> None:
    printed = command(capsys, "create", "--tenant", "acme", "--scopes", "*")
    assert re.search(r"^key  clk_\S{43}$", printed, re.MULTILINE)
    key = ApiKey.objects.get()
    assert key.id in printed
    assert "active" in command(capsys, "list")
    assert "revoked" in command(capsys, "revoke", key.id)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["create", "--tenant", "acme", "--scopes", "agents:fly"], "Unknown scopes: agents:fly"),
        (["create", "--tenant", "acme", "--scopes", "*", "--expires-days", "0"], "--expires-days"),
        (["create", "--tenant", "acme", "--scopes", "*", "--expires-days", "99999999999"], "--expires-days"),
        (["create", "--scopes", "*"], "--tenant"),
        (["revoke", "nobody"], "No such API key"),
        (["revoke"], "id"),
        ([], "create"),
    ],
)
def test_the_command_explains_what_is_wrong(store: None, arguments: list[str], told: str) -> None:
    with pytest.raises(CommandError, match=re.escape(told)):
        call_command("api_key", *arguments)


# --- The admin ------------------------------------------------------------------------------------------------------


@pytest.fixture
def admin_client(store: None, settings: Any) -> Any:
    settings.MIDDLEWARE = [each for each in settings.MIDDLEWARE if "whitenoise" not in each]
    user = get_user_model().objects.create_superuser("ada", password="a long enough password")
    client = Client()
    client.force_login(user)
    yield client
    user.delete()


def test_the_admin_creates_a_key_and_shows_it_once(admin_client: Client) -> None:
    form = {"tenant_id": "acme", "name": "ci", "scopes": "agents:run, traces:read", "allowed_tools": "*"}
    answer = admin_client.post("/admin/identity/apikey/add/", form, follow=True)
    (secret,) = re.findall(r"clk_[A-Za-z0-9_-]{43}", answer.content.decode())
    row = ApiKey.objects.get()
    assert row.secret_hash == secret_hash(secret)
    assert row.created_by == "user:ada"
    assert [entry.actor for entry in list_audit(tenants=OneTenant("acme")).entries] == ["user:ada"]
    page = admin_client.get(f"/admin/identity/apikey/{row.id}/change/")
    assert page.status_code == 200
    assert secret not in page.content.decode()


def test_the_admin_shows_the_errors_of_a_key(admin_client: Client) -> None:
    form = {"tenant_id": "acme", "scopes": "agents:fly", "allowed_tools": "*", "rate_limit": "often"}
    answer = admin_client.post("/admin/identity/apikey/add/", form)
    assert "Unknown scopes: agents:fly." in answer.content.decode()
    assert "Write a rate such as" in answer.content.decode()
    assert not ApiKey.objects.exists()


def test_the_admin_revokes_keys(admin_client: Client, now: datetime) -> None:
    new = make(now)
    chosen = {"action": "revoke", "_selected_action": [new.id]}
    admin_client.post("/admin/identity/apikey/", chosen)
    assert ApiKey.objects.get().revoked_at is not None
    entry = list_audit(tenants=OneTenant("acme")).entries[0]
    assert (entry.event_type, entry.details["prefix"]) == ("key.revoke", new.key[:12])


@pytest.mark.parametrize("page", ["auditentry", "audithead"])
def test_the_admin_only_reads_the_audit_log(admin_client: Client, now: datetime, page: str) -> None:
    make(now)
    entry = list_audit(tenants=OneTenant("acme")).entries[0]
    row = entry.id if page == "auditentry" else "acme"
    assert admin_client.get(f"/admin/audit/{page}/").status_code == 200
    assert admin_client.get(f"/admin/audit/{page}/{row}/change/").status_code == 200
    assert admin_client.get(f"/admin/audit/{page}/add/").status_code == 403
    assert admin_client.post(f"/admin/audit/{page}/{row}/change/", {"actor": "x"}).status_code == 403
    assert admin_client.post(f"/admin/audit/{page}/{row}/delete/", {"post": "yes"}).status_code == 403
