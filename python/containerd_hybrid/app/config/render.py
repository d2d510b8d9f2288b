"""Writes TOML in the form that containerd's own commands write it in: tables indented, strings in '…'."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

_BARE = re.compile(r"[A-Za-z0-9_-]+")
_ESCAPES = {"\\": "\\\\", '"': '\\"', "\b": "\\b", "\t": "\\t", "\n": "\\n", "\f": "\\f", "\r": "\\r"}


def render(table: Mapping[str, Any]) -> str:
    """The TOML text of a table of tables, arrays, strings, numbers and booleans."""
    return "\n".join(_table(table, (), 0)) + "\n"


def _table(table: Mapping[str, Any], path: tuple[str, ...], depth: int) -> Iterator[str]:
    indent = "  " * depth
    for key, value in table.items():
        if not isinstance(value, Mapping):
            yield f"{indent}{_key(key)} = {_value(value)}"
    wrote = any(not isinstance(value, Mapping) for value in table.values())
    for key, value in table.items():
        if isinstance(value, Mapping):
            if wrote:
                yield ""
            inner = (*path, key)
            yield f"{indent}[{'.'.join(map(_key, inner))}]"
            yield from _table(value, inner, depth + 1)
            wrote = bool(value)


def render_value(value: Any) -> str:
    """A value as TOML has it on one line."""
    return _value(value)


def _key(key: str) -> str:
    return key if _BARE.fullmatch(key) else _string(key)


def _value(value: Any) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case str():
            return _string(value)
        case list() | tuple():
            return f"[{', '.join(map(_value, value))}]"
        case Mapping():
            return "{" + ", ".join(f"{_key(k)} = {_value(v)}" for k, v in value.items()) + "}"
        case _:
            # Numbers, and the dates and times of a foreign table, print as TOML has them.
            return value.isoformat() if hasattr(value, "isoformat") else repr(value)


def _string(text: str) -> str:
    if "'" not in text and text.isprintable():
        return f"'{text}'"
    return (
        '"' + "".join(_ESCAPES.get(c) or (c if c.isprintable() else f"\\U{ord(c):08x}") for c in text) + '"'
    )
