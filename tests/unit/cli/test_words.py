"""Sizes, ages, tables, names and codes in the words of Docker."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from containerd_hybrid.cli.arguments import environment, pairs
from containerd_hybrid.cli.ended import noted_end
from containerd_hybrid.cli.failures import report, start_code
from containerd_hybrid.cli.find import familiar
from containerd_hybrid.cli.run import _volume
from containerd_hybrid.cli.show import age, moment, parse_size, shortened, size, spelled, table, timestamp
from containerd_hybrid.client.process import Exited
from containerd_hybrid.errors import InvalidArgumentError, NotFoundError, UnknownError


@pytest.mark.parametrize(
    ("count", "shown"),
    [
        (0, "0B"),
        (999, "999B"),
        (1000, "1kB"),
        (1_234, "1.23kB"),
        (4_567_890, "4.57MB"),
        (123_000_000, "123MB"),
        (5_000_000_000, "5GB"),
        (7_000_000_000_000_000, "7PB"),
    ],
)
def test_sizes_are_shown(count: int, shown: str) -> None:
    assert size(count) == shown


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("1000", 1000),
        ("64m", 64 << 20),
        ("64M", 64 << 20),
        ("1.5g", 3 << 29),
        ("2GiB", 2 << 30),
        ("10kb", 10 << 10),
        ("5b", 5),
        (" 1t ", 1 << 40),
    ],
)
def test_sizes_are_read(text: str, count: int) -> None:
    assert parse_size(text) == count


@pytest.mark.parametrize("text", ["", "m", "-5m", "5x", "5 5", "1e3"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(InvalidArgumentError, match=r"invalid size .* as in 64m"):
        parse_size(text)


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (-5, "Less than a second"),
        (0.5, "Less than a second"),
        (1, "1 second"),
        (59, "59 seconds"),
        (60, "About a minute"),
        (119, "About a minute"),
        (120, "2 minutes"),
        (3599, "59 minutes"),
        (3600, "About an hour"),
        (7200, "2 hours"),
        (100_000, "27 hours"),
        (172_800, "2 days"),
        (1_209_600, "2 weeks"),
        (6_000_000, "2 months"),
        (70_000_000, "2 years"),
    ],
)
def test_ages(seconds: float, shown: str) -> None:
    assert age(1_000_000_000_000, now=1000 + seconds) == shown


def test_moments() -> None:
    assert timestamp(1_700_000_000_000_000_001) == "2023-11-14T22:13:20.000000001Z"
    assert timestamp(0) == ""


def test_tables() -> None:
    shown = table(("A", "LONGER"), [("wide cell", "x"), ("y", "")])
    assert shown.splitlines() == ["A           LONGER", "wide cell   x", "y"]
    assert table(("A",), []) == "A"
    assert shortened("abcdef", 6) == "abcdef"
    assert shortened("abcdefg", 6) == "abcde…"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("docker.io/library/busybox:latest", ("busybox", "latest")),
        ("docker.io/me/app:1", ("me/app", "1")),
        ("quay.io:5000/me/app:1", ("quay.io:5000/me/app", "1")),
        ("quay.io:5000/me/app", ("quay.io:5000/me/app", "<none>")),
        ("a.b/c@sha256:123", ("a.b/c", "sha256:123")),
        ("a.b/c:1@sha256:123", ("a.b/c", "1")),
        ("import-2024", ("import-2024", "<none>")),
    ],
)
def test_names_as_people_write_them(name: str, expected: tuple[str, str]) -> None:
    assert familiar(name) == expected


def test_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OURS", "value")
    monkeypatch.delenv("NOBODYS", raising=False)
    assert environment(["A=1", "B=", "OURS", "NOBODYS", "C=x=y"]) == {
        "A": "1",
        "B": "",
        "OURS": "value",
        "C": "x=y",
    }
    with pytest.raises(InvalidArgumentError, match="invalid variable '=x'"):
        environment(["=x"])
    assert pairs(["a=b", "c"], "label") == {"a": "b", "c": ""}
    with pytest.raises(InvalidArgumentError, match="invalid label '=b': expected KEY=VALUE"):
        pairs(["=b"], "label")


def test_volumes_are_relative_with_a_dot_and_made_when_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    mount = _volume("./new/folder:/x:ro")
    assert mount.source == str(tmp_path / "new" / "folder")
    assert (tmp_path / "new" / "folder").is_dir()
    assert mount.options == ("rbind", "ro")
    (tmp_path / "file").write_text("x")
    assert _volume("./file:/x").source == str(tmp_path / "file")
    with pytest.raises(InvalidArgumentError, match="volumes with names are not offered"):
        _volume("data:/x")


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ('unable to start container process: exec: "x": executable file not found in $PATH', 127),
        ('unable to start container process: exec: "/x": stat /x: no such file or directory: unknown', 127),
        ("crun: executable file `x` not found in $PATH: No such file or directory", 127),
        (
            'exec failed: unable to start container process: exec: "x": executable file not found: unknown',
            127,
        ),
        ('unable to start container process: exec: "/tmp": permission denied: unknown', 126),
        ('exec: "/tmp": is a directory: unknown', 126),
        ("exec /x: exec format error", 126),
        ('error mounting "/no" to rootfs at "/x": stat /no: no such file or directory', 125),
        ("no space left on device", 125),
    ],
)
def test_codes_of_a_command_that_cannot_be_started(message: str, code: int) -> None:
    assert start_code(UnknownError(message), 125) == code


def failing(error: BaseException) -> Callable[[], int]:
    def work() -> int:
        raise error

    return work


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (NotFoundError("no such thing"), 7, "hyctl: no such thing\n"),
        (KeyboardInterrupt(), 130, ""),
        (
            FileNotFoundError(2, "No such file or directory", "/x"),
            7,
            "hyctl: /x: No such file or directory\n",
        ),
        (OSError("odd"), 7, "hyctl: odd\n"),
        (ValueError("a bug"), 7, "hyctl: unexpected ValueError: a bug (HYCTL_DEBUG=1 shows where)\n"),
    ],
)
def test_failures(error: BaseException, code: int, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert report(failing(error), 7) == code
    assert capsys.readouterr().err == said
    assert report(lambda: 3, 7) == 3


def test_a_reader_that_leaves_is_no_error(tmp_path: Path) -> None:
    before = os.dup(sys.__stdout__.fileno()) if sys.__stdout__ else -1
    try:
        assert report(failing(BrokenPipeError()), 1) == 128 + signal.SIGPIPE
    finally:
        if before >= 0:
            assert sys.__stdout__ is not None
            os.dup2(before, sys.__stdout__.fileno())
            os.close(before)


def test_an_end_that_was_noted() -> None:
    labels = {"io.containerd.hybrid.exit-status": "7", "io.containerd.hybrid.exited-at": "123"}
    assert noted_end(labels) == Exited(7, 123)
    assert noted_end({}) is None
    assert noted_end({**labels, "io.containerd.hybrid.exit-status": "odd"}) is None


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("10m", 1000.0 - 600),
        ("1h30m", 1000.0 - 5400),
        ("1.5d", 1000.0 - 129_600),
        ("1700000000", 1_700_000_000.0),
        ("1700000000.5", 1_700_000_000.5),
        ("1970-01-01T00:01:00Z", 60.0),
        ("1970-01-01T01:00:00+01:00", 0.0),
    ],
)
def test_moments_are_read(text: str, seconds: float) -> None:
    assert moment(text, now=1000.0) == seconds


@pytest.mark.parametrize("text", ["", "yesterday", "10 m", "m", "-5m", "2030-13-01"])
def test_what_is_no_moment_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgumentError, match="invalid time"):
        moment(text)


def test_names_in_json_are_spelled_like_the_others() -> None:
    assert spelled({"credential_host": [{"url": "u"}], "tls": ("a",)}) == {
        "CredentialHost": [{"Url": "u"}],
        "Tls": ["a"],
    }
