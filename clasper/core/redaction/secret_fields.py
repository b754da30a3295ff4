"""Fields that hold secrets: `password: …`, `"client_secret": "…"`, `API_KEY=…` in texts, and the same names as keys.

A field is found by its keyword in the lower-case text; what follows it decides whether it is given a value.
Passwords may be any word; other secrets, when bare and in prose, must look like one, so that "Token: expired" stays.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import lru_cache

Span = tuple[int, int]
_NameTest = Callable[[str, int, int], bool]

PASSWORD_LABEL, SECRET_LABEL = "PASSWORD_FIELD", "SECRET"

_PASSWORD_WORDS = ("password", "passwd", "passphrase", "passcode", "pwd")
_SECRET_WORDS = ("secret", "token", "credential")
_KEY_KINDS = ("api", "access", "private", "secret", "daemon", "signing", "encryption", "master", "account", "auth")

_SUFFIX = re.compile(r"[\w-]{0,40}+")
_SEPARATOR = r"\\?[\"'`]?\]?[ \t]{0,20}+(?::[ \t]{0,4}\w{1,20}+[ \t]{0,4}=(?!=)|=>|:=|==?|:)[ \t]{0,20}+"
_VALUE = (
    r"(?:\\\"(?P<escaped>(?:[^\"\\\r\n]|\\(?!\"))++)"
    r"|\"(?P<double>(?:[^\"\\\r\n]|\\.)++)"
    r"|'(?P<single>(?:[^'\\\r\n]|\\.)++)"
    r"|`(?P<tick>[^`\r\n]++)"
    r"|(?P<bare>[^\s\"'`&\\]++(?:(?:&(?!\w{1,40}=)|\\(?!\"))[^\s\"'`&\\]*+)*+))"
)
_ASSIGNED = re.compile(_SEPARATOR + _VALUE)
_SAID = re.compile(r"[ \t]{1,4}(?:is|was)(?::|[ \t])[ \t]{0,4}" + _VALUE, re.IGNORECASE)
_FLAG_VALUE = re.compile(r"[ \t]{1,4}(?!-)" + _VALUE)
_FLAG = re.compile(r"--[\w-]{0,30}\Z")
_FLAG_CHARS = 32
_ELEMENT = re.compile(r">(?P<bare>[^<>\r\n]++)</")
_KEY_KIND = re.compile(rf"(?:{'|'.join(_KEY_KINDS)})[ _-]?\Z")
_KEY_KIND_CHARS = 12
_HARMLESS = frozenset(
    (
        *("str", "string", "int", "integer", "bool", "boolean", "bytes", "float", "number", "text", "object", "any"),
        *("none", "null", "nil", "true", "false", "undefined", "unset", "unknown", "empty", "missing"),
        *("required", "optional", "invalid", "expired", "incorrect", "wrong"),
    )
)
_CLOSERS = ",;:.)}]>!?"
_SECRET_CHARS = 16


def may_hold_fields(text: str, lower: str) -> bool:
    """The prefilter of both finders. Spelt out, because a loop would cost three times as much on every text."""
    return (
        "pass" in lower
        or "pwd" in lower
        or "secret" in lower
        or "token" in lower
        or "credential" in lower
        or "key" in lower
    )


def find_passwords(text: str, lower: str) -> Iterator[Span]:
    """The values of password fields; `pass` alone counts only where a quote or an underscore shows it to be a name."""
    for word in _PASSWORD_WORDS:
        yield from _values(text, lower, word, _any_name, any_word=True)
    yield from _values(text, lower, "pass", _is_pass_name, any_word=True)


def find_secrets(text: str, lower: str) -> Iterator[Span]:
    """The values of secrets, tokens, credentials and keys of the known kinds."""
    for word in _SECRET_WORDS:
        yield from _values(text, lower, word, _is_secret_name, any_word=False)
    yield from _values(text, lower, "key", _is_key_name, any_word=False)


def _values(text: str, lower: str, word: str, is_name: _NameTest, *, any_word: bool) -> Iterator[Span]:
    """The values after each name that `word` begins; the search continues after a value, which keeps it linear."""
    start = lower.find(word)
    while start >= 0:
        suffix = _SUFFIX.match(lower, start + len(word))
        end = suffix.end() if suffix else start + len(word)
        value = _value(text, start, end, any_word=any_word) if is_name(lower, start, end) else None
        if value:
            yield value
            end = value[1]
        start = lower.find(word, end)


def _any_name(lower: str, start: int, end: int) -> bool:
    return True


def _is_pass_name(lower: str, start: int, end: int) -> bool:
    shown = lower[start - 1 : start] in ("_", "-") or lower[end : end + 1] in ('"', "'", "\\")
    return shown and end - start == len("pass")


def _is_key_name(lower: str, start: int, end: int) -> bool:
    return end - start == len("key") and _KEY_KIND.search(lower[max(0, start - _KEY_KIND_CHARS) : start]) is not None


def _is_secret_name(lower: str, start: int, end: int) -> bool:
    """Tells `secret_key` from `secretary`, `token` from `tokens` and `token_count`."""
    name = lower[start:end]
    if name.startswith("secret"):
        return not name.startswith("secretar")
    return name in ("credential", "credentials") or name.rstrip("_-") == "token" or name.endswith(("_value", "-value"))


def _value(text: str, start: int, end: int, *, any_word: bool) -> Span | None:
    """The span of the value given to the name at `start:end`, if one is given."""
    match, said = _ASSIGNED.match(text, end) or _ELEMENT.match(text, end), False
    if match is None and _FLAG.search(text[max(0, start - _FLAG_CHARS) : start]):
        match = _FLAG_VALUE.match(text, end)
    if match is None:
        match, said = _SAID.match(text, end), True
    if match is None:
        return None
    kind = match.lastgroup or ""
    value_start, value_end = match.span(kind)
    if kind == "bare":
        value_end = value_start + len(match[kind].rstrip(_CLOSERS))
    value = text[value_start:value_end]
    if value.lower() in _HARMLESS or not any(map(str.isalnum, value)):
        return None
    tight = text[value_start - 1] == "=" and not said
    given = kind != "bare" or (not said and (any_word or tight)) or _looks_secret(value)
    return (value_start, value_end) if given else None


def _looks_secret(value: str) -> bool:
    return len(value) >= _SECRET_CHARS or any(map(str.isdigit, value))


# --- As keys of objects ---------------------------------------------------------------------------------------------
_NOT_ALNUM = re.compile(r"[^a-z0-9]+")
_PASSWORD_PARTS = ("password", "passwd", "passphrase", "passcode")
_SECRET_ENDS = (
    *(f"{kind}key" for kind in _KEY_KINDS),
    *("secret", "token", "credential", "credentials", "authorization", "cookie", "jwt", "bearer"),
)
_PUBLIC_ENDS = ("pagetoken", "nexttoken", "continuationtoken", "synctoken", "stoptoken", "eostoken", "padtoken")


@lru_cache(maxsize=4096)
def label_of_key(key: str) -> str:
    """The label for values under a key named like a secret (`clientSecret`, `X-Api-Key`), or "" for other keys."""
    name = _NOT_ALNUM.sub("", key.lower())
    if name.endswith(("pwd", "userpass", "dbpass")) or name == "pass" or any(part in name for part in _PASSWORD_PARTS):
        return PASSWORD_LABEL
    if name == "auth" or (name.endswith(_SECRET_ENDS) and not name.endswith(_PUBLIC_ENDS)):
        return SECRET_LABEL
    return ""
