"""Reading a control plane's responses: whatever is not a valid one is a failure of the backend, never ours."""

from __future__ import annotations

from contextlib import suppress
from typing import Any, TypeVar

import msgspec

from clasper.gateways.control_plane.transport import MAX_RESPONSE_BYTES, Response, backend_failed
from clasper.gateways.http import UNREADABLE_JSON

T = TypeVar("T")


class _Entity(msgspec.Struct):
    id: Any = None


_entity = msgspec.json.Decoder(_Entity)
_any = msgspec.json.Decoder()


def require_success(operation: str, response: Response) -> Response:
    """The response, if it is a complete 2xx. Raises BackendFailed."""
    if not response.ok:
        raise backend_failed(operation, response.status)
    if response.too_large:
        raise backend_failed(operation, reason=f"its response is larger than {MAX_RESPONSE_BYTES} bytes")
    return response


def decode(operation: str, response: Response, decoder: msgspec.json.Decoder[T]) -> T:
    """The decoded body. Raises BackendFailed when it cannot be decoded."""
    try:
        return decoder.decode(response.body)
    except UNREADABLE_JSON as error:
        raise backend_failed(operation) from error


def entity_id(operation: str, response: Response) -> str:
    """The `id` of what was created, as text. Raises BackendFailed when there is none."""
    found = decode(operation, response, _entity).id
    if isinstance(found, bool) or not isinstance(found, str | int) or found == "":
        raise backend_failed(operation)
    return str(found)


def json_or_none(response: Response) -> Any:
    """The JSON value of the body, or None."""
    with suppress(*UNREADABLE_JSON):
        return _any.decode(response.body)
    return None
