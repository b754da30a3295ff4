"""GET and POST /audit/verify, GET /audit/checkpoint and /audit/export: proving the audit log, here and elsewhere."""

from __future__ import annotations

from typing import Any

from django.http import StreamingHttpResponse
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema, extend_schema_field
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from apps.audit.domain.chain import summarize, summarize_all
from apps.audit.domain.checkpoint import Checkpoint, checkpoint_body, checkpoint_errors, read_checkpoint
from apps.audit.services.checkpoints import take_checkpoint, verify_against
from apps.audit.services.export import CSV, MEDIA_TYPES, NDJSON, export_chunks, plan_export
from apps.audit.services.reading import verify_all, verify_chain
from apps.governance.api.audit import RangeQuery, TenantQuery, time_range
from apps.identity.api import asked, principal_of, tenant_of
from apps.identity.domain.permissions import GOVERNANCE_READ
from clasper.core.clock import utc_now
from clasper.core.export import streamed
from clasper.core.inputs import OneOfField
from clasper.core.tenancy import AllTenants


class ChainBody(serializers.Serializer[Any]):
    valid = serializers.BooleanField()
    first_bad_seq = serializers.IntegerField(allow_null=True)
    tenant_id = serializers.CharField(required=False)
    checked = serializers.IntegerField(required=False, help_text="Entries found good.")
    reason = serializers.CharField(required=False, help_text="What is wrong; empty for a valid chain.")
    last_seq = serializers.IntegerField(required=False)
    last_hash = serializers.CharField(required=False)
    checkpoint_seq = serializers.IntegerField(
        required=False, allow_null=True, help_text="The seq of the checkpoint that the chain was compared with, if any."
    )


class VerifyBody(ChainBody):
    tenants = ChainBody(many=True, required=False, help_text="Each chain, when no tenant was named.")


class CheckpointBody(serializers.Serializer[Any]):
    tenant_id = serializers.CharField(help_text="Empty for the platform's own chain.")
    seq = serializers.IntegerField(help_text="The chain's last entry.")
    hash = serializers.CharField(help_text="That entry's hash.")
    created_at = serializers.DateTimeField()
    public_key = serializers.CharField(help_text="The Ed25519 public key, base64 of 32 bytes.")
    signature = serializers.CharField(
        help_text="Base64. Covers the canonical JSON (RFC 8785) of tenant_id, seq, hash and created_at."
    )


@extend_schema_field(CheckpointBody)
class CheckpointField(serializers.Field[Checkpoint, Any, Any, Any]):
    """A checkpoint as it was given out."""

    def to_internal_value(self, data: Any) -> Checkpoint:
        faults = checkpoint_errors(data)
        if faults:
            raise serializers.ValidationError(faults)
        return read_checkpoint(data)

    def to_representation(self, value: Checkpoint) -> dict[str, Any]:
        return checkpoint_body(value)


class VerifyInput(serializers.Serializer[Any]):
    checkpoint = CheckpointField(help_text="What GET /audit/checkpoint gave.")
    public_key = serializers.CharField(
        required=False, max_length=64, help_text="The key to believe. Default: that of CLASPER_AUDIT_SIGNING_KEY."
    )


class ExportQuery(RangeQuery):
    format = OneOfField(choices=[NDJSON, CSV], default=NDJSON, help_text="csv carries no checkpoint.")


class AuditVerifyView(APIView):
    """The proof that nobody changed the audit log."""

    required_scopes = {"GET": GOVERNANCE_READ, "POST": GOVERNANCE_READ}

    @extend_schema(operation_id="audit_verify", tags=["Governance"], parameters=[TenantQuery], responses=VerifyBody)
    def get(self, request: Request) -> Response:
        """Recompute a tenant's hash chain, or every tenant's, and name the first entry that does not fit."""
        tenants, _ = asked(TenantQuery, request)
        if isinstance(tenants, AllTenants):
            return Response(summarize_all(verify_all()))
        return Response(summarize(tenants.tenant_id, verify_chain(tenant_id=tenants.tenant_id)))

    @extend_schema(
        operation_id="audit_verify_checkpoint", tags=["Governance"], request=VerifyInput, responses=VerifyBody
    )
    def post(self, request: Request) -> Response:
        """Recompute a chain and hold it against a checkpoint of it: a cut end or a rewritten chain shows."""
        body = VerifyInput(data=request.data)
        body.is_valid(raise_exception=True)
        checkpoint: Checkpoint = body.validated_data["checkpoint"]
        if tenant_of(request, checkpoint.tenant_id).audit_chain != checkpoint.tenant_id:
            raise serializers.ValidationError({"checkpoint": ["This checkpoint is of the platform's own chain."]})
        named = body.validated_data.get("public_key")
        report = verify_against(
            tenant_id=checkpoint.tenant_id, checkpoints=[checkpoint], trusted=None if named is None else [named]
        )
        return Response(summarize(checkpoint.tenant_id, report))


class AuditCheckpointView(APIView):
    """Signed statements to keep outside the database."""

    required_scopes = {"GET": GOVERNANCE_READ}
    http_method_names = ["get"]  # HEAD would audit a checkpoint that is not given out

    @extend_schema(
        operation_id="audit_checkpoint", tags=["Governance"], parameters=[TenantQuery], responses=CheckpointBody
    )
    def get(self, request: Request) -> Response:
        """Sign where a tenant's chain stands now, or the platform's own when no tenant is named.

        404 for a chain without entries, 409 `audit_chain_broken` when its last entry does not verify.
        """
        tenants, _ = asked(TenantQuery, request)
        checkpoint = take_checkpoint(tenant_id=tenants.audit_chain, actor=principal_of(request).actor, now=utc_now())
        return Response(checkpoint_body(checkpoint))


class AuditExportView(APIView):
    """The audit log as a file."""

    required_scopes = {"GET": GOVERNANCE_READ}
    http_method_names = ["get"]  # HEAD would audit an export of which nothing is sent

    @extend_schema(
        operation_id="audit_export",
        tags=["Governance"],
        parameters=[ExportQuery],
        responses={(200, kind.partition(";")[0]): OpenApiTypes.STR for kind in MEDIA_TYPES.values()},
    )
    def get(self, request: Request) -> StreamingHttpResponse:
        """Stream entries in the order of their chain; ndjson ends with a line that is a checkpoint or tells a fault."""
        tenants, query = asked(ExportQuery, request)
        start, end = time_range(query)
        name, now = query["format"], utc_now()
        export = plan_export(
            tenants=tenants,
            format_name=name,
            actor=principal_of(request).actor,
            now=now,
            start=start,
            end=end,
        )
        chunks = export_chunks(export, now=now)
        response = StreamingHttpResponse(streamed(chunks), content_type=MEDIA_TYPES[name])
        response["Content-Disposition"] = f'attachment; filename="audit.{name}"'
        return response
