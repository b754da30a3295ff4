"""What to change in a call that a provider refused, so that it accepts it. Pure.

Models differ in what they allow, and no provider publishes all of it.
"""

from __future__ import annotations

import re
from dataclasses import replace

from clasper.gateways.llm.base import ModelCall, ProviderError

_LIMIT_WORDS = ("max_tokens", "max_completion_tokens", "maxoutputtokens", "max_output_tokens", "output tokens")
_SCHEMA_WORDS = ("response_format", "json_schema", "responsejsonschema", "response_mime_type", "tool_choice", "schema")
_NUMBER = re.compile(r"(\d+)(\s*\(exclusive\))?")


def relaxed_call(call: ModelCall, error: ProviderError) -> ModelCall | None:
    """The call as the provider may accept it, None when its refusal does not say what is wrong.

    A temperature that the model does not accept is left out. An output limit above the model's is lowered to the
    largest smaller number in the refusal. A schema that the provider does not enforce is left out; the prompt
    asks for it, too.
    """
    if error.kind != "invalid_request":
        return None
    text = error.detail.lower()
    if call.temperature is not None and "temperature" in text:
        return replace(call, temperature=None)
    if any(word in text for word in _LIMIT_WORDS):
        named = [int(number) - bool(exclusive) for number, exclusive in _NUMBER.findall(text) if len(number) < 10]
        lower = [number for number in named if 0 < number < call.max_output_tokens]
        if lower:
            return replace(call, max_output_tokens=max(lower))
    if call.schema is not None and any(word in text for word in _SCHEMA_WORDS):
        return replace(call, schema=None)
    return None
