"""Reading a control plane's answers: what is not exactly an answer is a failure of the backend, never of ours."""

from __future__ import annotations

from contextlib import suppress
from typing import Any, TypeVar

import msgspec

from clasper.gateways.control_plane.transport import MAX_RESPONSE_BYTES, Answer, failed

T = TypeVar("T")

GARBAGE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class _Entity(msgspec.Struct):
    id: Any = None


_entity = msgspec.json.Decoder(_Entity)
_any = msgspec.json.Decoder()


def checked(operation: str, answer: Answer) -> Answer:
    """The answer, if it is a complete 2xx one. Raises BackendFailed."""
    if not answer.ok:
        raise failed(operation, answer.status)
    if answer.too_large:
        raise failed(operation, reason=f"its answer is larger than {MAX_RESPONSE_BYTES} bytes")
    return answer


def decode(operation: str, answer: Answer, decoder: msgspec.json.Decoder[T]) -> T:
    """The body by `decoder`. Raises BackendFailed for anything else."""
    try:
        return decoder.decode(answer.body)
    except GARBAGE as error:
        raise failed(operation) from error


def entity_id(operation: str, answer: Answer) -> str:
    """The `id` of what was created, as text. Raises BackendFailed when there is none."""
    found = decode(operation, answer, _entity).id
    if isinstance(found, bool) or not isinstance(found, str | int) or found == "":
        raise failed(operation)
    return str(found)


def json_or_none(answer: Answer) -> Any:
    """The JSON value of the body, or None."""
    with suppress(*GARBAGE):
        return _any.decode(answer.body)
    return None
