"""The registry of built-in recognisers: what counts as personal data or a secret, and how to find it.

Every finder is linear in the text: quantifiers are bounded or possessive, and a scan never returns to where an earlier
one began. A finder gets the text and its lower-case form, aligned character by character, and yields the spans to hide.
Recognisers that share a *prefilter*, a test of some hundred nanoseconds, run only if it lets the text through.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv6Address

from clasper.core.redaction.number_finders import (
    find_cards,
    find_ibans,
    find_named_phones,
    find_phones,
    find_ssns,
    holds_number,
    may_hold_iban,
    names_phone,
)
from clasper.core.redaction.secret_fields import (
    PASSWORD_LABEL,
    SECRET_LABEL,
    find_passwords,
    find_secrets,
    may_hold_fields,
)

Span = tuple[int, int]
Finder = Callable[[str, str], Iterable[Span]]
Prefilter = Callable[[str, str], bool]


def always(text: str, lower: str) -> bool:
    """The prefilter of recognisers that look at every text."""
    return True


@dataclass(frozen=True, slots=True)
class Recogniser:
    """One kind of thing to hide. Of overlapping matches equally long and early, higher `priority` names the token."""

    name: str
    label: str
    find: Finder
    prefilter: Prefilter = always
    priority: int = 0


def by_pattern(pattern: re.Pattern[str], accept: Callable[[str], bool] = bool) -> Finder:
    """A finder of the pattern's group, if it has one, otherwise of the whole match, wherever `accept` agrees."""

    def find(text: str, lower: str) -> Iterator[Span]:
        for match in pattern.finditer(text):
            group = match.lastindex or 0
            if accept(match[group]):
                yield match.span(group)

    return find


# --- Electronic mail ------------------------------------------------------------------------------------------------
_MAIL_DOMAIN = re.compile(r"(?:@|%40)[\w-]++(?:\.[\w-]++)++")
_MAIL_LOCAL = frozenset("_.+%'!#$&*^~-")
_USERINFO = re.compile(r"://[^\s/:@\"'<>]*+:[^\s/\"'<>]*+\Z")
_USERINFO_CHARS = 200


def _may_hold_mail(text: str, lower: str) -> bool:
    return "@" in text or "%40" in text


def _find_mail(text: str, lower: str) -> Iterator[Span]:
    floor = 0
    for match in _MAIL_DOMAIN.finditer(text):
        if not any(label[0].isalpha() and len(label) > 1 for label in match[0].split(".")[1:]):
            continue  # name@1.2.3 is a version
        start = at = match.start()
        while start > floor and (text[start - 1].isalnum() or text[start - 1] in _MAIL_LOCAL):
            start -= 1
        while start < at and text[start] in "'.":
            start += 1
        floor = match.end()
        if start < at and not _USERINFO.search(text[max(0, start - _USERINFO_CHARS) : start]):
            yield start, floor


# --- Addresses of machines ------------------------------------------------------------------------------------------
_OCTET = r"(?:25[0-5]|2[0-4]\d|1?\d?\d)"
_IPV4_HINT = re.compile(r"\.[0-9]{1,3}\.[0-9]{1,3}\.[0-9]")
_IPV4 = re.compile(rf"(?<!\d)(?<!\d\.)(?<!\b[vV])(?:{_OCTET}\.){{3}}{_OCTET}(?!\d)(?!\.\d)", re.ASCII)
_IPV6_RUN = re.compile(r"[0-9A-Fa-f:]{3,}+((?:\.\d{1,3}){1,3}+)?", re.ASCII)
_IPV6_CHARS = 60
_IPV6_COLONS = 2
_IPV6_GROUPS = 3


def _may_hold_ipv4(text: str, lower: str) -> bool:
    return _IPV4_HINT.search(text) is not None


def _may_hold_ipv6(text: str, lower: str) -> bool:
    return text.count(":") > 1


