"""The generateContent format as Google's server speaks it."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar
from uuid import uuid4

import msgspec

from clasper.core.usage import Usage
from clasper.gateways.llm.base import Finish
from fakes.llm.wire_format import Answer, FakeWireFormat, Refused, json_object, require

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


@dataclass(frozen=True, slots=True)
class FakeGemini(FakeWireFormat):
    """Google's own server. It cannot send a call whose arguments are not a JSON object: then the model has failed."""

    base_path: str = "/v1beta"
    prompt_fields: ClassVar = ("contents",)

    def takes(self, path: str) -> bool:
        return path.startswith(self.base_path) and _PATH.fullmatch(path[len(self.base_path) :]) is not None

    def wants_stream(self, path: str, body: Mapping[str, Any]) -> bool:
        return ":streamGenerateContent" in path

    def model(self, path: str, body: Mapping[str, Any]) -> str:
        found = _PATH.fullmatch(path[len(self.base_path) :])
        if found is None:
            return ""
        return found["name"] if found["collection"] == "models" else f"{found['collection']}/{found['name']}"

    def check(self, headers: Mapping[str, str], body: Mapping[str, Any]) -> None:
        unknown = body.keys() - _FIELDS
        require(
            not unknown, f'Invalid JSON payload received. Unknown name "{min(unknown, default="")}": Cannot find field.'
        )
        instruction = body.get("systemInstruction")
        instructs = instruction is None or any(part.get("text") for part in instruction.get("parts") or ())
        require(instructs, "Invalid value at 'system_instruction': parts must not be empty.")
        _check_declarations(body.get("tools", ()))
        _check_config(body.get("generationConfig", {}), has_tools=bool(body.get("tools")))
        _check_contents(body.get("contents") or ())

    def whole(self, answer: Answer) -> dict[str, Any]:
        parts: list[dict[str, Any]] = [{"text": answer.text}] if answer.text else []
        parts += _calls(answer)
        if answer.thinking:
            signed = next((part for part in parts if "functionCall" in part), parts[-1] if parts else None)
            if signed is not None:
                signed["thoughtSignature"] = signature(answer.thinking)
            parts.insert(0, {"text": answer.thinking, "thought": True})
        return self._response(parts, answer, finish=_finish(answer), usage=answer.usage)

    def chunks(self, answer: Answer) -> list[bytes]:
        calls = _calls(answer)
        last: dict[str, Any] = {"text": ""}
        if answer.thinking:
            (calls[0] if calls else last)["thoughtSignature"] = signature(answer.thinking)
        parts: list[dict[str, Any]] = [{"text": answer.thinking, "thought": True}] if answer.thinking else []
        parts += [{"text": word} for word in answer.text_pieces]
        # Every chunk has counts; those before the last one only count the prompt.
        usage = answer.usage
        so_far = Usage(input=usage.input, cached=usage.cached) if isinstance(usage, Usage) else usage
        events = [_event(self._response([part], answer, usage=so_far)) for part in [*parts, *calls]]
        return [*events, _event(self._response([last], answer, finish=_finish(answer), usage=answer.usage))]

    def opening(self, words: Sequence[str]) -> list[bytes]:
        return [_event(self._response([{"text": word}], Answer(model="fake"))) for word in words]

    def error(self, status: int, message: str, *, code: str = "") -> dict[str, Any]:
        return {"error": {"code": status, "message": message, "status": code or _NAMES.get(status, "UNKNOWN")}}

    def stream_error(self, message: str, *, code: str = "") -> bytes:
        return _event(self.error(_STATUSES.get(code, 503), message, code=code))

    def counts(self, usage: Usage) -> dict[str, Any]:
        counts = {
            "promptTokenCount": usage.prompt_tokens,
            "totalTokenCount": usage.total_tokens,
            "candidatesTokenCount": usage.output - usage.reasoning,
            "thoughtsTokenCount": usage.reasoning,
            "cachedContentTokenCount": usage.cached,
        }
        return {name: count for name, count in counts.items() if count or name.startswith(("prompt", "total"))}

    def _response(
        self,
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
            body["usageMetadata"] = self.usage(usage)
        return {**body, "modelVersion": answer.model, "responseId": "fake-response"}


def signature(thinking: str) -> str:
    """What the server wants back for these thoughts."""
    return base64.b64encode(f"signed:{thinking}".encode()).decode()


def _calls(answer: Answer) -> list[dict[str, Any]]:
    calls: list[dict[str, Any]] = []
    for name, text in answer.calls:
        if (arguments := json_object(text or "{}")) is not None:
            function = {"name": name, "args": arguments}
            if answer.call_ids:
                function["id"] = uuid4().hex[:8]
            calls.append({"functionCall": function})
    return calls


def _finish(answer: Answer) -> str:
    return _MALFORMED if any(json_object(text or "{}") is None for _, text in answer.calls) else _FINISH[answer.finish]


def _event(value: Mapping[str, Any]) -> bytes:
    return b"data: " + msgspec.json.encode(value) + b"\r\n\r\n"


def _check_declarations(tools: Sequence[Mapping[str, Any]]) -> None:
    declared: set[str] = set()
    for declaration in (found for tool in tools for found in tool.get("functionDeclarations", ())):
        name = declaration.get("name", "")
        named = _TOOL_NAME.fullmatch(name)
        require(named, f"Invalid function name {name!r}. Must start with a letter or an underscore.")
        require(name not in declared, f"Duplicate function declaration found: {name}")
        declared.add(name)
        known = declaration.keys() <= {"name", "description", "parametersJsonSchema"}
        valid = known and isinstance(declaration.get("parametersJsonSchema", {}), dict)
        require(valid, f"Invalid JSON payload received at function declaration {name}.")


def _check_config(config: Mapping[str, Any], *, has_tools: bool) -> None:
    unknown = min(config.keys() - _CONFIG, default="")
    require(not unknown, f"Invalid JSON payload received. Unknown name \"{unknown}\" at 'generation_config'.")
    require(0 <= config.get("temperature", 0) <= 2, "temperature must be in the range [0.0, 2.0].")
    require(config.get("maxOutputTokens", 1) >= 1, "max_output_tokens must be positive.")
    is_json = config.get("responseMimeType") == "application/json"
    with_schema = "responseJsonSchema" in config
    require(is_json or not with_schema, "response_json_schema goes only with the response mime type application/json.")
    unsupported = is_json and has_tools
    require(not unsupported, "Function calling with a response mime type: 'application/json' is unsupported")


def _check_contents(contents: Sequence[Mapping[str, Any]]) -> None:
    """Calls come directly after a turn of the user, and the turn after them answers all of them."""
    require(contents, "contents is not specified")
    previous = ""
    waiting: list[str] = []
    for turn in contents:
        role, parts = turn.get("role", ""), turn.get("parts") or ()
        require(role in ("user", "model"), "Please use a valid role: user, model.")
        alternates = role != (previous or "model")
        require(alternates, "Please ensure that multiturn requests alternate between user and model.")
        _check_parts(parts)
        calls = [part["functionCall"]["name"] for part in parts if "functionCall" in part]
        answers = [part["functionResponse"]["name"] for part in parts if "functionResponse" in part]
        by_model = not calls or role == "model"
        require(by_model, "Please ensure that function call turn comes immediately after a user turn.")
        complete = sorted(answers) == sorted(waiting)
        require(complete, "Please ensure that the number of function response parts is equal to that of the calls.")
        previous, waiting = role, calls


def _check_parts(parts: Sequence[Mapping[str, Any]]) -> None:
    require(parts, "contents.parts must not be empty.")
    for part in parts:
        one_kind = len(part.keys() & {"text", "functionCall", "functionResponse"}) == 1
        one_kind &= part.keys() <= _PART
        require(one_kind, "contents.parts: required oneof field 'data' must have one initialized field")
        empty = part.get("text") == "" and "thoughtSignature" not in part
        require(not empty, "Unable to submit request because it has an empty text parameter.")
        call, answer = part.get("functionCall", {"name": "-"}), part.get("functionResponse", {"name": "-"})
        require(call.get("name") and answer.get("name"), "function name must not be empty.")
        objects = isinstance(call.get("args", {}), dict) and isinstance(answer.get("response", {}), dict)
        require(objects, "Invalid value at 'contents.parts' (type.googleapis.com/google.protobuf.Struct)")
        signed = part.get("thoughtSignature", "").replace("-", "+").replace("_", "/")
        try:
            base64.b64decode(signed, validate=True)
        except binascii.Error:
            raise Refused("Invalid value at 'thought_signature' (TYPE_BYTES), Base64 decoding failed") from None
