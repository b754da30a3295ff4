"""How generateContent answers are spelled: a body, or the chunks of a stream, into one Completion. No network here.

Every chunk of a stream is spelled like a whole answer, and every field may be missing or null.

What the provider wants back with an answer is kept in `Completion.extra[provider]`, one entry a part, in order:
`{"text": characters}`, `{"call": our id, "id": the provider's id if it gave one}` or `{"thought": text}`, each with the
`signature` of its part, if it had one. Texts without a signature that follow each other are one entry.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from clasper.core.usage import Usage
from clasper.gateways.llm.base import Completion, Finish, ModelCall, ProviderError, ToolCall
from clasper.gateways.llm.failures import body_failure, error_object, failure, read_error
from clasper.gateways.llm.names import WireNames

_FINISH: dict[str, Finish] = {
    "STOP": "stop",
    "MAX_TOKENS": "length",
    "SAFETY": "content_filter",
    "RECITATION": "content_filter",
    "LANGUAGE": "content_filter",
    "BLOCKLIST": "content_filter",
    "PROHIBITED_CONTENT": "content_filter",
    "SPII": "content_filter",
    "IMAGE_SAFETY": "content_filter",
    "MODEL_ARMOR": "content_filter",
}
"""Reasons that are not here, such as MALFORMED_FUNCTION_CALL, mean that the model failed."""
_NOT_YET = "FINISH_REASON_UNSPECIFIED"


class _FunctionCall(msgspec.Struct, gc=False):
    name: str | None = None
    args: msgspec.Raw = msgspec.Raw()
    id: str | None = None


class _Part(msgspec.Struct, gc=False, rename="camel"):
    text: str | None = None
    thought: bool | None = None
    thought_signature: str | None = None
    function_call: _FunctionCall | None = None


class _Content(msgspec.Struct, gc=False):
    parts: list[_Part] | None = None


class _Candidate(msgspec.Struct, gc=False, rename="camel"):
    content: _Content | None = None
    finish_reason: str | None = None


class _Feedback(msgspec.Struct, gc=False, rename="camel"):
    block_reason: str | None = None


class _Counts(msgspec.Struct, gc=False, rename="camel"):
    prompt_token_count: int | None = None
    cached_content_token_count: int | None = None
    tool_use_prompt_token_count: int | None = None
    candidates_token_count: int | None = None
    thoughts_token_count: int | None = None
    total_token_count: int | None = None


class _Answer(msgspec.Struct, gc=False, rename="camel"):
    candidates: list[_Candidate] | None = None
    prompt_feedback: _Feedback | None = None
    usage_metadata: _Counts | None = None
    model_version: str | None = None
    error: Any = None

    @property
    def blocked(self) -> bool:
        """Whether the prompt itself was refused, so that there is no answer."""
        return not self.candidates and self.prompt_feedback is not None and bool(self.prompt_feedback.block_reason)


_decoder = msgspec.json.Decoder(_Answer)


def decode_completion(body: bytes, call: ModelCall, provider: str) -> Completion:
    """The completion of a whole answer. Raises ProviderError for anything else, also for an error in a 200."""
    answer = _decode(body, provider)
    if not answer.candidates and not answer.blocked:
        error = failure("bad_response", provider, detail="an answer without candidates")
        error.usage = _usage(answer.usage_metadata)
        raise error
    assembly = StreamAssembly(call, provider)
    assembly.take(answer)
    return assembly.completion(assume="stop")


class StreamAssembly:
    """Puts the chunks of one stream together. Nothing says that a stream is at its end, so `done` stays False."""

    __slots__ = ("_call", "_counts", "_draft", "_finish", "_model", "_provider", "done")

    def __init__(self, call: ModelCall, provider: str) -> None:
        self._call = call
        self._provider = provider
        self._draft = _Draft()
        self._finish: Finish | None = None
        self._model: str | None = None
        self._counts: _Counts | None = None
        self.done = False

    @property
    def finished(self) -> bool:
        return self._finish is not None

    @property
    def usage(self) -> Usage | None:
        return _usage(self._counts)

    def add(self, payload: bytes) -> str:
        """Takes one chunk and returns its text, mostly a few words or nothing. Raises ProviderError."""
        try:
            return self.take(_decode(payload, self._provider))
        except ProviderError as error:
            error.usage = error.usage or self.usage
            raise

    def take(self, answer: _Answer) -> str:
        """Takes one chunk that is decoded already."""
        counts = answer.usage_metadata
        # Some hosts count only in the last chunk and send counts without tokens before it.
        if counts is not None and (counts.prompt_token_count or counts.total_token_count):
            self._counts = counts
        if answer.model_version:
            self._model = answer.model_version
        if not answer.candidates:
            if answer.blocked:
                self._finish = "content_filter"
            return ""
        candidate = answer.candidates[0]
        if candidate.finish_reason and candidate.finish_reason != _NOT_YET:
            self._finish = _FINISH.get(candidate.finish_reason, "error")
        content = candidate.content
        return "" if content is None or not content.parts else self._draft.add(content.parts)

    def completion(self, *, assume: Finish | None = None) -> Completion:
        """The whole answer. Raises ProviderError when the stream ended before the model did.

        `assume` is how an answer ended that does not say so and is known to be whole.
        """
        finish = self._finish or assume
        usage = self.usage
        if finish is None:
            cut = failure("connection", self._provider, detail="the stream ended before the answer did")
            cut.usage = usage
            raise cut
        tool_calls = self._draft.tool_calls(self._call, self._provider)
        return Completion(
            text=self._draft.text,
            tool_calls=tool_calls,
            finish="tool_calls" if finish == "stop" and tool_calls else finish,
            usage=usage or Usage(),
            usage_reported=usage is not None,
            model=self._model or self._call.model,
            extra=self._draft.kept(tool_calls, self._provider),
        )


class _Draft:
    """An answer under construction."""

    __slots__ = ("_calls", "_entries", "_is_marked", "_texts", "_unsigned")

    def __init__(self) -> None:
        self._texts: list[str] = []
        self._calls: list[_FunctionCall] = []
        self._entries: list[dict[str, Any]] = []
        self._unsigned = 0
        self._is_marked = False

    def add(self, parts: Sequence[_Part]) -> str:
        """Takes the parts of a chunk and returns their text."""
        text = ""
        for part in parts:
            if part.function_call is not None:
                self._add_call(part.function_call, part.thought_signature)
            elif part.thought:
                if part.thought_signature:
                    self._mark({"thought": part.text or "", "signature": part.thought_signature})
            else:
                piece = part.text or ""
                if part.thought_signature:
                    self._mark({"text": len(piece), "signature": part.thought_signature})
                else:
                    self._unsigned += len(piece)
                if piece:
                    self._texts.append(piece)
                    text = text + piece if text else piece
        return text

    def _add_call(self, call: _FunctionCall, signature: str | None) -> None:
        if not call.name:
            return
        entry: dict[str, Any] = {"call": len(self._calls)}
        if call.id:
            entry["id"] = call.id
        if signature:
            entry["signature"] = signature
        self._calls.append(call)
        self._close_text()
        self._entries.append(entry)
        self._is_marked = self._is_marked or len(entry) > 1

    def _mark(self, entry: dict[str, Any]) -> None:
        self._close_text()
        self._entries.append(entry)
        self._is_marked = True

    def _close_text(self) -> None:
        if self._unsigned:
            self._entries.append({"text": self._unsigned})
            self._unsigned = 0

    @property
    def text(self) -> str:
        return "".join(self._texts)

    def tool_calls(self, call: ModelCall, provider: str) -> tuple[ToolCall, ...]:
        if not self._calls:
            return ()
        names = WireNames(call.tools)
        # Counted on through the conversation, so that an id made up here is unique in it.
        earlier = sum(len(message.tool_calls) for message in call.messages)
        return tuple(
            ToolCall(made.id or f"call_{earlier + n}", names.ours(made.name or ""), _arguments(made.args, provider))
            for n, made in enumerate(self._calls)
        )

    def kept(self, tool_calls: tuple[ToolCall, ...], provider: str) -> dict[str, Any]:
        if not self._is_marked:
            return {}
        self._close_text()
        entries = [
            {**entry, "call": tool_calls[entry["call"]].id} if "call" in entry else entry for entry in self._entries
        ]
        return {provider: entries}


def _decode(body: bytes, provider: str) -> _Answer:
    try:
        answer = _decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        # The host wraps errors in a list where it takes the whole stream for one.
        found = read_error(body)
        raise (body_failure(found, provider) if found else _unreadable(body, provider)) from error
    if answer.error:
        inside = error_object({"error": answer.error})
        failed = body_failure(inside, provider) if inside else _unreadable(body, provider)
        failed.usage = _usage(answer.usage_metadata)
        raise failed
    return answer


def _unreadable(body: bytes, provider: str) -> ProviderError:
    return failure("bad_response", provider, detail=body[:200].decode("utf-8", "replace"))


def _arguments(written: msgspec.Raw, provider: str) -> str:
    """The arguments without the blanks of the body around them."""
    text = bytes(written)
    if text in (b"", b"null"):
        return "{}"
    try:
        return msgspec.json.format(text, indent=-1).decode()
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _unreadable(text, provider) from error


def _usage(counts: _Counts | None) -> Usage | None:
    """Disjoint buckets. What the total holds beyond the prompt is output, counted apart or not."""
    if counts is None or not (counts.prompt_token_count or counts.total_token_count):
        return None
    prompt, tools = max(0, counts.prompt_token_count or 0), max(0, counts.tool_use_prompt_token_count or 0)
    cached = min(max(0, counts.cached_content_token_count or 0), prompt)
    thinking = max(0, counts.thoughts_token_count or 0)
    counted = max(0, counts.candidates_token_count or 0) + thinking
    output = max(counted, (counts.total_token_count or 0) - prompt - tools)
    return Usage(input=prompt - cached + tools, cached=cached, output=output, reasoning=thinking)
