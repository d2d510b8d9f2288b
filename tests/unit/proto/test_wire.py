"""The generated modules are equal on the wire to the APIs that clients were built for."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor, FileDescriptor

import containerd_hybrid.proto

Fact = tuple[str, ...]

TABLES = sorted((Path(__file__).parent / "facts").glob("*.tsv"))
FACTS = 2111
_NO_TABLE = ("grpc.", "containerd_hybrid.")

_TYPES = {
    value: name.removeprefix("TYPE_").lower()
    for name, value in vars(FieldDescriptor).items()
    if name.startswith("TYPE_")
}
_STREAMS = {
    (False, False): "unary",
    (True, False): "client-stream",
    (False, True): "server-stream",
    (True, True): "bidi-stream",
}


def file_descriptors() -> Iterator[FileDescriptor]:
    """Those of every generated module."""
    package = Path(containerd_hybrid.proto.__file__).parent
    for path in sorted(package.rglob("*_pb2.py")):
        name = ".".join(path.relative_to(package).with_suffix("").parts)
        yield importlib.import_module(f"containerd_hybrid.proto.{name}").DESCRIPTOR


def facts_of_file(file: FileDescriptor) -> Iterator[Fact]:
    for service in file.services_by_name.values():
        for method in service.methods:
            stream = _STREAMS[method.client_streaming, method.server_streaming]
            messages = (method.input_type.full_name, method.output_type.full_name)
            yield ("method", service.full_name, method.name, *messages, stream)
    for message in file.message_types_by_name.values():
        yield from facts_of_message(message)
    for enum in file.enum_types_by_name.values():
        yield from facts_of_enum(enum)


def facts_of_message(message: Descriptor) -> Iterator[Fact]:
    for field in message.fields:
        yield ("field", message.full_name, str(field.number), field.name, *type_and_label(field))
    if not message.fields:
        yield ("field", message.full_name, "0", "-", "-", "empty")
    for enum in message.enum_types:
        yield from facts_of_enum(enum)
    for nested in message.nested_types:
        if not nested.GetOptions().map_entry:
            yield from facts_of_message(nested)


def facts_of_enum(enum: EnumDescriptor) -> Iterator[Fact]:
    for value in enum.values:
        yield ("value", enum.full_name, str(value.number), value.name)


def type_and_label(field: FieldDescriptor) -> tuple[str, str]:
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        key, value = field.message_type.fields
        return f"{type_name(key)}->{type_name(value)}", "map"
    if field.is_repeated:
        return type_name(field), "many"
    group = field.containing_oneof
    if group is None:
        return type_name(field), "one"
    # proto3 `optional` is a oneof of one field, whose name protoc derives from the field's.
    optional = len(group.fields) == 1 and group.name == f"_{field.name}"
    return type_name(field), "optional" if optional else f"oneof:{group.name}"


def type_name(field: FieldDescriptor) -> str:
    named = field.message_type or field.enum_type
    return named.full_name if named is not None else _TYPES[field.type]


def read(table: Path) -> list[Fact]:
    return [tuple(line.split("\t")) for line in table.read_text().splitlines()]


@pytest.fixture(scope="module")
def ours() -> set[Fact]:
    return {fact for file in file_descriptors() for fact in facts_of_file(file)}


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.stem)
def test_every_fact_of_the_table_holds(table: Path, ours: set[Fact]) -> None:
    missing = [fact for fact in read(table) if fact not in ours]
    assert not missing, "missing or different:\n" + "\n".join("\t".join(fact) for fact in missing)


def test_the_tables_are_whole() -> None:
    facts = [fact for table in TABLES for fact in read(table)]
    assert len(facts) == len(set(facts)) == FACTS


def test_nothing_in_the_modules_is_unknown_to_the_tables(ours: set[Fact]) -> None:
    """A new message or field comes with its fact, so that it stays as it was once released.

    Those that are ours alone (``containerd_hybrid.*``) have no facts of others to be equal to.
    """
    known = {fact for table in TABLES for fact in read(table)}
    unknown = [fact for fact in sorted(ours - known) if not fact[1].startswith(_NO_TABLE)]
    assert not unknown, "not in a table:\n" + "\n".join("\t".join(fact) for fact in unknown)
