"""The demo tools: listed with schemas, strict about arguments, once per key, and each tenant in its own shop."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import quote

import jwt
import pytest
from django.conf import settings
from django.db import connection
from django.test import Client

from apps.control_plane.domain.shop import opening_orders
from apps.control_plane.models import ShopOrder, ShopRefund

pytestmark = pytest.mark.usefixtures("store")


def call(name: str, arguments: Any = None, *, tenant: str = "acme", status: int = 200, **body: Any) -> Any:
    claims = {"type": "agent", "user_id": "user-1", "agent_role": "support", "tenant_id": tenant}
    client = Client(
        headers={"X-Agent-Token": jwt.encode(claims, settings.AGENT_JWT_SECRET, algorithm="HS256"), "X-Trace-ID": "t-1"}
    )
    if not name:
        return client.get("/api/tools").json()
    body |= {} if arguments is None else {"arguments": arguments}
    response = client.post(f"/api/tools/{quote(name, safe='')}", body, content_type="application/json")
    assert response.status_code == status, response.content
    return response.json()


def parameters(required: list[str], **properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


ORDER_ID = {"type": "string", "minLength": 1, "maxLength": 32, "description": "For example ORD-1001."}
AMOUNT = {"type": "number", "minimum": 0.01, "description": "In EUR; without it, all that is left is refunded."}


def test_the_list_has_names_descriptions_and_schemas() -> None:
    tools = call("")["tools"]
    assert all(tool["description"].endswith(".") for tool in tools)
    assert {tool["name"]: tool["parameters"] for tool in tools} == {
        "customers:search": parameters(
            ["query"],
            query={"type": "string", "minLength": 2, "maxLength": 100},
            limit={"type": "integer", "minimum": 1, "maximum": 20},
        ),
        "orders:lookup": parameters(["order_id"], order_id=ORDER_ID),
        "orders:refund": parameters(
            ["order_id", "reason"],
            order_id=ORDER_ID,
            amount=AMOUNT,
            reason={"type": "string", "minLength": 3, "maxLength": 500},
        ),
    }
    assert [tool["name"] for tool in tools] == ["customers:search", "orders:lookup", "orders:refund"]


def test_an_order_is_looked_up() -> None:
    assert call("orders:lookup", {"order_id": "ORD-1001"}) == {
        "order_id": "ORD-1001",
        "status": "delivered",
        "customer": {"customer_id": "CUS-201", "name": "Mara Lindqvist"},
        "items": [
            {"sku": "LNT-CMP", "name": "Camping lantern, brushed brass", "quantity": 1, "unit_price": 89.0},
            {"sku": "GAS-230", "name": "Gas cartridge, 230 g", "quantity": 2, "unit_price": 12.5},
        ],
        "total": 114.0,
        "refunded": 0.0,
        "currency": "EUR",
        "placed_at": "2026-01-05T09:00:00.000Z",
    }


def test_every_opening_order_can_be_looked_up() -> None:
    for order in opening_orders():
        found = call("orders:lookup", {"order_id": order.number})
        assert found["total"] == pytest.approx(sum(each["quantity"] * each["unit_price"] for each in found["items"]))


@pytest.mark.parametrize(
    ("arguments", "numbers"),
    [
        ({"query": "mara"}, ["CUS-201"]),
        ({"query": "EXAMPLE.ORG"}, ["CUS-203", "CUS-206"]),
        ({"query": "example", "limit": 2}, ["CUS-201", "CUS-202"]),
        ({"query": "%%"}, []),
    ],
)
def test_customers_are_found(arguments: dict[str, Any], numbers: list[str]) -> None:
    assert [each["customer_id"] for each in call("customers:search", arguments)["customers"]] == numbers


def test_a_refund_is_paid_once_per_key() -> None:
    arguments = {"order_id": "ORD-1002", "amount": 49.9, "reason": "Scratched leg"}
    first = call("orders:refund", arguments, idempotency_key="k", trace_id="trace-1")
    assert (first["amount"], first["order_status"], first["refunded_total"]) == (49.9, "partially_refunded", 49.9)
    assert call("orders:refund", arguments, idempotency_key="k", trace_id="trace-2") == first
    refund = ShopRefund.objects.get()
    assert (refund.amount_cents, refund.actor, refund.trace_id) == (4990, "agent:support", "trace-1")
    changed = arguments | {"amount": 50}
    assert call("orders:refund", changed, idempotency_key="k", status=409)["code"] == "idempotency_mismatch"
    rest = call("orders:refund", {"order_id": "ORD-1002", "reason": "The rest"})
    assert (rest["amount"], rest["order_status"], rest["refunded_total"]) == (199.1, "refunded", 249.0)
    again = call("orders:refund", {"order_id": "ORD-1002", "reason": "Once more"}, status=409)
    assert again["code"] == "refund_refused"


@pytest.mark.parametrize(
    "arguments",
    [
        {"order_id": "ORD-1005", "reason": "Cancelled anyway"},
        {"order_id": "ORD-1010", "reason": "Not paid yet"},
        {"order_id": "ORD-1006", "reason": "Too much", "amount": 75.01},
        {"order_id": "ORD-1006", "reason": "Too fine", "amount": 0.015},
    ],
)
def test_refunds_the_shop_does_not_allow(arguments: dict[str, Any]) -> None:
    assert call("orders:refund", arguments, status=409)["code"] == "refund_refused"
    assert not ShopRefund.objects.exists()


def test_each_tenant_has_its_own_shop() -> None:
    call("orders:refund", {"order_id": "ORD-1001", "reason": "Broken"}, tenant="acme")
    assert call("orders:lookup", {"order_id": "ORD-1001"}, tenant="globex")["refunded"] == 0
    assert call("orders:lookup", {"order_id": "ORD-1001"}, tenant="acme")["refunded"] == 114.0
    assert ShopOrder.objects.count() == 2 * len(opening_orders())


@pytest.mark.parametrize(
    ("name", "arguments", "faults"),
    [
        ("orders:lookup", None, {"arguments.order_id"}),
        ("orders:lookup", {"order_id": 7}, {"arguments.order_id"}),
        ("orders:lookup", {"order_id": "ORD-1001", "path": "/etc"}, {"arguments.path"}),
        ("orders:refund", {"amount": 0, "reason": "okay"}, {"arguments.order_id", "arguments.amount"}),
        ("orders:refund", {"order_id": "ORD-1001", "reason": "no"}, {"arguments.reason"}),
        ("customers:search", {"query": "x", "limit": 1.5}, {"arguments.query", "arguments.limit"}),
        ("customers:search", {"query": "xy", "limit": True}, {"arguments.limit"}),
        ("customers:search", {"query": "xy", "limit": 21}, {"arguments.limit"}),
        ("orders:refund", {"order_id": "ORD-1001", "reason": "okay", "amount": None}, {"arguments.amount"}),
        ("orders:refund", {"order_id": "ORD-1001", "reason": "okay", "amount": 10**400}, {"arguments.amount"}),
        ("orders:lookup", [], {"arguments"}),
    ],
)
def test_arguments_are_checked(name: str, arguments: Any, faults: set[str]) -> None:
    assert set(call(name, arguments, status=400)["details"]["fieldErrors"]) == faults


def test_what_does_not_exist() -> None:
    assert call("orders:delete", {}, status=404)["code"] == "tool_not_found"
    assert call("../tasks", {}, status=404)["code"] == "tool_not_found"
    assert call("orders:lookup", {"order_id": "ORD-9999"}, status=404)["code"] == "order_not_found"


def test_a_token_does_not_open_another_tenants_shop() -> None:
    body = {"order_id": "ORD-1001"}
    assert call("orders:lookup", body, tenant_id="acme")["order_id"] == "ORD-1001"
    assert call("orders:lookup", body, tenant_id="globex", status=403)["code"] == "permission_denied"
    assert call("orders:lookup", body, tenant_id="", status=403)["code"] == "permission_denied"
    assert call("orders:lookup", body, tenant_id=None, status=400)["details"]["fieldErrors"].keys() == {"tenant_id"}


def test_refunds_at_once_never_pay_more_than_the_order() -> None:
    def refund(number: int) -> int:
        try:
            found = call("orders:refund", {"order_id": "ORD-1001", "amount": 30, "reason": "At once"}, status=200)
        except AssertionError:
            return 0
        else:
            return int(found["amount"])
        finally:
            connection.close()

    with ThreadPoolExecutor(8) as pool:
        paid = sum(pool.map(refund, range(8)))
    assert paid == 90
    assert ShopOrder.objects.get(number="ORD-1001").refunded_cents == 9000
