from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clasper.core.crypto import SealBroken, derive_key, seal, unseal

KEY = derive_key("a secret", "tests")


@given(st.binary(max_size=500), st.text(st.characters(codec="utf-8"), max_size=50))
def test_what_is_sealed_opens_in_its_place_only(plain: bytes, place: str) -> None:
    sealed = seal(plain, key=KEY, bound_to=place)
    assert unseal(sealed, key=KEY, bound_to=place) == plain
    assert unseal(memoryview(sealed), key=KEY, bound_to=place) == plain  # type: ignore[arg-type]  # as psycopg gives it
    with pytest.raises(SealBroken):
        unseal(sealed, key=KEY, bound_to=place + "x")
    with pytest.raises(SealBroken):
        unseal(sealed, key=derive_key("another secret", "tests"), bound_to=place)


@given(st.binary(min_size=1, max_size=50), st.data())
def test_a_changed_byte_breaks_the_seal(plain: bytes, data: st.DataObject) -> None:
    sealed = bytearray(seal(plain, key=KEY, bound_to="row"))
    sealed[data.draw(st.integers(0, len(sealed) - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises(SealBroken):
        unseal(bytes(sealed), key=KEY, bound_to="row")


@pytest.mark.parametrize("length", [0, 5, 12, 20])
def test_a_cut_value_does_not_open(length: int) -> None:
    sealed = seal(b"plain", key=KEY, bound_to="row")
    with pytest.raises(SealBroken):
        unseal(sealed[:length], key=KEY, bound_to="row")


def test_the_same_text_is_never_sealed_the_same() -> None:
    assert len({seal(b"plain", key=KEY, bound_to="row") for _ in range(100)}) == 100
    assert b"plain" not in seal(b"plain", key=KEY, bound_to="row")


def test_keys_are_apart_by_secret_and_purpose() -> None:
    keys = {derive_key(secret, purpose) for secret in ("a", "b") for purpose in ("x", "y")}
    assert len(keys) == 4
    assert {len(key) for key in keys} == {32}
    assert derive_key("a", "x") in keys
