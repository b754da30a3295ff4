"""Token usage in one shape for every provider."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one or more model calls, in disjoint buckets.

    `input` excludes what was read from or written to the provider's cache; `reasoning` is the part of `output` that
    was spent on thinking, so it is never added to a sum.
    """

    input: int = 0
    cached: int = 0
    cache_write: int = 0
    output: int = 0
    reasoning: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.input + other.input,
            self.cached + other.cached,
            self.cache_write + other.cache_write,
            self.output + other.output,
            self.reasoning + other.reasoning,
        )

    @property
    def prompt_tokens(self) -> int:
        """All input tokens, cached ones included, as the API reports them."""
        return self.input + self.cached + self.cache_write

    @property
    def completion_tokens(self) -> int:
        return self.output

    @property
    def total_tokens(self) -> int:
        return self.prompt_tokens + self.output


def estimate_tokens(text: str) -> int:
    """A guess at the tokens of `text`: a quarter of its UTF-8 bytes, rounded up.

    Bytes instead of characters, because scripts outside ASCII take more tokens a character: for Chinese, the guess by
    characters is 63 % too low and the one by bytes 12 % too high.
    """
    return -(-len(text.encode("utf-8", "surrogatepass")) // 4)
