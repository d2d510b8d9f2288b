"""Command line flags as Go's flag package has them: ``-name value``, ``--name=value``, in any mix."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field


class UsageError(Exception):
    """The command line cannot be right."""


@dataclass(frozen=True, slots=True)
class Flag:
    """A flag and its other names. ``value`` names its argument in the help; without one it is a switch."""

    name: str
    help: str
    aliases: tuple[str, ...] = ()
    value: str = ""
    default: str = ""


@dataclass(slots=True)
class Parsed:
    """Flags that were given, by name, and what came after them."""

    values: dict[str, str] = field(default_factory=dict)
    rest: list[str] = field(default_factory=list)

    def get(self, flag: Flag) -> str:
        """The flag's value or default; of a switch ``true`` when it is on."""
        return self.values.get(flag.name, flag.default)

    def on(self, flag: Flag) -> bool:
        """Whether a switch is on."""
        return self.values.get(flag.name) == "true"


def parse(arguments: Sequence[str], flags: Sequence[Flag]) -> Parsed:
    """Take flags off the front, up to the first argument that is none, or ``--``.

    Raises:
        UsageError: an unknown flag, or one without its value.
    """
    names = {name: flag for flag in flags for name in (flag.name, *flag.aliases)}
    parsed = Parsed()
    left = list(arguments)
    while left:
        argument = left[0]
        if argument == "--":
            del left[0]
            break
        if len(argument) < 2 or not argument.startswith("-"):
            break
        del left[0]
        name, equals, value = argument.removeprefix("-").removeprefix("-").partition("=")
        flag = names.get(name)
        if flag is None:
            raise UsageError(f"flag provided but not defined: -{name}")
        if not flag.value:
            value = _switch(name, value if equals else "true")
        elif not equals:
            if not left:
                raise UsageError(f"flag needs an argument: -{name}")
            value = left.pop(0)
        parsed.values[flag.name] = value
    parsed.rest = left
    return parsed


def describe(flags: Sequence[Flag]) -> str:
    """The lines about flags in a help text."""
    left = []
    for flag in flags:
        names = [f"--{flag.name}", *(f"-{alias}" for alias in flag.aliases)]
        left.append(", ".join(f"{name} {flag.value}".rstrip() for name in names))
    width = max(map(len, left), default=0)
    return "\n".join(
        f"   {text:<{width}}  {flag.help}" + (f' (default: "{flag.default}")' if flag.default else "")
        for text, flag in zip(left, flags, strict=True)
    )


def _switch(name: str, value: str) -> str:
    if value in {"1", "t", "T", "true", "TRUE", "True"}:
        return "true"
    if value in {"0", "f", "F", "false", "FALSE", "False"}:
        return "false"
    raise UsageError(f'invalid boolean value "{value}" for -{name}')
