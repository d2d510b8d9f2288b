"""What a scheme asks of its driver. Schemes are generators: they yield steps, and do no I/O themselves."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class TokenRequest:
    """A request to a token server; ``form`` is posted when there is one."""

    url: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    form: Mapping[str, str] | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class TokenReply:
    """What the token server answered."""

    status: int
    body: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Grant:
    """The value of ``Authorization``, for so many seconds (None: until it is refused)."""

    header: str = field(repr=False)
    seconds: float | None = None
    refresh_token: str = field(default="", repr=False)


Flow: TypeAlias = Generator[TokenRequest, TokenReply, Grant]
