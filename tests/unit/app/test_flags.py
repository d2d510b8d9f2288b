"""The command line is read as Go's flag package reads it."""

from __future__ import annotations

import pytest

from containerd_hybrid.app.flags import Flag, UsageError, describe, parse

CONFIG = Flag("config", "Path to the configuration file", ("c",), value="FILE", default="/etc/x.toml")
VERSION = Flag("version", "Print the version", ("v",))
FLAGS = (CONFIG, VERSION)


@pytest.mark.parametrize(
    "arguments", [["--config", "f"], ["-config", "f"], ["-c", "f"], ["--config=f"], ["-c=f"], ["--c", "f"]]
)
def test_every_spelling(arguments: list[str]) -> None:
    parsed = parse([*arguments, "rest"], FLAGS)
    assert parsed.get(CONFIG) == "f"
    assert parsed.rest == ["rest"]


def test_defaults_switches_and_the_end() -> None:
    parsed = parse(["-v", "--", "-c"], FLAGS)
    assert parsed.on(VERSION)
    assert parsed.get(CONFIG) == "/etc/x.toml"
    assert "config" not in parsed.values
    assert parsed.rest == ["-c"]
    assert not parse(["--version=false"], FLAGS).on(VERSION)


def test_flags_after_the_first_argument_belong_to_it() -> None:
    assert parse(["publish", "--config", "f"], FLAGS).rest == ["publish", "--config", "f"]
    assert parse(["-"], FLAGS).rest == ["-"]
    assert parse(["-c", "--version"], FLAGS).get(CONFIG) == "--version"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--nope"], "flag provided but not defined: -nope"),
        (["-c"], "flag needs an argument: -c"),
        (["-v=maybe"], 'invalid boolean value "maybe" for -v'),
    ],
)
def test_mistakes(arguments: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse(arguments, FLAGS)


def test_help_lines() -> None:
    assert describe(FLAGS) == (
        '   --config FILE, -c FILE  Path to the configuration file (default: "/etc/x.toml")\n'
        "   --version, -v           Print the version"
    )
