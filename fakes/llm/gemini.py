"""The generateContent format as Google's server speaks it."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import msgspec

from clasper.core.usage import Usage
from clasper.gateways.llm.base import Finish
from fakes.llm.chat import words_of
from fakes.llm.wire_format import Answer

_PATH = re.compile(r"/(?P<collection>models|tunedModels)/(?P<name>.+):(?:g|streamG)enerateContent")
_TOOL_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.:-]{0,63}")
_FIELDS = frozenset({"contents", "systemInstruction", "generationConfig", "tools", "toolConfig", "safetySettings"})
_CONFIG = frozenset({"maxOutputTokens", "temperature", "topP", "topK", "stopSequences", "responseMimeType"})
_CONFIG |= {"responseJsonSchema", "responseModalities", "thinkingConfig", "candidateCount"}
_PART = frozenset({"text", "thought", "thoughtSignature", "functionCall", "functionResponse"})
_NAMES = {400: "INVALID_ARGUMENT", 401: "UNAUTHENTICATED", 403: "PERMISSION_DENIED", 404: "NOT_FOUND", 409: "ABORTED"}
_NAMES |= {429: "RESOURCE_EXHAUSTED", 499: "CANCELLED", 500: "INTERNAL", 503: "UNAVAILABLE", 504: "DEADLINE_EXCEEDED"}
_STATUSES = {name: status for status, name in _NAMES.items()}
_FINISH: dict[Finish, str] = {
    "stop": "STOP",
    "tool_calls": "STOP",
    "length": "MAX_TOKENS",
    "refusal": "SAFETY",
    "content_filter": "SAFETY",
    "error": "OTHER",
}
_MALFORMED = "MALFORMED_FUNCTION_CALL"

_Problem = tuple[int, str] | None


@dataclass(frozen=True, slots=True)
class FakeGemini:
    """Google's own server. It cannot send a call whose arguments are not a JSON object: then the model has failed."""

    base_path: str = "/v1beta"

    def takes(self, path: str) -> bool:
        return path.startswith(self.base_path) and _PATH.fullmatch(path[len(self.base_path) :]) is not None

    def wants_stream(self, path: str, body: Mapping[str, Any]) -> bool:
        return ":streamGenerateContent" in path

    def model(self, path: str, body: Mapping[str, Any]) -> str:
        found = _PATH.fullmatch(path[len(self.base_path) :])
        if found is None:
            return ""
        return found["name"] if found["collection"] == "models" else f"{found['collection']}/{found['name']}"

    def problem(self, headers: Mapping[str, str], body: Mapping[str, Any]) -> tuple[int, str] | None:
        unknown = body.keys() - _FIELDS
        if unknown:
            return 400, f'Invalid JSON payload received. Unknown name "{min(unknown)}": Cannot find field.'
        instruction = body.get("systemInstruction")
        if instruction is not None and not any(part.get("text") for part in instruction.get("parts") or ()):
            return 400, "Invalid value at 'system_instruction': parts must not be empty."
        return (
            _declarations_problem(body.get("tools", ()))
            or _config_problem(body.get("generationConfig", {}), bool(body.get("tools")))
            or _contents_problem(body.get("contents") or ())
        )

    def prompt_tokens(self, body: Mapping[str, Any]) -> int:
        return len(msgspec.json.encode(body.get("contents", []))) // 4

    def whole(self, answer: Answer) -> dict[str, Any]:
        parts: list[dict[str, Any]] = [{"text": answer.text}] if answer.text else []
        parts += _calls(answer)
        if answer.thinking:
            signed = next((part for part in parts if "functionCall" in part), parts[-1] if parts else None)
            if signed is not None:
                signed["thoughtSignature"] = signature(answer.thinking)
            parts.insert(0, {"text": answer.thinking, "thought": True})
        return _response(parts, answer, finish=_finish(answer), usage=answer.usage)

    def chunks(self, answer: Answer) -> list[bytes]:
        calls = _calls(answer)
        last: dict[str, Any] = {"text": ""}
        if answer.thinking:
            (calls[0] if calls else last)["thoughtSignature"] = signature(answer.thinking)
        parts: list[dict[str, Any]] = [{"text": answer.thinking, "thought": True}] if answer.thinking else []
        parts += [{"text": word} for word in words_of(answer.text)]
        so_far = _before_the_answer(answer.usage)
        events = [_event(_response([part], answer, usage=so_far)) for part in [*parts, *calls]]
        return [*events, _event(_response([last], answer, finish=_finish(answer), usage=answer.usage))]

    def opening(self, words: Sequence[str]) -> list[bytes]:
        return [_event(_response([{"text": word}], Answer(model="fake"))) for word in words]

    def error(self, status: int, message: str, *, code: str = "") -> dict[str, Any]:
        return {"error": {"code": status, "message": message, "status": code or _NAMES.get(status, "UNKNOWN")}}

    def stream_error(self, message: str, *, code: str = "") -> bytes:
        return _event(self.error(_STATUSES.get(code, 503), message, code=code))


def signature(thinking: str) -> str:
    """What the server wants back for these thoughts."""
    return base64.b64encode(f"signed:{thinking}".encode()).decode()


