"""Options that several commands have."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence

from containerd_hybrid.cli.main import Parser
from containerd_hybrid.errors import InvalidArgumentError


def parser(command: str, description: str) -> Parser:
    """For ``hyctl COMMAND``; ``-h`` is left to commands that give it a meaning of Docker's."""
    return Parser(
        prog=f"hyctl {command}",
        description=description,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def add_process_options(options: argparse.ArgumentParser) -> None:
    """How a process is run, in a new container or beside another one."""
    options.add_argument("-i", "--interactive", action="store_true", help="hand our input on")
    options.add_argument("-t", "--tty", action="store_true", help="give it a terminal")
    options.add_argument("-d", "--detach", action="store_true", help="do not wait for its end")
    options.add_argument(
        "-e",
        "--env",
        action="append",
        default=[],
        metavar="NAME[=VALUE]",
        help="a variable; without a value it has ours",
    )
    options.add_argument("-w", "--workdir", default="", metavar="FOLDER", help="where it begins")
    options.add_argument(
        "-u", "--user", default="", metavar="USER[:GROUP]", help="who it runs as, by name or number"
    )


def environment(given: Sequence[str]) -> dict[str, str]:
    """
    Raises:
        InvalidArgumentError: a variable without a name.
    """
    values: dict[str, str] = {}
    for entry in given:
        name, equals, value = entry.partition("=")
        if not name:
            raise InvalidArgumentError(f"invalid variable {entry!r}: expected NAME=VALUE or NAME")
        if equals:
            values[name] = value
        elif name in os.environ:
            values[name] = os.environ[name]
    return values


def pairs(given: Sequence[str], what: str) -> dict[str, str]:
    """``KEY=VALUE`` entries; a key alone has an empty value.

    Raises:
        InvalidArgumentError: an entry without a key.
    """
    values: dict[str, str] = {}
    for entry in given:
        key, _, value = entry.partition("=")
        if not key:
            raise InvalidArgumentError(f"invalid {what} {entry!r}: expected KEY=VALUE")
        values[key] = value
    return values
