"""Structs in the OpenAPI document: schemas with descriptions and examples, queries as parameters."""

from __future__ import annotations

from collections.abc import Mapping
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import msgspec
from drf_spectacular.extensions import OpenApiSerializerExtension
from drf_spectacular.openapi import AutoSchema

from clasper.core.schemas import (
    Codec,
    Resource,
    bare,
    codec_of,
    is_mapping,
    is_struct,
    item_of,
    members_of,
    metadata_of,
    shown_fields,
)

REF = "#/components/schemas/{name}"


class StructExtension(OpenApiSerializerExtension):  # type: ignore[no-untyped-call]  # the base's hook is untyped
    """Lets a Struct stand wherever drf-spectacular takes a serializer."""

    target_class = "msgspec.Struct"
    match_subclasses = True

    def get_name(self, auto_schema: Any, direction: str) -> str:
        return str(self.target.__name__)

    def map_serializer(self, auto_schema: Any, direction: str) -> dict[str, Any]:
        for each in nested_structs(self.target):
            auto_schema.resolve_serializer(each, direction)
        return schema_of(self.target)


class StructSchema(AutoSchema):
    """How an operation is read off its view: the docstring's first sentence is the summary."""

    def get_summary(self) -> str | None:
        summary = super().get_summary()
        return summary or self.get_description().partition("\n")[0].partition(". ")[0].partition("; ")[0].rstrip(".")

    def _get_response_for_code(self, serializer: Any, status_code: Any, *args: Any, **kwargs: Any) -> Any:
        """A union of Structs is shown as one of them."""
        if isinstance(serializer, UnionType):
            refs = [self.resolve_serializer(each, "response").ref for each in get_args(serializer)]
            serializer = {"oneOf": refs}
        parent: Any = super()
        return parent._get_response_for_code(serializer, status_code, *args, **kwargs)


def ref(kind: type[msgspec.Struct]) -> dict[str, str]:
    """The reference to a Struct's component."""
    return {"$ref": f"#/components/schemas/{kind.__name__}"}


def schema_of(kind: type[msgspec.Struct]) -> dict[str, Any]:
    """The JSON Schema of a Struct; nested Structs are references to components of their names."""
    schema: dict[str, Any] = {
        "type": "object",
        "description": (kind.__doc__ or "").partition("\n\n")[0],
        "properties": {field.encode_name: _property(field) for field in shown_fields(kind)},
    }
    if required := _required(kind):
        schema["required"] = required
    if kind.__struct_config__.forbid_unknown_fields:
        schema["additionalProperties"] = False
    return {**schema, "examples": [example_of(kind)]}


def nested_structs(kind: Any) -> list[type[msgspec.Struct]]:
    """The Structs that the fields of a Struct refer to."""
    found = [each for field in shown_fields(kind) for each in _structs(field.type)]
    return list(dict.fromkeys(found))


def example_of(kind: type[msgspec.Struct]) -> dict[str, Any]:
    """A Struct as it may look: what is required, and what has an example of its own."""
    example, required = {}, _required(kind)
    for field in shown_fields(kind):
        own = _examples(metadata_of(field.type))
        if own:
            example[field.encode_name] = own[0]
        elif field.encode_name in required:
            example[field.encode_name] = _example(field.type)
    return example


def _required(kind: type[msgspec.Struct]) -> list[str]:
    shown = issubclass(kind, Resource)
    fields = shown_fields(kind)
    return [each.encode_name for each in fields if each.required or (shown and each.default is not msgspec.UNSET)]


def _property(field: msgspec.structs.FieldInfo) -> dict[str, Any]:
    (schema,), _ = msgspec.json.schema_components([_written(field.type)], ref_template=REF)
    if codec_of(field.type) is None and isinstance(field.default, bool | int | float | str):
        schema["default"] = field.default
    return schema


def _written(kind: Any) -> Any:
    """The type as it is written in JSON: that of its codec, wherever there is one."""
    marks = metadata_of(kind)
    if marks:
        codec = next((each for each in marks if isinstance(each, Codec)), None)
        inner = _written(bare(kind)) if codec is None else codec.json
        notes = tuple(each for each in marks if isinstance(each, msgspec.Meta))
        return Annotated[(inner, *notes)] if notes else inner
    members = list(members_of(kind))
    if len(members) > 1:
        return Union[tuple(_written(each) for each in members if each is not msgspec.UnsetType)]  # noqa: UP007 - made here
    if (item := item_of(kind)) is not None:
        written = _written(item)
        return Mapping[str, written] if is_mapping(kind) else list[written]  # type: ignore[valid-type]
    return kind


def _structs(kind: Any) -> list[type[msgspec.Struct]]:
    kinds = [bare(each) for each in members_of(kind)]
    inside = [each for one in kinds if (item := item_of(one)) is not None for each in _structs(item)]
    return [each for each in kinds if is_struct(each)] + inside


def _examples(marks: tuple[Any, ...]) -> list[Any]:
    return next((each.examples for each in reversed(marks) if isinstance(each, msgspec.Meta) and each.examples), [])


def _example(kind: Any) -> Any:
    """An example of the first member of a type."""
    own = _examples(metadata_of(kind))
    if own:
        return own[0]
    marks = metadata_of(kind)
    codec = next((each for each in marks if isinstance(each, Codec)), None)
    if codec is not None:
        return _example(codec.json)
    member = next(iter(members_of(kind)))
    if member is not kind:
        return _example(member)
    kind = bare(kind)
    if is_struct(kind):
        return example_of(kind)
    if get_origin(kind) is Literal:
        return get_args(kind)[0]
    if (item := item_of(kind)) is not None:
        return {} if is_mapping(kind) else [_example(item)]
    return {bool: True, int: 1, float: 0.5, str: "text"}.get(kind)
