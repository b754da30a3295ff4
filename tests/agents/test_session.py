from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apps.agents.domain.requests import SessionKey, parse_session_key


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("user:u1:agent", SessionKey("u1", "agent")),
        ("user:user-123:assistant", SessionKey("user-123", "assistant")),
        ("user:auth0|abc:planner_2", SessionKey("auth0|abc", "planner_2")),
        ("user:urn:x:1:support", SessionKey("urn:x:1", "support")),
        ("user:Zoë 1:a-b", SessionKey("Zoë 1", "a-b")),
        (f"user:{'u' * 128}:{'r' * 64}", SessionKey("u" * 128, "r" * 64)),
    ],
)
def test_good_keys(text: str, expected: SessionKey) -> None:
    assert parse_session_key(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        *("", ":", "::", "user", "user:", "user:u1", "user::agent", "user:u1:", "user: :agent", "USER:u1:agent"),
        *("agent:u1:agent", " user:u1:agent", "user:u1:agent ", "user:u1:../AGENTS", "user:u1:a.b", "user:u1:a/b"),
        *("user:u1:rôle", "user:u1:agent\n", "user:u\n1:agent", "user:u\x001:agent", "user:\x7f:a", "user:\ud800:a"),
        f"user:{'u' * 129}:agent",
        f"user:u1:{'r' * 65}",
    ],
)
def test_errors_of_bad_keys_name_the_format(text: str) -> None:
    with pytest.raises(ValueError, match=r"user:\{userId\}:\{role\}"):
        parse_session_key(text)


@given(st.text(max_size=60))
def test_any_text_is_a_key_or_a_value_error(text: str) -> None:
    try:
        key = parse_session_key(text)
    except ValueError:
        return
    assert text == f"user:{key.user_id}:{key.role}"
