"""One figure of a cgroup: its name, and where it is in a Metrics message."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, TypeAlias

from google.protobuf.message import Message

Reading: TypeAlias = tuple[Mapping[str, str], int]


@dataclass(frozen=True, slots=True)
class Figure:
    """``read`` gives the values in a message, each with its own labels; none when the controller is off."""

    name: str
    help: str
    read: Callable[[Message], Iterable[Reading]]


def scalar(name: str, help: str, path: str) -> Figure:
    """The figure at ``path``, a dotted name of fields, there when all messages on the way are."""
    *parents, field = path.split(".")

    def read(message: Message) -> Iterable[Reading]:
        for parent in parents:
            if not message.HasField(parent):
                return ()
            message = getattr(message, parent)
        return (({}, getattr(message, field)),)

    return Figure(name, help, read)


def repeated(name: str, help: str, path: str, entry: Callable[[int, Any], Reading]) -> Figure:
    """A figure for each entry of the list at ``path``; ``entry`` is given its index and itself."""
    entries = attrgetter(path)
    return Figure(name, help, lambda message: [entry(i, one) for i, one in enumerate(entries(message))])
