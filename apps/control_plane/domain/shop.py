"""The demo shop behind the embedded control plane's tools: its data, its tools and its rules for refunds.

Harbor & Pine sells outdoor goods. Every tenant gets the same shop to start with, so that examples and
tests can name its orders; what a tenant's agents do to it is the tenant's alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import cache
from typing import Annotated, Any, Final

import msgspec
from msgspec import UNSET, Meta, UnsetType

from clasper.core.schemas import Input, about

CURRENCY: Final = "EUR"
REFUNDABLE: Final = ("paid", "shipped", "delivered", "partially_refunded")
SEARCH_LIMIT: Final = 20

_OPENED = datetime(2026, 1, 5, 9, 0, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Customer:
    """Somebody who bought something."""

    number: str
    name: str
    email: str
    city: str


@dataclass(frozen=True, slots=True)
class Item:
    """A line of an order; the price of one piece is in cents."""

    sku: str
    name: str
    quantity: int
    unit_cents: int


@dataclass(frozen=True, slots=True)
class Order:
    """An order of a new shop."""

    number: str
    customer: str
    status: str
    items: tuple[Item, ...]
    placed_at: datetime

    @property
    def total_cents(self) -> int:
        return sum(item.quantity * item.unit_cents for item in self.items)


CUSTOMERS: Final = (
    Customer("CUS-201", "Mara Lindqvist", "mara.lindqvist@example.com", "Göteborg"),
    Customer("CUS-202", "Tomás Herrera", "tomas.herrera@example.com", "Valencia"),
    Customer("CUS-203", "Aoife Brennan", "aoife.brennan@example.org", "Galway"),
    Customer("CUS-204", "Jonas Keller", "jonas.keller@example.net", "Freiburg"),
    Customer("CUS-205", "Chiara Moretti", "chiara.moretti@example.com", "Torino"),
    Customer("CUS-206", "Noor van Dijk", "noor.vandijk@example.org", "Utrecht"),
)

_STOCK: Final = {
    "LNT-CMP": ("Camping lantern, brushed brass", 8_900),
    "TNT-2P": ("Tent for two, green", 24_900),
    "BAG-DWN": ("Down sleeping bag, -5 °C", 15_900),
    "GAS-230": ("Gas cartridge, 230 g", 1_250),
    "STV-PCK": ("Pocket stove, titanium", 17_500),
    "MAT-INF": ("Inflatable mat, regular", 6_400),
}

_ORDERS: Final = (
    ("CUS-201", "delivered", (("LNT-CMP", 1), ("GAS-230", 2))),
    ("CUS-202", "shipped", (("TNT-2P", 1),)),
    ("CUS-203", "paid", (("MAT-INF", 3),)),
    ("CUS-204", "delivered", (("STV-PCK", 1), ("LNT-CMP", 1))),
    ("CUS-205", "cancelled", (("BAG-DWN", 2),)),
    ("CUS-206", "delivered", (("GAS-230", 6),)),
    ("CUS-201", "shipped", (("BAG-DWN", 1), ("GAS-230", 1))),
    ("CUS-203", "delivered", (("TNT-2P", 1), ("STV-PCK", 2))),
    ("CUS-204", "paid", (("BAG-DWN", 3), ("GAS-230", 3))),
    ("CUS-202", "pending", (("MAT-INF", 1),)),
)


def opening_orders() -> tuple[Order, ...]:
    """The orders of a new shop, ORD-1001 onwards."""
    return tuple(
        Order(
            number=f"ORD-{1001 + index}",
            customer=customer,
            status=status,
            items=tuple(Item(sku, _STOCK[sku][0], quantity, _STOCK[sku][1]) for sku, quantity in lines),
            placed_at=_OPENED + timedelta(days=3 * index, hours=index, minutes=7 * index),
        )
        for index, (customer, status, lines) in enumerate(_ORDERS)
    )


def euros(cents: int) -> float:
    """Cents as the number that JSON shows."""
    return float(Decimal(cents).scaleb(-2))


@dataclass(frozen=True, slots=True)
class RefundRefused:
    """Why a refund is not possible, as a sentence."""

    reason: str


def decide_refund(
    *, number: str, status: str, total_cents: int, refunded_cents: int, amount: float | UnsetType
) -> int | RefundRefused:
    """The cents to pay back: what was asked for, or all that is left of the order."""
    left = total_cents - refunded_cents
    if status not in REFUNDABLE or left <= 0:
        return RefundRefused(f"Order {number} is {status} and cannot be refunded.")
    if amount is UNSET:
        return left
    cents = Decimal(str(amount)).scaleb(2)
    if cents != cents.to_integral_value():
        return RefundRefused("The amount has more than two decimals.")
    if cents > left:
        return RefundRefused(f"At most {euros(left):.2f} {CURRENCY} of order {number} can still be refunded.")
    return int(cents)


OrderId = Annotated[str, about("For example ORD-1001.", min_length=1, max_length=32)]


class CustomerSearch(Input, frozen=True, kw_only=True):
    """Finds customers of the shop by a part of their name, e-mail address or city."""

    query: Annotated[str, Meta(min_length=2, max_length=100)]
    limit: Annotated[int, Meta(ge=1, le=SEARCH_LIMIT)] = SEARCH_LIMIT


class OrderLookup(Input, frozen=True, kw_only=True):
    """Shows an order: status, customer, items, total and what has been refunded."""

    order_id: OrderId


class OrderRefund(Input, frozen=True, kw_only=True):
    """Pays money of an order back to the customer. This cannot be undone."""

    order_id: OrderId
    amount: (
        Annotated[float, about(f"In {CURRENCY}; without it, all that is left is refunded.", ge=0.01)] | UnsetType
    ) = UNSET
    reason: Annotated[str, Meta(min_length=3, max_length=500)]


TOOLS: Final[Mapping[str, type[Input]]] = {
    "customers:search": CustomerSearch,
    "orders:lookup": OrderLookup,
    "orders:refund": OrderRefund,
}
"""The arguments of the tools; models see their docstrings as the tools' descriptions."""


@cache
def described(name: str) -> dict[str, Any]:
    """A tool as the contract lists it: name, description and the JSON Schema of its arguments."""
    kind = TOOLS[name]
    parameters = msgspec.json.schema_components([kind])[1][kind.__name__]
    del parameters["title"]
    for argument in parameters["properties"].values():
        argument.pop("default", None)
    return {"name": name, "description": parameters.pop("description"), "parameters": parameters}