def _find_ipv6(text: str, lower: str) -> Iterator[Span]:
    for match in _IPV6_RUN.finditer(text):
        start, end = match.span()
        if end - start > _IPV6_CHARS or text.count(":", start, end) < _IPV6_COLONS:
            continue
        if text[start - 1 : start].isalpha():  # the tail of a word: "host:2001:db8::1"
            start = text.index(":", start, end) + 1
        for stop in (end, match.start(1)) if match[1] else (end,):
            span = _trimmed(text, start, stop)
            if _is_ipv6(text[slice(*span)]):
                yield span
                break


def _trimmed(text: str, start: int, end: int) -> Span:
    """The span without single colons at its ends and without the head of a word that follows it."""
    if text[end : end + 1].isalpha():
        end = text.rfind(":", start, end) + 1
    while start < end and text[start] == ":" and text[start + 1 : start + 2] != ":":
        start += 1
    while start < end and text[end - 1] == ":" and text[end - 2 : end - 1] != ":":
        end -= 1
    return start, end


def _is_ipv6(address: str) -> bool:
    """Whether the token is an address and not a slice or scope operator that happens to parse as one (`1::2`)."""
    try:
        IPv6Address(address)
    except AddressValueError:
        return False
    groups = [group for group in address.split(":") if group]
    return address == "::1" or len(groups) >= _IPV6_GROUPS or any(len(g) == 4 and not g.isalpha() for g in groups)


