"""Serializers that are not Structs yet."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any, ClassVar

from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter
from rest_framework import serializers
from rest_framework.request import Request

from apps.identity.api import tenant_of
from clasper.core.inputs import Input
from clasper.core.money import MAX_AMOUNT, NANO_PER_USD
from clasper.core.tenancy import AllTenants, TenantScope

MAX_USD = Decimal(MAX_AMOUNT // NANO_PER_USD)

TENANT_PARAMETER = OpenApiParameter(
    "tenant_id", OpenApiTypes.STR, description="Needed with the platform key; a tenant's key stands for its own."
)


class USDField(serializers.DecimalField):
    """Dollars as a JSON number or a numeric text, as an exact Decimal. Bounded here, before any arithmetic."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(max_digits=None, decimal_places=None, min_value=0, max_value=MAX_USD, **kwargs)


class TenantInput(Input):
    """A body or query about one tenant."""

    tenant_id = serializers.CharField(
        required=False,
        max_length=128,
        trim_whitespace=False,
        help_text="Needed with the platform key; a tenant's key stands for its own.",
    )

    tenant_required: ClassVar[bool] = True

    def get_fields(self) -> dict[str, serializers.Field[Any, Any, Any, Any]]:
        fields = super().get_fields()
        fields["tenant_id"].required = self.tenant_required and isinstance(self.context.get("tenants"), AllTenants)
        return fields


def body_of(request: Request) -> dict[str, Any]:
    """The JSON object of the body; the parser has refused everything else."""
    return request.data if isinstance(request.data, dict) else {}


def read_input(
    kind: type[TenantInput], request: Request, data: Mapping[str, Any]
) -> tuple[TenantScope, dict[str, Any]]:
    """Whose data the input is about, and its values.

    Raises PermissionDenied for a foreign tenant, which is audited, and a validation error naming all faults.
    """
    named = data.get("tenant_id")
    tenants = tenant_of(request, str(named) if isinstance(named, str | int) else None)
    serializer = kind(data=data, context={"tenants": tenants})
    serializer.is_valid(raise_exception=True)
    return tenants, serializer.validated_data


def read_tenant_input(kind: type[TenantInput], request: Request, data: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """As `read_input`, for an operation on one tenant, which the platform must name."""
    tenants, values = read_input(kind, request, data)
    if isinstance(tenants, AllTenants):
        raise serializers.ValidationError({"tenant_id": ["Name a tenant."]})
    return tenants.tenant_id, values
