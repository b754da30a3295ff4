"""Finders of the numbers that name a person or an account: cards, social security numbers, telephones, IBANs."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

Span = tuple[int, int]
_Finder = Callable[[str, str], Iterator[Span]]

_GAP_CHARS = r" .\-\u00a0\u2009\u2010-\u2013\u202f"
_GAP = f"[{_GAP_CHARS}]"
_GAPS = f"[(){_GAP_CHARS}]{{0,2}}+"
_NUMBER = re.compile(rf"[+(0-9](?:{_GAPS}[0-9]){{8,}}+")
_SSN = re.compile(r"(?<!\d)(?<!\d[.,])\d{3}([ \-\u2010-\u2013])\d{2}\1\d{4}(?!\d)", re.ASCII)
_CARDS = tuple(
    re.compile(rf"(?<!\d)(?<!\d[.,]){form}(?!\d)", re.ASCII)
    for form in (
        r"[2-6]\d{12,18}",
        rf"[2-6]\d{{3}}(?:{_GAP}\d{{4}}){{3}}",
        rf"[2-6]\d{{3}}(?:{_GAP}\d{{4}}){{3}}{_GAP}?\d{{1,3}}",
        rf"3\d{{3}}{_GAP}\d{{6}}{_GAP}\d{{4,5}}",
        rf"4\d{{3}}(?:{_GAP}\d{{3}}){{3}}",
    )
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


def holds_number(text: str, lower: str) -> bool:
    """The prefilter of cards, social security numbers and telephones: nine digits in a row, or eight after a plus."""
    return _NUMBER.search(text) is not None


def names_phone(text: str, lower: str) -> bool:
    """The prefilter of `find_named_phones`."""
    return "phone" in lower or "mobile" in lower or "tel" in lower or "fax" in lower or "whatsapp" in lower


def _in_numbers(*patterns: re.Pattern[str], accept: Callable[[re.Match[str]], bool] = bool) -> _Finder:
    """A finder of the patterns within runs of digits and the signs between them, and nowhere else.

    After a match that `accept` refuses, the search continues at the next character: "4234 4111 1111 1111 1111" begins
    with something that looks like a card number but is not one.
    """

    def find(text: str, lower: str) -> Iterator[Span]:
        for number in _NUMBER.finditer(text):
            for pattern in patterns:
                position, end = number.span()
                while match := pattern.search(text, position, end):
                    if accept(match):
                        yield match.span()
                        position = match.end()
                    else:
                        position = match.start() + 1

    return find


def luhn_valid(number: str) -> bool:
    """Whether the digits of `number` pass the Luhn check of ISO/IEC 7812; other characters are ignored."""
    digits = [int(char) for char in reversed(number) if char.isdigit()]
    return (sum(digits[::2]) + sum(_LUHN_DOUBLED[digit] for digit in digits[1::2])) % 10 == 0


def _is_card(match: re.Match[str]) -> bool:
    return luhn_valid(match[0])


def _is_ssn(match: re.Match[str]) -> bool:
    """Three groups separated by blanks are ordinary prose unless they could have been issued."""
    return match[1] != " " or (match[0][:3] not in ("000", "666") and match[0][0] != "9")


def find_named_phones(text: str, lower: str) -> Iterator[Span]:
    """Any seven to fifteen digits that a word such as "phone:" declares to be a telephone number."""
    for match in _NAMED_PHONE.finditer(lower):
        yield match.span(1)


_IBAN_COUNTRIES = {
    15: "NO",
    16: "BE",
    18: "DK FI FK FO GL NL SD",
    19: "MK SI",
    20: "AT BA EE KZ LT LU MN XK",
    21: "CH HR LI LV",
    22: "BG BH CR DE GB GE IE ME RS VA",
    23: "AE GI IL IQ OM SO TL",
    24: "AD CZ ES MD PK RO SA SE SK TN VG",
    25: "LY PT ST",
    26: "IS TR",
    27: "BI DJ FR GR IT MC MR SM",
    28: "AL AZ BY CY DO GT HN HU LB NI PL SV",
    29: "BR EG PS QA UA",
    30: "JO KW MU YE",
    31: "MT SC",
    32: "LC",
    33: "RU",
}
_IBAN_LENGTHS = {country: length for length, some in _IBAN_COUNTRIES.items() for country in some.split()}
# Begins at the check digits, so that the search skips letters quickly; the country is checked afterwards.
_IBAN_TAIL = re.compile(
    r"[0-9][0-9](?<=[A-Za-z]{2}[0-9]{2})(?<![A-Za-z0-9][A-Za-z]{2}[0-9]{2})(?=(?:[ -]?[A-Za-z0-9]){11})"
)
_IBAN_CHAR = re.compile(r"[ -]?([A-Za-z0-9])")


def may_hold_iban(text: str, lower: str) -> bool:
    """The prefilter of `find_ibans`."""
    return _IBAN_TAIL.search(text) is not None


def find_ibans(text: str, lower: str) -> Iterator[Span]:
    """IBANs of the registered countries, of the right length and with the right check digits."""
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


find_cards = _in_numbers(*_CARDS, accept=_is_card)
find_ssns = _in_numbers(_SSN, accept=_is_ssn)
find_phones = _in_numbers(_PHONE)
