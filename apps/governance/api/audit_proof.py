"""GET and POST /audit/verify, GET /audit/checkpoint and /audit/export: proving the audit log, here and elsewhere."""

from __future__ import annotations

from typing import Annotated, Any

from django.http import StreamingHttpResponse
from drf_spectacular.types import OpenApiTypes
from msgspec import Meta
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from apps.audit.domain.chain import AllChains, TenantChain, summarize, summarize_all
from apps.audit.domain.checkpoint import Checkpoint, checkpoint_errors, read_checkpoint
from apps.audit.services.checkpoints import take_checkpoint, verify_against
from apps.audit.services.export import MEDIA_TYPES, NDJSON, Format, export_chunks, plan_export
from apps.audit.services.reading import verify_all, verify_chain
from apps.governance.api.audit import ChainQuery, RangeQuery
from apps.identity.api import principal_of, read_body, read_query, tenant_of
from apps.identity.domain.permissions import GOVERNANCE_READ
from clasper.core.clock import utc_now
from clasper.core.errors import InvalidRequest
from clasper.core.export import streamed
from clasper.core.http import operation
from clasper.core.schemas import Codec, Input, about
from clasper.core.tenancy import AllTenants


def _read_checkpoint(value: Any) -> Checkpoint:
    errors = checkpoint_errors(value)
    if isinstance(value, dict) and (unknown := value.keys() - set(Checkpoint.__struct_fields__)):
        errors.append(f"a checkpoint has no field {min(unknown)[:80]}")
    if errors:
        raise ValueError(*errors)
    return read_checkpoint(value)


class VerifyInput(Input, frozen=True, kw_only=True):
    """A checkpoint to compare a chain with."""

    checkpoint: Annotated[
        Checkpoint, Codec(read=_read_checkpoint, json=Checkpoint), about("What GET /audit/checkpoint returned.")
    ]
    public_key: Annotated[
        Annotated[str, Meta(min_length=1, max_length=64)] | None,
        about("The key to trust. Default: that of CLASPER_AUDIT_SIGNING_KEY."),
    ] = None


class ExportQuery(RangeQuery, frozen=True, kw_only=True):
    """The time range, and as which kind of file it is exported."""

    format: Annotated[Format, about("csv has no checkpoint.")] = NDJSON


class AuditVerifyView(APIView):
    """The proof that nobody changed the audit log."""

    required_scopes = {"GET": GOVERNANCE_READ, "POST": GOVERNANCE_READ}

    @operation("audit_verify", query=ChainQuery, response=TenantChain | AllChains)
    def get(self, request: Request) -> Response:
        """Recompute a tenant's hash chain, or every tenant's, and name the first entry that does not fit."""
        tenants, _ = read_query(ChainQuery, request)
        if isinstance(tenants, AllTenants):
            return Response(summarize_all(verify_all()))
        return Response(summarize(tenants.tenant_id, verify_chain(tenant_id=tenants.tenant_id)))

    @operation("audit_verify_checkpoint", body=VerifyInput, response=TenantChain)
    def post(self, request: Request) -> Response:
        """Recompute a chain and hold it against a checkpoint of it: a cut end or a rewritten chain shows."""
        _, body = read_body(VerifyInput, request)
        checkpoint = body.checkpoint
        if tenant_of(request, checkpoint.tenant_id).audit_chain != checkpoint.tenant_id:
            raise InvalidRequest(field_errors={"checkpoint": ["This checkpoint is of the platform's own chain."]})
        report = verify_against(
            tenant_id=checkpoint.tenant_id,
            checkpoints=[checkpoint],
            trusted=None if body.public_key is None else [body.public_key],
        )
        return Response(summarize(checkpoint.tenant_id, report))


class AuditCheckpointView(APIView):
    """Signed statements to keep outside the database."""

    required_scopes = {"GET": GOVERNANCE_READ}
    http_method_names = ["get"]  # HEAD would audit a checkpoint that nobody receives

    @operation("audit_checkpoint", query=ChainQuery, response=Checkpoint)
    def get(self, request: Request) -> Response:
        """Sign where a tenant's chain ends now, or the platform's own chain when no tenant is named.

        404 for a chain without entries, 409 `audit_chain_broken` when its last entry does not verify.
        """
        tenants, _ = read_query(ChainQuery, request)
        checkpoint = take_checkpoint(tenant_id=tenants.audit_chain, actor=principal_of(request).actor, now=utc_now())
        return Response(checkpoint)


class AuditExportView(APIView):
    """The audit log as a file."""

    required_scopes = {"GET": GOVERNANCE_READ}
    http_method_names = ["get"]  # HEAD would audit an export of which nothing is sent

    @operation(
        "audit_export",
        query=ExportQuery,
        response={(200, kind.partition(";")[0]): OpenApiTypes.STR for kind in MEDIA_TYPES.values()},
    )
    def get(self, request: Request) -> StreamingHttpResponse:
        """Stream entries in the order of their chain; ndjson ends with a checkpoint or with what is wrong."""
        tenants, query = read_query(ExportQuery, request)
        now = utc_now()
        export = plan_export(
            tenants=tenants,
            format_name=query.format,
            actor=principal_of(request).actor,
            now=now,
            start=query.start,
            end=query.end,
        )
        chunks = export_chunks(export, now=now)
        response = StreamingHttpResponse(streamed(chunks), content_type=MEDIA_TYPES[query.format])
        response["Content-Disposition"] = f'attachment; filename="audit.{query.format}"'
        return response
