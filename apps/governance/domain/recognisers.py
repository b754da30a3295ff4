"""The registry of built-in recognisers: what counts as personal data or a secret, and how to find it.

Every finder is linear in the text: quantifiers are bounded or possessive, and a scan never returns to where an earlier
one began. A finder gets the text and its lower-case form, aligned character by character, and yields the spans to hide.
Recognisers with the same *gate* run only if that gate, a test of some hundred nanoseconds, lets the text through.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv6Address

from apps.governance.domain.secret_fields import (
    PASSWORD_LABEL,
    SECRET_LABEL,
    find_passwords,
    find_secrets,
    may_hold_fields,
)

Span = tuple[int, int]
Finder = Callable[[str, str], Iterable[Span]]
Gate = Callable[[str, str], bool]


def always(text: str, lower: str) -> bool:
    """The gate of recognisers that look at every text."""
    return True


@dataclass(frozen=True, slots=True)
class Recogniser:
    """One kind of thing to hide. Of overlapping finds equally long and early the higher `priority` names the token."""

    name: str
    label: str
    find: Finder
    gate: Gate = always
    priority: int = 0


def by_pattern(pattern: re.Pattern[str], accept: Callable[[str], bool] | None = None) -> Finder:
    """A finder of the pattern's group, if it took part, else of the whole match, wherever `accept` agrees with it."""

    def find(text: str, lower: str) -> Iterator[Span]:
        for match in pattern.finditer(text):
            group = match.lastindex or 0
            if accept is None or accept(match[group]):
                yield match.span(group)

    return find


# --- Electronic mail ------------------------------------------------------------------------------------------------
_MAIL_DOMAIN = re.compile(r"(?:@|%40)[\w-]++(?:\.[\w-]++)++")
_MAIL_LOCAL = frozenset("_.+%'!#$&*^~-")
_USERINFO = re.compile(r"://[^\s/@:]*+\Z")
_USERINFO_CHARS = 200


def _mail_gate(text: str, lower: str) -> bool:
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
        in_url = text[start - 1 : start] == ":" and _USERINFO.search(text[max(0, start - _USERINFO_CHARS) : start - 1])
        if start < at and not in_url:
            yield start, floor


# --- Numbers of people, cards and accounts --------------------------------------------------------------------------
_GAP_CHARS = r" .\-\u00a0\u2009\u2010-\u2013\u202f"
_GAP = f"[{_GAP_CHARS}]"
_GAPS = f"[(){_GAP_CHARS}]{{0,2}}+"
_NUMBER = re.compile(rf"[+(0-9](?:{_GAPS}[0-9]){{8,}}+")
_SSN = re.compile(r"(?<!\d)(?<!\d[.,])\d{3}([ \-\u2010-\u2013])\d{2}\1\d{4}(?!\d)", re.ASCII)
_CARD = re.compile(
    r"(?<!\d)(?<!\d[.,])(?:[2-6]\d{12,18}"
    rf"|[2-6]\d{{3}}(?:{_GAP}\d{{4}}){{3}}(?:{_GAP}?\d{{1,3}})?"
    rf"|3\d{{3}}{_GAP}\d{{6}}{_GAP}\d{{4,5}}"
    rf"|4\d{{3}}(?:{_GAP}\d{{3}}){{3}})(?!\d)",
    re.ASCII,
)
_PHONE = re.compile(
    # +44 20 7946 0958, +1 (555) 123-4567
    rf"(?<![\w+])\+(?=[1-9(])(?:{_GAPS}\d){{8,15}}(?!\d)"
    # (555) 123-4567, 555-123-4567, 1.555.123.4567
    rf"|(?<!\d)(?<!\d[.,\-/])(?:1{_GAP})?(?:\([2-9]\d\d\){_GAP}?|[2-9]\d\d{_GAP})\d{{3}}{_GAP}\d{{4}}(?!\d)"
    rf"|(?<!\d)\([2-9]\d\d\) ?\d{{7}}(?!\d)",
    re.ASCII,
)
_NAMED_PHONE = re.compile(
    r"(?:phone|mobile|tel|fax|whatsapp)(?:[ _]?(?:number|nr|no))?[\"'.]{0,2}[ ]?[:=#][ ]?[\"']?"
    rf"(\+?(?:{_GAPS}\d){{7,15}})(?!\d)",
    re.ASCII,
)
_LUHN_DOUBLED = (0, 2, 4, 6, 8, 1, 3, 5, 7, 9)


