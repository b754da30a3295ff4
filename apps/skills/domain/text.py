"""How the bytes of a workspace file become text for a model: in the same way for skills and all other files."""

from __future__ import annotations

MAX_CHARS_PER_FILE = 20_000
"""The most that enters a prompt of one file."""

TRUNCATION_MARKER = f"\n\n[... content truncated at {MAX_CHARS_PER_FILE} characters]"


def decode_text(content: bytes) -> str:
    """UTF-8 text without its byte order mark; invalid bytes, and NUL, which databases refuse, become U+FFFD."""
    return content.decode("utf-8-sig", "replace").replace("\x00", "\ufffd")


def truncate(text: str) -> str:
    """`text`, or exactly MAX_CHARS_PER_FILE characters of it that end with a visible marker."""
    if len(text) <= MAX_CHARS_PER_FILE:
        return text
    return text[: MAX_CHARS_PER_FILE - len(TRUNCATION_MARKER)] + TRUNCATION_MARKER
