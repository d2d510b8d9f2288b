"""``WWW-Authenticate``: what a host wants to see (RFC 9110, section 11.6.1)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

_WORD = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_PARAMETER = re.compile(rf'\s*({_WORD})\s*=\s*(?:"((?:[^"\\]|\\.)*)"|({_WORD}[=/]*|[^\s",]*))\s*(?:,|$)')
_SCHEME = re.compile(rf"[\s,]*({_WORD})(?:[ \t]+|$)(?!=)")


@dataclass(frozen=True, slots=True)
class Challenge:
    """A scheme and its parameters, both names in lower case."""

    scheme: str
    parameters: Mapping[str, str]


def parse_challenges(values: Iterable[str]) -> list[Challenge]:
    """The challenges of all headers of an answer, in order; what cannot be read is left out."""
    return [challenge for value in values for challenge in _parse(value)]


def _parse(value: str) -> list[Challenge]:
    found = []
    position = 0
    while scheme := _SCHEME.match(value, position):
        position = scheme.end()
        parameters: dict[str, str] = {}
        while parameter := _PARAMETER.match(value, position):
            position = parameter.end()
            text = parameter[3] if parameter[2] is None else re.sub(r"\\(.)", r"\1", parameter[2])
            parameters.setdefault(parameter[1].lower(), text)
        found.append(Challenge(scheme[1].lower(), parameters))
    return found