def _number_gate(text: str, lower: str) -> bool:
    return _NUMBER.search(text) is not None


def _phone_word_gate(text: str, lower: str) -> bool:
    return "phone" in lower or "mobile" in lower or "tel" in lower or "fax" in lower or "whatsapp" in lower


def in_numbers(pattern: re.Pattern[str], accept: Callable[[re.Match[str]], bool] | None = None) -> Finder:
    """A finder of the pattern within runs of digits and the signs that part them, and nowhere else."""

    def find(text: str, lower: str) -> Iterator[Span]:
        for number in _NUMBER.finditer(text):
            for match in pattern.finditer(text, *number.span()):
                if accept is None or accept(match):
                    yield match.span()

    return find


def luhn_valid(number: str) -> bool:
    """Whether the digits of `number` pass the Luhn check of ISO/IEC 7812; other characters are ignored."""
    digits = [int(char) for char in reversed(number) if char.isdigit()]
    return (sum(digits[::2]) + sum(_LUHN_DOUBLED[digit] for digit in digits[1::2])) % 10 == 0


def _is_card(match: re.Match[str]) -> bool:
    return luhn_valid(match[0])


def _is_ssn(match: re.Match[str]) -> bool:
    """Three groups parted by blanks are ordinary prose unless they could have been issued."""
    return match[1] != " " or (match[0][:3] not in ("000", "666") and match[0][0] != "9")


def _find_named_phones(text: str, lower: str) -> Iterator[Span]:
    for match in _NAMED_PHONE.finditer(lower):
        yield match.span(1)


_IBAN_LENGTHS = {
    entry[:2]: int(entry[2:])
    for entry in (
        "AD24 AE23 AL28 AT20 AZ28 BA20 BE16 BG22 BH22 BI27 BR29 BY28 CH21 CR22 CY28 CZ24 DE22 DJ27 DK18 DO28 EE20 EG29 "
        "ES24 FI18 FK18 FO18 FR27 GB22 GE22 GI23 GL18 GR27 GT28 HN28 HR21 HU28 IE22 IL23 IQ23 IS26 IT27 JO30 KW30 KZ20 "
        "LB28 LC32 LI21 LT20 LU20 LV21 LY25 MC27 MD24 ME22 MK19 MN20 MR27 MT31 MU30 NI28 NL18 NO15 OM23 PK24 PL28 PS29 "
        "PT25 QA29 RO24 RS22 RU33 SA24 SC31 SD18 SE24 SI19 SK24 SM27 SO23 ST25 SV28 TL23 TN24 TR26 UA29 VA22 VG24 XK20 "
        "YE30"
    ).split()
}
# Begins at the check digits, so that the search skips letters quickly; the country is looked at behind it.
_IBAN_TAIL = re.compile(
    r"[0-9][0-9](?<=[A-Za-z]{2}[0-9]{2})(?<![A-Za-z0-9][A-Za-z]{2}[0-9]{2})(?=(?:[ -]?[A-Za-z0-9]){11})"
)
_IBAN_CHAR = re.compile(r"[ -]?([A-Za-z0-9])")


def _iban_gate(text: str, lower: str) -> bool:
    return _IBAN_TAIL.search(text) is not None


def _find_iban(text: str, lower: str) -> Iterator[Span]:
    for match in _IBAN_TAIL.finditer(text):
        start = match.start() - 2
        length = _IBAN_LENGTHS.get(text[start : start + 2].upper(), 0)
        compact, end = text[start : start + 4], match.end()
        while len(compact) < length and (char := _IBAN_CHAR.match(text, end)):
            compact += char[1]
            end = char.end()
        if length and len(compact) == length and not text[end : end + 1].isalnum() and _iban_checks(compact):
            yield start, end


def _iban_checks(compact: str) -> bool:
    """The mod-97 check of ISO 13616."""
    return int("".join(str(int(char, 36)) for char in compact[4:] + compact[:4])) % 97 == 1


# --- Addresses of machines ------------------------------------------------------------------------------------------
_OCTET = r"(?:25[0-5]|2[0-4]\d|1?\d?\d)"
_IPV4_GATE = re.compile(r"\.[0-9]{1,3}\.[0-9]{1,3}\.[0-9]")
_IPV4 = re.compile(rf"(?<!\d)(?<!\d\.)(?<!\b[vV])(?:{_OCTET}\.){{3}}{_OCTET}(?!\d)(?!\.\d)", re.ASCII)
_IPV6_RUN = re.compile(r"[0-9A-Fa-f:]{3,}+((?:\.\d{1,3}){1,3}+)?", re.ASCII)
_IPV6_CHARS = 60
_IPV6_COLONS = 2
_IPV6_GROUPS = 3


