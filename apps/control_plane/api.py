"""The contract's endpoints. The bearer of a valid agent token acts within that token's scope."""

from __future__ import annotations

from typing import cast

import jwt
from django.conf import settings
from msgspec import UNSET
from rest_framework.authentication import BaseAuthentication
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from apps.control_plane import queries
from apps.control_plane.domain import contract, shop
from apps.control_plane.domain.scope import Scope, scope_of
from apps.control_plane.services import threads, tools
from clasper.core.clock import utc_now
from clasper.core.errors import PermissionDenied, Unauthenticated
from clasper.core.validation import read

_CLOCK_SKEW_SECONDS = 30


class AgentTokenAuthentication(BaseAuthentication):
    """`X-Agent-Token`: a JWT signed with AGENT_JWT_SECRET. `request.auth` is its Scope."""

    def authenticate(self, request: Request) -> tuple[None, Scope]:
        try:
            claims = jwt.decode(
                request.headers.get("X-Agent-Token", ""),
                settings.AGENT_JWT_SECRET,
                algorithms=[settings.AGENT_JWT_ALGORITHM],
                leeway=_CLOCK_SKEW_SECONDS,
                options={"verify_aud": False},  # optional in the contract; scope_of checks it when it is there
            )
        except jwt.PyJWTError as error:
            raise Unauthenticated("Missing, invalid or expired agent token.") from error
        scope = scope_of(claims)
        if scope is None:
            raise Unauthenticated("The token is not an agent token for this control plane.")
        return None, scope


class ContractView(APIView):
    """An endpoint of the contract; Clasper's own API description leaves it out."""

    authentication_classes = [AgentTokenAuthentication]
    permission_classes = []
    schema = None


def _scope(request: Request) -> Scope:
    return cast(Scope, request.auth)


def _page(request: Request) -> contract.Page:
    return read(contract.Page, request.query_params.dict(), strict=False)


def _trace_id(request: Request) -> str:
    return request.headers.get("X-Trace-ID", "")[:64]


class CapabilitiesView(ContractView):
    """What this control plane offers."""

    def get(self, request: Request) -> Response:
        return Response({"contract_version": contract.CONTRACT_VERSION, "features": contract.FEATURES})


class TasksView(ContractView):
    """The user's tasks."""

    def get(self, request: Request) -> Response:
        return Response(queries.list_tasks(scope=_scope(request), page=_page(request)))

    def post(self, request: Request) -> Response:
        new = read(contract.NewTask, request.data)
        return Response(threads.create_task(scope=_scope(request), new=new, now=utc_now()))


class TaskView(ContractView):
    """One task."""

    def get(self, request: Request, task_id: str) -> Response:
        return Response(queries.find_task(scope=_scope(request), task_id=task_id))


class TaskMessagesView(ContractView):
    """The messages of a task."""

    def get(self, request: Request, task_id: str) -> Response:
        return Response(queries.list_messages(scope=_scope(request), task_id=task_id, page=_page(request)))


class TaskDocumentsView(ContractView):
    """The documents of a task."""

    def get(self, request: Request, task_id: str) -> Response:
        return Response(queries.list_documents(scope=_scope(request), task_id=task_id, page=_page(request)))


class MessagesView(ContractView):
    """Adding a message to a task."""

    def post(self, request: Request) -> Response:
        new = read(contract.NewMessage, request.data)
        return Response(
            threads.create_message(scope=_scope(request), new=new, trace_id=_trace_id(request), now=utc_now())
        )


class DocumentsView(ContractView):
    """Adding a document to a task."""

    def post(self, request: Request) -> Response:
        new = read(contract.NewDocument, request.data)
        return Response(
            threads.create_document(scope=_scope(request), new=new, trace_id=_trace_id(request), now=utc_now())
        )


class ToolsView(ContractView):
    """The tools agents may call."""

    def get(self, request: Request) -> Response:
        return Response({"tools": [shop.described(name) for name in shop.TOOLS]})


class ToolView(ContractView):
    """Running a tool."""

    def post(self, request: Request, name: str) -> Response:
        scope = _scope(request)
        call = read(contract.ToolCall, request.data)
        if call.tenant_id not in (UNSET, scope.tenant_id):
            raise PermissionDenied("The token belongs to another tenant.")
        trace_id = call.trace_id or _trace_id(request)
        return Response(tools.run_tool(scope=scope, name=name, call=call, trace_id=trace_id, now=utc_now()))


class HealthView(ContractView):
    """Whether the control plane answers."""

    authentication_classes = []

    def get(self, request: Request) -> Response:
        return Response({"status": "ok"})
