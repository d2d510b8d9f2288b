"""From TOML tables to frozen dataclasses and back.

A configuration class's fields are the keys of its table. Fields may be ``str``, ``bool``, ``int``,
``float``, :class:`Duration`, ``tuple[str, ...]``, another configuration class, a mapping from names to
any of these, or ``Any``. A key that no field has is a warning; a value of a wrong type is an error that
names file, key and what was expected.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from containerd_hybrid.app.config.durations import Duration
from containerd_hybrid.errors import InvalidArgumentError, InvalidConfigError

T = TypeVar("T")

_NAMES = {
    bool: "a boolean",
    int: "an integer",
    float: "a number",
    str: "a string",
    list: "an array",
    dict: "a table",
}


@dataclasses.dataclass(frozen=True, slots=True)
class UnknownKey:
    """A key that nothing reads. ``place`` is the file, and the table's name for a plug-in's."""

    place: str
    key: str


class Binder:
    """Makes configuration values; collects ``unknown`` keys of all of them."""

    def __init__(self) -> None:
        self.unknown: list[UnknownKey] = []

    def bind(self, kind: type[T], table: Mapping[str, Any], place: str, key: str = "") -> T:
        """A ``kind`` with the values of ``table``, and its defaults for what the table does not have.

        ``key`` is where the table lies in its file, for messages.

        Raises:
            InvalidConfigError: a value has the wrong type.
        """
        fields = _fields(kind)
        values = {}
        for name, value in table.items():
            path = f"{key}.{quoted_key(name)}" if key else quoted_key(name)
            if name in fields:
                values[name] = self._value(fields[name], value, place, path)
            else:
                self.unknown.append(UnknownKey(place, path))
        return kind(**values)

    def _value(self, kind: Any, value: Any, place: str, key: str) -> Any:
        if kind is Any:
            return value
        if dataclasses.is_dataclass(kind) and isinstance(kind, type):
            return self.bind(kind, _expect(dict, value, place, key), place, key)
        origin = typing.get_origin(kind)
        if origin is tuple:
            (item,) = {argument for argument in typing.get_args(kind) if argument is not Ellipsis}
            items = enumerate(_expect(list, value, place, key))
            return tuple(self._value(item, element, place, f"{key}[{index}]") for index, element in items)
        if origin in {Mapping, dict}:
            item = typing.get_args(kind)[1]
            table = _expect(dict, value, place, key)
            return {
                name: self._value(item, element, place, f"{key}.{quoted_key(name)}")
                for name, element in table.items()
            }
        return _scalar(kind, value, place, key)


def unbind(value: Any) -> Any:
    """What TOML has for a configuration value: tables, arrays, strings, numbers and booleans."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: unbind(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {name: unbind(element) for name, element in value.items()}
    if isinstance(value, list | tuple):
        return [unbind(element) for element in value]
    return str(value) if isinstance(value, Duration) else value


def _scalar(kind: Any, value: Any, place: str, key: str) -> Any:
    if kind is Duration:
        text = _expect(str, value, place, key, 'a duration such as "1m30s"')
        try:
            return Duration.parse(text)
        except InvalidArgumentError as error:
            raise InvalidConfigError(f"{place}: {key}: {error.message}") from None
    if kind is float and type(value) is int:
        return float(value)
    return _expect(kind, value, place, key)


def _expect(kind: Any, value: Any, place: str, key: str, expected: str | None = None) -> Any:
    # By exact type: to isinstance, a boolean is an integer.
    if type(value) is kind:
        return value
    found = _NAMES.get(type(value), f"a {type(value).__name__}")
    shown = f" {value!r}" if isinstance(value, str | int | float) else ""
    raise InvalidConfigError(
        f"{place}: {key}: expected {expected or _NAMES.get(kind, kind)}, found {found}{shown}"
    )


_known_fields: dict[Any, dict[str, Any]] = {}


def _fields(kind: Any) -> dict[str, Any]:
    """Names and types of a configuration class; resolving its annotations is slow, so once only."""
    if kind not in _known_fields:
        hints = typing.get_type_hints(kind)
        _known_fields[kind] = {
            field.name: _without_none(hints[field.name]) for field in dataclasses.fields(kind)
        }
    return _known_fields[kind]


def _without_none(hint: Any) -> Any:
    """TOML has no null: an optional field is left out or has its type."""
    if typing.get_origin(hint) in {typing.Union, types.UnionType}:
        kinds = [argument for argument in typing.get_args(hint) if argument is not types.NoneType]
        if len(kinds) == 1:
            return kinds[0]
    return hint


def quoted_key(name: str) -> str:
    """A key as TOML has it: bare where it can be."""
    bare = name.replace("_", "").replace("-", "")
    return name if bare.isascii() and bare.isalnum() else f'"{name}"'