# --- Tokens and keys ------------------------------------------------------------------------------------------------
_JWT = re.compile(r"eyJ[\w-]{5,}+(?:\.[\w-]*+){0,4}", re.ASCII)
_PEM_BEGIN = re.compile(r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----")
_PEM_END = re.compile(r"-----END [A-Z0-9 ]{0,60}-----")
_BASE_62, _BASE_64, _UPPER_DIGITS = "[A-Za-z0-9]", "[A-Za-z0-9_-]", "[A-Z0-9]"
_KEY_PREFIXES: tuple[tuple[str, str, int], ...] = (
    # prefix, the characters that follow it, and how many at least
    (r"[sp]k-", _BASE_64, 16),  # OpenAI, Anthropic (sk-ant-), OpenRouter (sk-or-), DeepSeek, Langfuse
    (r"xai-", _BASE_64, 16),
    (r"gsk_", _BASE_62, 16),  # Groq
    (r"mistral[-_]", _BASE_62, 24),
    (r"clk_", _BASE_64, 9),  # our own; the 8 characters by which a key is recognised are not secret
    (r"gh[opsur]_", _BASE_62, 20),
    (r"github_pat_", "[A-Za-z0-9_]", 20),
    (r"glpat-", _BASE_64, 16),
    (r"xox[a-z]-", "[A-Za-z0-9-]", 8),  # Slack
    (r"xapp-", "[A-Za-z0-9-]", 16),
    (r"[srp]k_(?:live|test)_", _BASE_62, 8),  # Stripe
    (r"whsec_", "[A-Za-z0-9+/=]", 16),
    (r"hf_", _BASE_62, 20),
    (r"npm_", _BASE_62, 30),
    (r"SG\.", "[A-Za-z0-9_.-]", 30),  # SendGrid
    (r"ya29\.", _BASE_64, 20),  # Google OAuth
    (r"GOCSPX-", _BASE_64, 20),
    (r"AIza", _BASE_64, 30),  # Google API
    (r"A(?:KIA|SIA|ROA|IDA)", _UPPER_DIGITS, 16),  # AWS
)
_API_KEY = re.compile(
    r"(?<![A-Za-z0-9])(?:" + "|".join(f"{prefix}{chars}{{{least},}}+" for prefix, chars, least in _KEY_PREFIXES) + ")"
)
_KEY_HINT = re.compile(
    # One set of first characters, all rare in prose, lets the search skip quickly.
    "[-_.A](?:"
    + "|".join(f"(?<={prefix})" for prefix, _, _ in _KEY_PREFIXES if prefix[-1] in "-_.]")
    + "|(?<=A)(?:Iza|KIA|SIA|ROA|IDA))"
)


def _may_hold_jwt(text: str, lower: str) -> bool:
    return "eyJ" in text


def _may_hold_pem(text: str, lower: str) -> bool:
    return "-----BEGIN" in text


def _may_hold_key(text: str, lower: str) -> bool:
    return _KEY_HINT.search(text) is not None


def _find_private_keys(text: str, lower: str) -> Iterator[Span]:
    position = 0
    while begin := _PEM_BEGIN.search(text, position):
        # A key that was cut off has no end: then everything after its beginning is withheld.
        end = _PEM_END.search(text, begin.end())
        position = end.end() if end else len(text)
        yield begin.start(), position


# --- Credentials in headers and URLs --------------------------------------------------------------------------------
_AUTHORIZATION = re.compile(
    r"authorization\\?[\"']?\s{0,4}(?::|=>?)\s{0,4}\\?[\"']?"
    r"(?:(?:digest|hawk|aws4-hmac-sha256)\s([^\r\n]++)"
    r"|(?:bearer|basic|token|jwt|api-?key|negotiate|hmac)\s{1,4}([^\s\"',;\\<]{3,}+)"
    r"|([^\s\"',;\\<]{6,}+))",
    re.IGNORECASE,
)
_SCHEME = re.compile(r"\b(bearer|basic)(?:\s|%20){1,4}([\w.~+/=-]{6,}+)", re.IGNORECASE)
_URL_USERINFO = re.compile(r"://([^\s/:@\"'<>]*+:[^\s/\"'<>]+)@")
_BEARER_CHARS = 20


def _may_hold_header(text: str, lower: str) -> bool:
    return "bearer" in lower or "basic" in lower or "authorization" in lower


def _may_hold_url(text: str, lower: str) -> bool:
    return "://" in text and "@" in text


def _find_authorization(text: str, lower: str) -> Iterator[Span]:
    for match in _SCHEME.finditer(text):
        if _is_basic(match[2]) if match[1].lower() == "basic" else _is_opaque(match[2]):
            yield match.span(2)
    for match in _AUTHORIZATION.finditer(text):
        if match[3] is None or _is_opaque(match[3]):
            yield match.span(match.lastindex or 0)


def _is_opaque(value: str) -> bool:
    """Whether the value looks like a credential and not like the next word of a sentence."""
    return len(value) >= _BEARER_CHARS or any(char.isdigit() for char in value)


def _is_basic(value: str) -> bool:
    """Whether the value is the base64 of `user:password`."""
    stem = value.rstrip("=")
    try:
        return b":" in base64.b64decode(stem + "=" * (-len(stem) % 4), validate=True)
    except (binascii.Error, ValueError):
        return False


BUILT_IN: tuple[Recogniser, ...] = (
    Recogniser("private_key", "PRIVATE_KEY", _find_private_keys, _may_hold_pem, 90),
    Recogniser("url_credentials", "URL_CREDENTIALS", by_pattern(_URL_USERINFO), _may_hold_url, 80),
    Recogniser("jwt", "JWT", by_pattern(_JWT, lambda found: "." in found), _may_hold_jwt, 75),
    Recogniser("api_key", "API_KEY", by_pattern(_API_KEY), _may_hold_key, 70),
    Recogniser("authorization", "AUTHORIZATION", _find_authorization, _may_hold_header, 60),
    Recogniser("password_field", PASSWORD_LABEL, find_passwords, may_hold_fields, 55),
    Recogniser("secret_field", SECRET_LABEL, find_secrets, may_hold_fields, 50),
    Recogniser("credit_card", "CREDIT_CARD", find_cards, holds_number, 45),
    Recogniser("iban", "IBAN", find_ibans, may_hold_iban, 40),
    Recogniser("ssn", "SSN", find_ssns, holds_number, 35),
    Recogniser("email", "EMAIL", _find_mail, _may_hold_mail, 30),
    Recogniser("phone", "PHONE", find_phones, holds_number, 20),
    Recogniser("phone", "PHONE", find_named_phones, names_phone, 20),
    Recogniser("ip_address", "IP", by_pattern(_IPV4), _may_hold_ipv4, 15),
    Recogniser("ipv6_address", "IP", _find_ipv6, _may_hold_ipv6, 15),
)
