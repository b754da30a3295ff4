"""How the providers of the chat-completions API differ.

An OpenAI base URL other than its own address is assumed to be a merely compatible server.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Dialect:
    """What one provider requires.

    `limit_field` is the field of the output limit, `fixed_temperature` the prefixes of models that refuse a
    temperature, `max_temperature` the highest accepted; a higher one is lowered to it. `structured` is how a JSON
    schema is enforced: by the schema, by a mere JSON mode, or not at all. `stream_options` False: the provider refuses
    that field and counts its streams anyway. `short_ids`: ids of tool calls must be nine letters or digits.
    """

    limit_field: str = "max_tokens"
    fixed_temperature: tuple[str, ...] = ()
    max_temperature: float = 2.0
    structured: Literal["json_schema", "json_object", ""] = "json_schema"
    stream_options: bool = True
    short_ids: bool = False


OPENAI = Dialect("max_completion_tokens", fixed_temperature=("o1", "o3", "o4", "gpt-5"))
XAI = Dialect("max_completion_tokens")
GROQ = Dialect("max_completion_tokens", structured="json_object")
MISTRAL = Dialect(max_temperature=1.5, stream_options=False, short_ids=True)
OPENROUTER = Dialect()
COMPATIBLE = Dialect()