def _response(
    parts: Sequence[Mapping[str, Any]],
    answer: Answer,
    *,
    finish: str = "",
    usage: Usage | Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    candidate: dict[str, Any] = {"index": 0}
    if parts:
        candidate["content"] = {"parts": parts, "role": "model"}
    if finish:
        candidate["finishReason"] = finish
    body: dict[str, Any] = {"candidates": [candidate]}
    if usage is not None:
        body["usageMetadata"] = _usage(usage)
    return {**body, "modelVersion": answer.model, "responseId": "fake-response"}


def _calls(answer: Answer) -> list[dict[str, Any]]:
    calls: list[dict[str, Any]] = []
    for name, text in answer.calls:
        if (arguments := _object(text)) is not None:
            function = {"name": name, "args": arguments}
            if answer.call_ids:
                function["id"] = uuid4().hex[:8]
            calls.append({"functionCall": function})
    return calls


def _finish(answer: Answer) -> str:
    return _MALFORMED if any(_object(text) is None for _, text in answer.calls) else _FINISH[answer.finish]


def _object(text: str) -> dict[str, Any] | None:
    try:
        value = msgspec.json.decode(text or "{}")
    except (msgspec.DecodeError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _before_the_answer(usage: Usage | Mapping[str, Any] | None) -> Usage | Mapping[str, Any] | None:
    """Every chunk has counts; those before the last one only count the prompt."""
    return Usage(input=usage.input, cached=usage.cached) if isinstance(usage, Usage) else usage


def _usage(usage: Usage | Mapping[str, Any]) -> Mapping[str, Any]:
    if not isinstance(usage, Usage):
        return usage
    counts = {"promptTokenCount": usage.prompt_tokens, "totalTokenCount": usage.total_tokens}
    if usage.output - usage.reasoning:
        counts["candidatesTokenCount"] = usage.output - usage.reasoning
    if usage.reasoning:
        counts["thoughtsTokenCount"] = usage.reasoning
    if usage.cached:
        counts["cachedContentTokenCount"] = usage.cached
    return counts


def _event(value: Mapping[str, Any]) -> bytes:
    return b"data: " + msgspec.json.encode(value) + b"\r\n\r\n"


def _declarations_problem(tools: Sequence[Mapping[str, Any]]) -> _Problem:
    declared: set[str] = set()
    for declaration in (found for tool in tools for found in tool.get("functionDeclarations", ())):
        name = declaration.get("name", "")
        if not _TOOL_NAME.fullmatch(name):
            return 400, f"Invalid function name {name!r}. Must start with a letter or an underscore."
        if name in declared:
            return 400, f"Duplicate function declaration found: {name}"
        declared.add(name)
        schema = declaration.get("parametersJsonSchema", {})
        if declaration.keys() - {"name", "description", "parametersJsonSchema"} or not isinstance(schema, dict):
            return 400, f"Invalid JSON payload received at function declaration {name}."
    return None


def _config_problem(config: Mapping[str, Any], has_tools: bool) -> _Problem:
    if unknown := config.keys() - _CONFIG:
        return 400, f"Invalid JSON payload received. Unknown name \"{min(unknown)}\" at 'generation_config'."
    if not 0 <= config.get("temperature", 0) <= 2:
        return 400, "temperature must be in the range [0.0, 2.0]."
    if config.get("maxOutputTokens", 1) < 1:
        return 400, "max_output_tokens must be positive."
    is_json = config.get("responseMimeType") == "application/json"
    if "responseJsonSchema" in config and not is_json:
        return 400, "response_json_schema goes only with the response mime type application/json."
    if is_json and has_tools:
        return 400, "Function calling with a response mime type: 'application/json' is unsupported"
    return None


def _contents_problem(contents: Sequence[Mapping[str, Any]]) -> _Problem:
    """Calls come directly after a turn of the user, and the turn after them answers all of them."""
    if not contents:
        return 400, "contents is not specified"
    previous = ""
    waiting: list[str] = []
    for turn in contents:
        role, parts = turn.get("role"), turn.get("parts") or ()
        if role not in ("user", "model"):
            return 400, "Please use a valid role: user, model."
        if role == (previous or "model"):
            return 400, "Please ensure that multiturn requests alternate between user and model."
        if problem := _parts_problem(parts):
            return problem
        calls = [part["functionCall"]["name"] for part in parts if "functionCall" in part]
        answers = [part["functionResponse"]["name"] for part in parts if "functionResponse" in part]
        if calls and role == "user":
            return 400, "Please ensure that function call turn comes immediately after a user turn."
        if sorted(answers) != sorted(waiting):
            return 400, "Please ensure that the number of function response parts is equal to that of the calls."
        previous, waiting = role, calls
    return None


def _parts_problem(parts: Sequence[Mapping[str, Any]]) -> _Problem:
    if not parts:
        return 400, "contents.parts must not be empty."
    for part in parts:
        if part.keys() - _PART or len(part.keys() & {"text", "functionCall", "functionResponse"}) != 1:
            return 400, "contents.parts: required oneof field 'data' must have one initialized field"
        if part.get("text") == "" and "thoughtSignature" not in part:
            return 400, "Unable to submit request because it has an empty text parameter."
        call, answer = part.get("functionCall", {"name": "-"}), part.get("functionResponse", {"name": "-"})
        if not call.get("name") or not answer.get("name"):
            return 400, "function name must not be empty."
        if not isinstance(call.get("args", {}), dict) or not isinstance(answer.get("response", {}), dict):
            return 400, "Invalid value at 'contents.parts' (type.googleapis.com/google.protobuf.Struct)"
        if not _is_base64(part.get("thoughtSignature", "")):
            return 400, "Invalid value at 'thought_signature' (TYPE_BYTES), Base64 decoding failed"
    return None


def _is_base64(text: str) -> bool:
    try:
        base64.b64decode(text.replace("-", "+").replace("_", "/"), validate=True)
    except binascii.Error:
        return False
    return True
