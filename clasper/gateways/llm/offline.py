"""The offline model: deterministic, without network, for laptops and tests. It never pretends to be a real model.

What it does with a message:

* `use tool NAME {"json": "arguments"}` in the user's message calls exactly that tool, offered or not; several of them
  make parallel calls.
* Otherwise it calls an offered tool whose name's words are all in the message, with arguments found there.
* After a tool's result it answers with a sentence that quotes it.
* Asked for JSON by a schema, it answers with a value of that shape, made from the message.
* Otherwise it says what it is and quotes the message.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from clasper.core.usage import Usage, estimate_tokens
from clasper.gateways.llm.base import Completion, Message, ModelCall, StreamEvent, TextDelta, ToolCall, ToolSpec
from clasper.gateways.llm.offline_arguments import arguments_for, value_for

_INTRODUCTION = "This is Clasper's offline model; no real model has answered."
_QUOTE_CHARS = 240
_DIRECTIVE = re.compile(r"\buse tool\s+([A-Za-z0-9_][\w.:/-]*)[ \t]*", re.IGNORECASE)
_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+")
_TOKEN = re.compile(r"\S+\s*|\s+")
_FILLERS = frozenset({"get", "fetch", "do", "run", "the", "a", "api", "tool"})
"""Words of a tool's name that people omit when they ask for what it does."""

_json = json.JSONDecoder()


@dataclass(frozen=True, slots=True)
class Offline:
    """A provider that always answers, with the same answer to the same call. It accepts any model name."""

    name: str = "offline"
    base_url: str = ""

    async def complete(self, call: ModelCall) -> Completion:
        """The answer described in the module's docstring."""
        tool_calls = _wanted_calls(call)
        text, is_cut = ("", False) if tool_calls else _cut(_answer(call), call.max_output_tokens)
        return Completion(
            text=text,
            tool_calls=tool_calls,
            finish="tool_calls" if tool_calls else "length" if is_cut else "stop",
            usage=Usage(input=_prompt_tokens(call), output=_call_tokens(tool_calls) + estimate_tokens(text)),
            usage_reported=True,
            model=call.model,
        )

    async def stream(self, call: ModelCall) -> AsyncGenerator[StreamEvent, None]:
        """The same answer, word by word."""
        completion = await self.complete(call)
        for word in _TOKEN.findall(completion.text):
            yield TextDelta(word)
            await asyncio.sleep(0)
        yield completion


def _wanted_calls(call: ModelCall) -> tuple[ToolCall, ...]:
    if not call.messages or call.messages[-1].role != "user":
        return ()
    text = call.messages[-1].content
    directives = [(found[1], _arguments_at(text, found.end())) for found in _DIRECTIVE.finditer(text)]
    wanted = directives or _guessed(text, call.tools)
    return tuple(ToolCall(call.new_tool_call_id(n), name, arguments) for n, (name, arguments) in enumerate(wanted))


def _arguments_at(text: str, start: int) -> str:
    """The JSON that begins there, as written; broken JSON up to the end of the line, so that it can be tried, too."""
    if not text.startswith("{", start):
        return "{}"
    try:
        _, end = _json.raw_decode(text, start)
    except (ValueError, RecursionError):
        return text[start:].split("\n", 1)[0].rstrip()
    return text[start:end]


def _guessed(text: str, tools: Sequence[ToolSpec]) -> list[tuple[str, str]]:
    words = [_stem(word) for word in _WORD.findall(text)]
    # "look up" is what people write for `lookup`.
    known = {*words, *(first + second for first, second in pairwise(words))}
    matches = [(len(needed), tool) for tool in tools if (needed := _name_words(tool.name)) and needed <= known]
    if not matches:
        return []
    _, tool = max(matches, key=lambda match: match[0])
    return [(tool.name, json.dumps(arguments_for(tool.parameters, text), ensure_ascii=False))]


def _name_words(name: str) -> set[str]:
    words = {_stem(word) for word in _WORD.findall(name)}
    return words - _FILLERS or words


def _stem(word: str) -> str:
    word = word.lower()
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word


def _answer(call: ModelCall) -> str:
    messages = call.messages
    if call.schema is not None:
        said = next((message.content for message in messages if message.role == "user"), "")
        return json.dumps(value_for(call.schema, said), ensure_ascii=False)
    results = _latest_results(messages)
    if results:
        return f"{_INTRODUCTION} " + " ".join(results)
    said = next((message.content for message in reversed(messages) if message.role == "user"), "")
    return f'{_INTRODUCTION} You said: "{_short(said)}"' if said.strip() else f"{_INTRODUCTION} You said nothing."


def _latest_results(messages: Sequence[Message]) -> list[str]:
    """One sentence per tool result at the end of the conversation, in order."""
    tail: list[Message] = []
    for message in reversed(messages):
        if message.role != "tool":
            break
        tail.insert(0, message)
    names = {call.id: call.name for message in messages for call in message.tool_calls}
    return [f"{names.get(result.tool_call_id, 'A tool')} returned: {_short(result.content)}" for result in tail]


def _short(text: str) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= _QUOTE_CHARS else flat[: _QUOTE_CHARS - 1] + "…"


def _cut(text: str, max_tokens: int) -> tuple[str, bool]:
    if estimate_tokens(text) <= max_tokens:
        return text, False
    return text.encode()[: max(0, max_tokens) * 4].decode("utf-8", "ignore"), True


def _prompt_tokens(call: ModelCall) -> int:
    said = sum(estimate_tokens(message.content) + _call_tokens(message.tool_calls) for message in call.messages)
    offered = (tool.name + tool.description + json.dumps(dict(tool.parameters), default=str) for tool in call.tools)
    return said + sum(map(estimate_tokens, offered))


def _call_tokens(calls: Sequence[ToolCall]) -> int:
    return sum(estimate_tokens(call.name + call.arguments) for call in calls)
