"""The tools of the demo shop: each works on the caller's tenant's own shop, which opens when it is first used."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Final

import msgspec
from django.db.models import Q

from apps.control_plane.domain import shop
from apps.control_plane.domain.schema import faults_of
from apps.control_plane.domain.scope import Scope
from apps.control_plane.models import ShopCustomer, ShopOrder, ShopRefund
from apps.control_plane.services.once import once
from clasper.core.clock import iso
from clasper.core.errors import Conflict, InvalidRequest, NotFound

Result = dict[str, Any]


def run_tool(
    *, scope: Scope, name: str, arguments: Mapping[str, Any], key: str, trace_id: str, now: datetime
) -> Result:
    """Runs a tool and gives its JSON result.

    Raises NotFound for an unknown tool or order, InvalidRequest with every fault of the arguments, Conflict for a
    refund that the shop does not allow, and IdempotencyMismatch.
    """
    tool = shop.TOOLS.get(name)
    if tool is None:
        raise NotFound("No such tool.", code="tool_not_found")
    if faults := faults_of(arguments, tool["parameters"], prefix="arguments."):
        raise InvalidRequest("The tool's arguments are not valid.", field_errors=faults)

    def create() -> Result:
        open_shop(tenant_id=scope.tenant_id)
        return _TOOLS[name](scope, arguments, trace_id, now)

    return once(
        scope=scope,
        endpoint=f"tools/{name}",
        key=key,
        request=arguments,
        kind=dict[str, Any],
        now=now,
        create=create,
    )


def open_shop(*, tenant_id: str) -> None:
    """Gives the tenant its demo shop, once."""
    if ShopOrder.objects.for_tenant(tenant_id).exists():
        return
    ShopCustomer.objects.bulk_create(
        [
            ShopCustomer(tenant_id=tenant_id, number=each.number, name=each.name, email=each.email, city=each.city)
            for each in shop.CUSTOMERS
        ],
        ignore_conflicts=True,
    )
    ShopOrder.objects.bulk_create(
        [
            ShopOrder(
                tenant_id=tenant_id,
                number=each.number,
                customer_number=each.customer,
                status=each.status,
                items=msgspec.json.encode(each.items).decode(),
                total_cents=each.total_cents,
                placed_at=each.placed_at,
            )
            for each in shop.opening_orders()
        ],
        ignore_conflicts=True,
    )


def _search_customers(scope: Scope, arguments: Mapping[str, Any], trace_id: str, now: datetime) -> Result:
    query = arguments["query"]
    found = (
        ShopCustomer.objects.for_tenant(scope.tenant_id)
        .filter(Q(name__icontains=query) | Q(email__icontains=query) | Q(city__icontains=query))
        .order_by("number")[: arguments.get("limit", shop.SEARCH_LIMIT)]
    )
    return {
        "customers": [
            {"customer_id": each.number, "name": each.name, "email": each.email, "city": each.city} for each in found
        ]
    }


def _look_up_order(scope: Scope, arguments: Mapping[str, Any], trace_id: str, now: datetime) -> Result:
    order = _order(scope, arguments["order_id"])
    customer = ShopCustomer.objects.for_tenant(scope.tenant_id).get(number=order.customer_number)
    items = msgspec.json.decode(order.items, type=list[shop.Item])
    return {
        "order_id": order.number,
        "status": order.status,
        "customer": {"customer_id": customer.number, "name": customer.name},
        "items": [
            {"sku": item.sku, "name": item.name, "quantity": item.quantity, "unit_price": shop.euros(item.unit_cents)}
            for item in items
        ],
        "total": shop.euros(order.total_cents),
        "refunded": shop.euros(order.refunded_cents),
        "currency": shop.CURRENCY,
        "placed_at": iso(order.placed_at),
    }


def _refund_order(scope: Scope, arguments: Mapping[str, Any], trace_id: str, now: datetime) -> Result:
    order = _order(scope, arguments["order_id"], lock=True)
    decision = shop.decide_refund(
        number=order.number,
        status=order.status,
        total_cents=order.total_cents,
        refunded_cents=order.refunded_cents,
        amount=arguments.get("amount"),
    )
    if isinstance(decision, shop.RefundRefused):
        raise Conflict(decision.reason, code="refund_refused")
    order.refunded_cents += decision
    order.status = "refunded" if order.refunded_cents == order.total_cents else "partially_refunded"
    order.save(update_fields=["refunded_cents", "status"])
    refund = ShopRefund.objects.create(
        tenant_id=scope.tenant_id,
        order_number=order.number,
        amount_cents=decision,
        reason=arguments["reason"],
        actor=scope.actor,
        trace_id=trace_id,
        created_at=now,
    )
    return {
        "refund_id": refund.id,
        "order_id": order.number,
        "amount": shop.euros(decision),
        "currency": shop.CURRENCY,
        "order_status": order.status,
        "refunded_total": shop.euros(order.refunded_cents),
    }


def _order(scope: Scope, number: str, *, lock: bool = False) -> ShopOrder:
    rows = ShopOrder.objects.for_tenant(scope.tenant_id).filter(number=number)
    order: ShopOrder | None = (rows.select_for_update() if lock else rows).first()
    if order is None:
        raise NotFound("No such order.", code="order_not_found")
    return order


_TOOLS: Final[Mapping[str, Callable[[Scope, Mapping[str, Any], str, datetime], Result]]] = {
    "customers:search": _search_customers,
    "orders:lookup": _look_up_order,
    "orders:refund": _refund_order,
}
