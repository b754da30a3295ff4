from __future__ import annotations

import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clasper.core.ids import is_uuid, new_id


def test_ids_are_new_ordered_and_version_7() -> None:
    made = [new_id() for _ in range(2_000)]
    assert len(set(made)) == len(made)
    assert made == sorted(made)
    assert {uuid.UUID(each).version for each in made} == {7}
    assert all(len(each) == 36 and each == each.lower() for each in made)


@given(st.uuids())
def test_every_uuid_is_one(value: uuid.UUID) -> None:
    assert is_uuid(str(value))
    assert is_uuid(str(value).upper())


@pytest.mark.parametrize("text", ["", "x", "{%s}", "urn:uuid:%s", " %s", "%s ", "%s\n", "%sa", "%s/../x"])
def test_nothing_else_is_one(text: str) -> None:
    assert not is_uuid(text.replace("%s", new_id()))
    assert not is_uuid(new_id().replace("-", ""))