def _ipv4_gate(text: str, lower: str) -> bool:
    return _IPV4_GATE.search(text) is not None


def _ipv6_gate(text: str, lower: str) -> bool:
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


def _is_ipv6(token: str) -> bool:
    """Whether the token is an address and not a slice or scope operator that happens to parse as one (`1::2`)."""
    try:
        IPv6Address(token)
    except AddressValueError:
        return False
    groups = [group for group in token.split(":") if group]
    return token == "::1" or len(groups) >= _IPV6_GROUPS or any(len(g) == 4 and not g.isalpha() for g in groups)


# --- Tokens and keys ------------------------------------------------------------------------------------------------
_JWT = re.compile(r"eyJ[\w-]{5,}+(?:\.[\w-]*+){0,4}", re.ASCII)
_PEM_BEGIN = re.compile(r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----")
_PEM_END = re.compile(r"-----END [A-Z0-9 ]{0,60}-----")
_BASE_62, _BASE_64, _UPPER_DIGITS = "[A-Za-z0-9]", "[A-Za-z0-9_-]", "[A-Z0-9]"
_KEY_PREFIXES: tuple[tuple[str, str, int], ...] = (
    # prefix, what follows it, and how many of that at least
    (r"[sp]k-", _BASE_64, 16),  # OpenAI, Anthropic (sk-ant-), OpenRouter (sk-or-), DeepSeek, Langfuse
    (r"xai-", _BASE_64, 16),
    (r"gsk_", _BASE_62, 16),  # Groq
    (r"mistral[-_]", _BASE_62, 24),
    (r"clk_", _BASE_64, 8),  # our own
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
_KEY_GATE = re.compile(
    # One set of first characters, all rare in prose, lets the search skip quickly.
    "[-_.A](?:"
    + "|".join(f"(?<={prefix})" for prefix, _, _ in _KEY_PREFIXES if prefix[-1] in "-_.]")
    + "|(?<=A)(?:Iza|KIA|SIA|ROA|IDA))"
)


def _jwt_gate(text: str, lower: str) -> bool:
    return "eyJ" in text


def _pem_gate(text: str, lower: str) -> bool:
    return "-----BEGIN" in text


def _key_gate(text: str, lower: str) -> bool:
    return _KEY_GATE.search(text) is not None


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


def _header_gate(text: str, lower: str) -> bool:
    return "bearer" in lower or "basic" in lower or "authorization" in lower


def _url_gate(text: str, lower: str) -> bool:
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
    Recogniser("private_key", "PRIVATE_KEY", _find_private_keys, _pem_gate, 90),
    Recogniser("url_credentials", "URL_CREDENTIALS", by_pattern(_URL_USERINFO), _url_gate, 80),
    Recogniser("jwt", "JWT", by_pattern(_JWT, lambda found: "." in found), _jwt_gate, 75),
    Recogniser("api_key", "API_KEY", by_pattern(_API_KEY), _key_gate, 70),
    Recogniser("authorization", "AUTHORIZATION", _find_authorization, _header_gate, 60),
    Recogniser("password_field", PASSWORD_LABEL, find_passwords, may_hold_fields, 55),
    Recogniser("secret_field", SECRET_LABEL, find_secrets, may_hold_fields, 50),
    Recogniser("credit_card", "CREDIT_CARD", in_numbers(_CARD, _is_card), _number_gate, 45),
    Recogniser("iban", "IBAN", _find_iban, _iban_gate, 40),
    Recogniser("ssn", "SSN", in_numbers(_SSN, _is_ssn), _number_gate, 35),
    Recogniser("email", "EMAIL", _find_mail, _mail_gate, 30),
    Recogniser("phone", "PHONE", in_numbers(_PHONE), _number_gate, 20),
    Recogniser("phone", "PHONE", _find_named_phones, _phone_word_gate, 20),
    Recogniser("ip_address", "IP", by_pattern(_IPV4), _ipv4_gate, 15),
    Recogniser("ipv6_address", "IP", _find_ipv6, _ipv6_gate, 15),
)
