"""What redaction hides, what it leaves alone, and that it never gives anything back."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clasper.core.redaction import redact, redact_counted, redact_text
from clasper.core.redaction.custom_patterns import CustomPattern
from clasper.core.redaction.number_finders import luhn_valid
from clasper.core.redaction.recognisers import BUILT_IN
from clasper.core.redaction.redactor import MAX_DEPTH, WITHHELD, Redactor, Strategy

KEY = b"k" * 32
MASK = Redactor()
HASH = Redactor(key=KEY, strategy=Strategy.HASH)

JWT = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U"
PEM = "-----BEGIN RSA PRIVATE KEY-----\nMIIBOgIBAAJBAKj34Gky\nFTMSBzdHMq\n-----END RSA PRIVATE KEY-----"

SECRETS: list[tuple[str, str]] = [
    # the secret, and the token that must take its place
    ("test@example.com", "EMAIL"),
    ("first.last+tag@sub.example.co.uk", "EMAIL"),
    ("o'brien@example.ie", "EMAIL"),
    ("jürgen@müller.example", "EMAIL"),
    ("user%40example.com", "EMAIL"),
    ("123-45-6789", "SSN"),
    ("123 45 6789", "SSN"),
    ("987-65-4321", "SSN"),
    ("(555) 123-4567", "PHONE"),
    ("555-123-4567", "PHONE"),
    ("555.123.4567", "PHONE"),
    ("1-800-555-0199", "PHONE"),
    ("+1 (555) 123-4567", "PHONE"),
    ("+15551234567", "PHONE"),
    ("+44 20 7946 0958", "PHONE"),
    ("+49 (0)30 1234567", "PHONE"),
    ("4111 1111 1111 1111", "CREDIT_CARD"),
    ("4111-1111-1111-1111", "CREDIT_CARD"),
    ("4111111111111111", "CREDIT_CARD"),
    ("378282246310005", "CREDIT_CARD"),
    ("3782 822463 10005", "CREDIT_CARD"),
    ("30569309025904", "CREDIT_CARD"),
    ("4222222222222", "CREDIT_CARD"),
    ("6304000000000000000", "CREDIT_CARD"),
    ("GB82 WEST 1234 5698 7654 32", "IBAN"),
    ("DE89370400440532013000", "IBAN"),
    ("no9386011117947", "IBAN"),
    ("192.168.1.254", "IP"),
    ("2001:db8::8a2e:370:7334", "IP"),
    ("2001:0db8:85a3:0000:0000:8a2e:0370:7334", "IP"),
    ("fe80::1", "IP"),
    (JWT, "JWT"),
    (PEM, "PRIVATE_KEY"),
    (PEM.replace("RSA ", ""), "PRIVATE_KEY"),
    ("sk-abcdefghijklmnopqrstuvwx", "API_KEY"),
    ("sk-proj-Abc123_def-456ghi789jkl", "API_KEY"),
    ("sk-ant-api03-Zm9vYmFyYmF6cXV4", "API_KEY"),
    ("sk-or-v1-0123456789abcdef0123", "API_KEY"),
    ("AIzaSyA1234567890abcdefghijklmnopqrstuv", "API_KEY"),
    ("xai-0123456789abcdefABCDEF", "API_KEY"),
    ("gsk_0123456789abcdefABCDEF", "API_KEY"),
    ("AKIAIOSFODNN7EXAMPLE", "API_KEY"),
    ("ASIAIOSFODNN7EXAMPLE", "API_KEY"),
    ("ghp_0123456789abcdefABCDEF0123456789abcd", "API_KEY"),
    ("github_pat_11ABCDEFG0_abcdefghijklmnop", "API_KEY"),
    ("xoxb-123456789012-abcdefABCDEF", "API_KEY"),
    ("sk_live_4eC39HqLyjWDarjtT1zdp7dc", "API_KEY"),
    ("clk_0a1b2c3d4e5f", "API_KEY"),
]
BARE_SECRETS = [secret for secret, _ in SECRETS]

IN_CONTEXT: list[tuple[str, str]] = [
    ("SSN: 123-45-6789, Email: test@example.com", "SSN: [SSN], Email: [EMAIL]"),
    ("SSN: 123-45-6789 then mail test@example.com", "SSN: [SSN] then mail [EMAIL]"),
    ("ip 10.0.0.1 mail a@b.co.", "ip [IP] mail [EMAIL]."),
    ("from 2001:db8::1: refused", "from [IP]: refused"),
    ("http://[2001:db8::1]:8080/x", "http://[[IP]]:8080/x"),
    ("phone: 5551234567!", "phone: [PHONE]!"),
    ("Tel. 5551234", "Tel. 5551234"),
    ('"phone_number": "5551234567"', '"phone_number": "[PHONE]"'),
    ("my password is hunter2, keep it", "my password is [PASSWORD_FIELD], keep it"),
    ("password=hunter2&user=bob", "password=[PASSWORD_FIELD]&user=bob"),
    ("password: correct", "password: [PASSWORD_FIELD]"),
    ('password: "correct horse battery" ok', 'password: "[PASSWORD_FIELD]" ok'),
    ("passwd = 'it\\'s me' ok", "passwd = '[PASSWORD_FIELD]' ok"),
    ('password: "cut off here', 'password: "[PASSWORD_FIELD]'),
    ('{"password": "hunter two", "user": "bob"}', '{"password": "[PASSWORD_FIELD]", "user": "bob"}'),
    ('{\\"password\\": \\"hunter two\\", \\"a\\": 1}', '{\\"password\\": \\"[PASSWORD_FIELD]\\", \\"a\\": 1}'),
    ("DB_PASS=swordfish", "DB_PASS=[PASSWORD_FIELD]"),
    ('"pass": "sword fish"', '"pass": "[PASSWORD_FIELD]"'),
    ("<db_password>swordfish</db_password>", "<db_password>[PASSWORD_FIELD]</db_password>"),
    ("mysql --password swordfish -u root", "mysql --password [PASSWORD_FIELD] -u root"),
    ('api_key: str = "sword fish"', 'api_key: str = "[SECRET]"'),
    ('os.environ["API_KEY"] = "sword fish"', 'os.environ["API_KEY"] = "[SECRET]"'),
    ("X-Api-Key: abc123", "X-Api-Key: [SECRET]"),
    ("X-Agent-Daemon-Key: abc123", "X-Agent-Daemon-Key: [SECRET]"),
    ("aws_secret_access_key = wJalrXUtnFEMI/K7MDENG", "aws_secret_access_key = [SECRET]"),
    ("client_secret=abc", "client_secret=[SECRET]"),
    ("?access_token=abc&page=2", "?access_token=[SECRET]&page=2"),
    ("Authorization: Bearer abcdef", "Authorization: Bearer [AUTHORIZATION]"),
    ("Authorization: Basic dXNlcjpwYXNz", "Authorization: Basic [AUTHORIZATION]"),
    ("Authorization: 0a1b2c3d4e", "Authorization: [AUTHORIZATION]"),
    ('Authorization: Digest username="Mufasa", response="6629"', "Authorization: Digest [AUTHORIZATION]"),
    ("curl -H 'Authorization: token abcdef' x", "curl -H 'Authorization: token [AUTHORIZATION]' x"),
    ("sent bearer 0a1b2c3d4e5f to it", "sent bearer [AUTHORIZATION] to it"),
    ("postgres://bob:p@ss@db.example.com/x", "postgres://[URL_CREDENTIALS]@db.example.com/x"),
    ("redis://:swordfish@cache:6379", "redis://[URL_CREDENTIALS]@cache:6379"),
    ("4234 4111 1111 1111 1111", "4234 [CREDIT_CARD]"),
    (f"cut off {PEM[:60]}", "cut off [PRIVATE_KEY]"),
    ("İstanbul: password=hunter2 İ", "İstanbul: password=[PASSWORD_FIELD] İ"),
]

INNOCENT = [
    "order 1042 shipped on 2026-02-10 for $1,299.00",
    "2026-02-10T12:30:45.123Z and 2026-02-10 12:30:45+00:00",
    "20260210123045 1770724800 1770724800123 1770724800123456",
    "version 1.2.3, v10.20.30.40, 18.2.0-beta.1, react@18.2.0, lodash@^4.17.21",
    "10 000 000 users, 3.141592653589793, 0.5312345678901234, 1e10",
    "018f4d2e-7b3a-7c21-9d4e-5f6a7b8c9d0e 12345678-1234-1234-1234-123456789012",
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "chrome 120.0.6099.109, OID 1.3.6.1.4.1.311, section 3.2.1",
    "ratio 16:9, at 12:30:45, x[::2], y[1::2], std::vector<int>::iterator, a::b",
    "total_tokens: 1200, max_tokens=400, tokens: 12, token_count: 5, token_type: bearer",
    "The token is expired. Token: expired. Secret: none. The secretary: Jane. API key: missing",
    "Basic understanding, basic JavaScript, bearer of news, the bearer certificate, basic step-by-step",
    "task-management-and-planning, risk-assessment-in-practice, disk-usage, high_school",
    "Forgot your password? Reset the password. password: required. A password is required",
    "def f(x: int) -> str:\n    return '@app.route' if x > 3 else \"#define\"",
    "pass: 12, fail: 0; bypass = yes; compass: north; key: value; keyboard = qwerty; monkey: see",
    "https://example.com/a/b?page=2#top and ftp://host/path @types/node",
    "SELECT * FROM t WHERE id = 123456789; -- 9 digits",
    "ISBN 978-3-16-148410-0, zip 94107-1234, 12/31/2026, 555-1234",
    "Größe: 42, 価格: 1000円, эмодзи 🎉, النص",
    "[EMAIL] and [HASH:0123456789abcdef] and [SSN]",
    "clk_0a1b2c3d is how a key is recognised",
]

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
parting = st.sampled_from([" ", "\n", "\t", ", ", "; ", " (", "<", "|"])
secrets = st.sampled_from(BARE_SECRETS)


@pytest.mark.parametrize(("secret", "label"), SECRETS, ids=[f"{label}-{n}" for n, (_, label) in enumerate(SECRETS)])
def test_each_kind_is_masked_alone_and_in_a_sentence(secret: str, label: str) -> None:
    assert redact_text(secret) == f"[{label}]"
    assert redact_text(f"see {secret} there") == f"see [{label}] there"
    assert redact_text(f"({secret})") == f"([{label}])"
    assert redact_text(f'{{"x":"{secret}"}}') == f'{{"x":"[{label}]"}}'


@pytest.mark.parametrize(("text", "expected"), IN_CONTEXT)
def test_context(text: str, expected: str) -> None:
    assert redact_text(text) == expected


@pytest.mark.parametrize("text", INNOCENT)
def test_innocent_text_is_returned_as_it_is(text: str) -> None:
    assert redact_text(text) is text


@given(before=texts, left=parting, secret=secrets, right=parting, after=texts)
def test_a_secret_is_gone_whatever_surrounds_it(before: str, left: str, secret: str, right: str, after: str) -> None:
    text = f"{before}{left}{secret}{right}{after}"
    assert secret not in MASK.redact_text(text)
    assert secret not in HASH.redact_text(text)


@given(
    st.lists(st.one_of(secrets, texts, st.sampled_from(["password: ", "token=", "@", "://", "[EMAIL]"])), max_size=8)
)
def test_redacting_twice_changes_nothing(parts: list[str]) -> None:
    for redactor in (MASK, HASH):
        once = redactor.redact_text("".join(parts))
        assert redactor.redact_text(once) is once


@given(st.text("abcdefg hijklmn,.!?\n", max_size=200))
def test_plain_words_stay(text: str) -> None:
    assert MASK.redact_text(text) is text


@given(st.lists(secrets, min_size=1, max_size=6))
def test_many_secrets_side_by_side(planted: list[str]) -> None:
    redacted = MASK.redact_text(" and ".join(planted))
    assert not [secret for secret in planted if secret in redacted]
    assert redacted.count(" and ") == len(planted) - 1


def test_overlapping_finds_become_one_token() -> None:
    text = f"password=bob@example.com token={JWT}"
    assert redact_text(text) == "password=[PASSWORD_FIELD] token=[JWT]"


# --- JSON values ------------------------------------------------------------------------------------------------------
def test_values_keep_their_shape() -> None:
    value = {
        "to": ["a@example.com", 7, None, True, 1.5],
        "nested": {"b@example.com": {"deep": "call 555-123-4567"}},
        "ms": 1770724800123,
        "card": 4111111111111111,
    }
    assert redact(value) == {
        "to": ["[EMAIL]", 7, None, True, 1.5],
        "nested": {"[EMAIL]": {"deep": "call [PHONE]"}},
        "ms": 1770724800123,
        "card": "[CREDIT_CARD]",
    }
    assert redact(redact(value)) == redact(value)


@pytest.mark.parametrize(
    ("key", "label"),
    [
        ("password", "PASSWORD_FIELD"),
        ("userPassword", "PASSWORD_FIELD"),
        ("pass", "PASSWORD_FIELD"),
        ("client_secret", "SECRET"),
        ("token", "SECRET"),
        ("accessToken", "SECRET"),
        ("api_key", "SECRET"),
        ("X-Api-Key", "SECRET"),
        ("Authorization", "SECRET"),
        ("Set-Cookie", "SECRET"),
    ],
)
def test_texts_under_a_secret_key_go_whole(key: str, label: str) -> None:
    assert redact({key: "open sesame"}) == {key: f"[{label}]"}
    assert redact({key: ["open", "sesame"]}) == {key: [f"[{label}]"] * 2}
    assert redact({key: ""}) == {key: ""}
    assert redact({key: None}) == {key: None}


@pytest.mark.parametrize(
    "key", ["max_tokens", "total_tokens", "next_page_token", "key", "secretary", "compass", "author"]
)
def test_keys_that_only_sound_secret(key: str) -> None:
    assert redact({key: "open sesame"}) == {key: "open sesame"}


def test_a_schema_of_a_secret_field_stays_readable() -> None:
    schema = {"properties": {"password": {"type": "string", "description": "The user's password"}}}
    assert redact(schema) == schema


def test_a_numeric_password_goes_too() -> None:
    assert redact({"password": 123456, "token": 5}) == {"password": "[PASSWORD_FIELD]", "token": 5}


def test_two_keys_never_become_one() -> None:
    value = {"a@example.com": 1, "b@example.com": 2, "[EMAIL]": 3}
    redacted = redact(value)
    assert sorted(redacted.values()) == [1, 2, 3]
    assert not any("example" in key for key in redacted)


def test_counts_name_the_recogniser_and_nothing_else() -> None:
    value, counts = redact_counted({"a": "x@example.com y@example.com", "password": "z", "b": "10.0.0.1"})
    assert counts == {"email": 2, "password_field": 1, "ip_address": 1}
    assert value == {"a": "[EMAIL] [EMAIL]", "password": "[PASSWORD_FIELD]", "b": "[IP]"}
    assert redact_counted("nothing here") == ("nothing here", {})


def test_what_is_nested_too_deep_is_withheld() -> None:
    value: Any = "a@example.com"
    for _ in range(MAX_DEPTH + 5):
        value = [value]
    text = repr(redact(value))
    assert WITHHELD in text
    assert "example" not in text


# --- Strategies -------------------------------------------------------------------------------------------------------
def test_hashes_are_keyed_and_stable() -> None:
    other = Redactor(key=b"other", strategy="hash")
    token = HASH.redact_text("test@example.com")
    assert token == HASH.redact_text("mail test@example.com now")[5:-4]
    assert token != other.redact_text("test@example.com")
    assert token.startswith("[HASH:")
    assert len(token) == len("[HASH:]") + 16


def test_hashing_without_a_key_is_refused() -> None:
    with pytest.raises(ValueError, match="key"):
        Redactor(strategy=Strategy.HASH)


def test_drop_and_summarize() -> None:
    text = "mail test@example.com, password=abc end"
    assert Redactor(strategy="drop").redact_text(text) == "mail , password= end"
    assert Redactor(strategy="summarize").redact_text(text) == "mail te..om, password=[PASSWORD_FIELD] end"


# --- Speed ------------------------------------------------------------------------------------------------------------
ADVERSARIAL = [
    *(
        "a",
        "1",
        "@",
        "a@",
        "a@a.",
        "eyJ",
        "eyJ.",
        "sk-",
        "://a:",
        "1.",
        "1 ",
        "+1 ",
        "::",
        "1:",
        "f:",
        "GB82 ",
        "4111 ",
    ),
    *("4111-1111-", "555-123-", "(555)", "-----BEGIN ", "-----BEGIN PRIVATE KEY-----", "password", "password=", "key "),
    *("password: ", 'password="', "password='", 'password=\\"', "password>", "--password ", "password is ", "&", "&a="),
    *(
        "bearer ",
        "basic a",
        "authorization: ",
        "authorization: digest ",
        "phone: ",
        "phone: 1 ",
        "AKIA",
        "[EMAIL]",
        "İ",
    ),
]


@pytest.mark.parametrize("seed", ADVERSARIAL)
def test_time_grows_with_the_length_only(seed: str) -> None:
    text = (seed * (200_000 // len(seed))) + " x@example.com"
    started = time.process_time()
    assert "x@example.com" not in MASK.redact_text(text)
    assert time.process_time() - started < 5


def test_built_in_names_are_those_of_the_registry() -> None:
    assert {recogniser.name for recogniser in BUILT_IN} == {
        *("email", "ssn", "phone", "credit_card", "iban", "ip_address", "ipv6_address", "jwt", "private_key"),
        *("api_key", "authorization", "password_field", "secret_field", "url_credentials"),
    }


@given(st.integers(10**11, 10**18))
def test_luhn_accepts_exactly_one_check_digit(stem: int) -> None:
    assert [luhn_valid(f"{stem}{digit}") for digit in range(10)].count(True) == 1


@settings(max_examples=30)
@given(st.lists(st.sampled_from(["EMP-123456", "bob@example.com", " ", "x", "[EMAIL]"]), max_size=10))
def test_custom_patterns_join_the_registry(parts: list[str]) -> None:
    redactor = Redactor(custom=[CustomPattern("employee", r"EMP-\d{6}"), CustomPattern("capitals", "[A-Z]{5}")])
    once = redactor.redact_text("".join(parts))
    assert "EMP-" not in once
    assert redactor.redact_text(once) is once
