"""The tools of the demo shop: each works on the caller's tenant's own shop, which is created on first use."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from datetime import datetime
from typing import Any, Final

import msgspec
from django.db.models import Q

from apps.control_plane.domain import shop
from apps.control_plane.domain.contract import ToolCall
from apps.control_plane.domain.scope import Scope
from apps.control_plane.models import ShopCustomer, ShopOrder, ShopRefund
from apps.control_plane.services.once import once
from clasper.core.clock import iso
from clasper.core.errors import Conflict, InvalidRequest, NotFound
from clasper.core.schemas import Input
from clasper.core.validation import read

Result = dict[str, Any]


def run_tool(*, scope: Scope, name: str, call: ToolCall, trace_id: str, now: datetime) -> Result:
    """Runs a tool and returns its JSON result.

    Raises NotFound for an unknown tool or order, InvalidRequest with every error in the arguments, Conflict for a
    refund that the shop does not allow, and IdempotencyMismatch.
    """
    if name not in shop.TOOLS:
        raise NotFound("No such tool.", code="tool_not_found")
    arguments = _read_arguments(shop.TOOLS[name], call.arguments)

    def create() -> Result:
        open_shop(tenant_id=scope.tenant_id)
        return _TOOLS[name](scope, arguments, trace_id, now)

    return once(
        scope=scope, endpoint=f"tools/{name}", key=call.key, request=call.arguments, kind=Result, now=now, create=create
    )


def open_shop(*, tenant_id: str) -> None:
    """Creates the tenant's demo shop unless it exists."""
    if ShopOrder.objects.for_tenant(tenant_id).exists():
        return
    ShopCustomer.objects.bulk_create(
        [ShopCustomer(tenant_id=tenant_id, **asdict(customer)) for customer in shop.CUSTOMERS], ignore_conflicts=True
    )
    ShopOrder.objects.bulk_create(
        [
            ShopOrder(
                tenant_id=tenant_id,
                number=order.number,
                customer_number=order.customer,
                status=order.status,
                items=msgspec.json.encode(order.items).decode(),
                total_cents=order.total_cents,
                placed_at=order.placed_at,
            )
            for order in shop.opening_orders()
        ],
        ignore_conflicts=True,
    )


def _read_arguments(kind: type[Input], arguments: dict[str, Any]) -> Input:
    try:
        return read(kind, arguments)
    except InvalidRequest as error:
        errors = {f"arguments.{name}": texts for name, texts in error.details["fieldErrors"].items()}
        raise InvalidRequest("The tool's arguments are not valid.", field_errors=errors) from error


def _search_customers(scope: Scope, arguments: shop.CustomerSearch, trace_id: str, now: datetime) -> Result:
    query = arguments.query
    found = (
        ShopCustomer.objects.for_tenant(scope.tenant_id)
        .filter(Q(name__icontains=query) | Q(email__icontains=query) | Q(city__icontains=query))
        .order_by("number")[: arguments.limit]
    )
    return {
        "customers": [
            {"customer_id": customer.number, "name": customer.name, "email": customer.email, "city": customer.city}
            for customer in found
        ]
    }


def _look_up_order(scope: Scope, arguments: shop.OrderLookup, trace_id: str, now: datetime) -> Result:
    order = _order(scope, arguments.order_id)
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


def _refund_order(scope: Scope, arguments: shop.OrderRefund, trace_id: str, now: datetime) -> Result:
    order = _order(scope, arguments.order_id, lock=True)
    decision = shop.decide_refund(
        number=order.number,
        status=order.status,
        total_cents=order.total_cents,
        refunded_cents=order.refunded_cents,
        amount=arguments.amount,
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
        reason=arguments.reason,
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


_TOOLS: Final[Mapping[str, Callable[[Scope, Any, str, datetime], Result]]] = {
    "customers:search": _search_customers,
    "orders:lookup": _look_up_order,
    "orders:refund": _refund_order,
}
