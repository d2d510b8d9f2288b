"""The log's two forms, as logrus writes them."""

from __future__ import annotations

import json
import logging
import re
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

from containerd_hybrid.app import logs
from containerd_hybrid.errors import InvalidArgumentError


def record(
    message: str, *args: Any, level: int = logging.INFO, error: BaseException | None = None, **fields: Any
) -> logging.LogRecord:
    info = (type(error), error, error.__traceback__) if error else None
    made = logging.LogRecord("x", level, "f.py", 1, message, args, info)
    made.created = 1700000000.25
    vars(made).update(fields)
    return made


@pytest.fixture(autouse=True)
def _utc() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("TZ", "UTC")
        time.tzset()
        yield
    time.tzset()


def test_a_line_of_text() -> None:
    line = logs.TextFormatter().format(
        record("loading plugin", id="io.containerd.content.v1.content", type="t")
    )
    assert line == (
        'time="2023-11-14T22:13:20.250000000Z" level=info msg="loading plugin" '
        "id=io.containerd.content.v1.content type=t"
    )


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("plain/path-1.2_3@^+", "plain/path-1.2_3@^+"),
        ("", ""),
        ("two words", '"two words"'),
        ('a "quoted" \\ line\nbreak\t', r'"a \"quoted\" \\ line\nbreak\t"'),
        ("ünicode", '"ünicode"'),
        ("\x1b[31m", r'"\x1b[31m"'),
        (True, "true"),
        (7, "7"),
        (1.5, "1.5"),
    ],
)
def test_values_are_quoted_when_they_must_be(value: Any, text: str) -> None:
    assert logs.TextFormatter().format(record("m", key=value)).endswith(f"msg=m key={text}")


@pytest.mark.parametrize(
    ("number", "name"),
    [(5, "trace"), (10, "debug"), (20, "info"), (30, "warning"), (40, "error"), (50, "fatal")],
)
def test_level_names(number: int, name: str) -> None:
    assert f"level={name} " in logs.TextFormatter().format(record("m", level=number))


def test_json_keeps_types_and_moves_clashing_fields() -> None:
    line = logs.JsonFormatter().format(record("it's %d", 3, count=7, time="noon"))
    assert json.loads(line) == {
        "level": "info",
        "msg": "it's 3",
        "time": "2023-11-14T22:13:20.250000000Z",
        "count": 7,
        "fields.time": "noon",
    }


def test_an_exception_is_a_field_of_one_line() -> None:
    try:
        raise ValueError("broken")
    except ValueError as error:
        line = logs.TextFormatter().format(record("call failed", error=error))
    assert " error=broken " in line
    assert "stack=" in line
    assert "test_an_exception" in line
    assert "\n" not in line


def test_colors_on_a_terminal() -> None:
    line = logs.ColoredFormatter().format(record("hello", key="v"))
    assert line.startswith("\x1b[36mINFO\x1b[0m[2023-11-14T22:13:20.250000000Z] hello")
    assert line.endswith("\x1b[36mkey\x1b[0m=v")


@pytest.mark.parametrize(
    ("name", "number"), [("trace", 5), ("WARN", 30), ("warning", 30), ("panic", 50), ("fatal", 50)]
)
def test_levels_by_name(name: str, number: int) -> None:
    assert logs.parse_level(name) == number


def test_what_is_no_level_or_format() -> None:
    with pytest.raises(InvalidArgumentError, match='not a valid log level: "loud"'):
        logs.configure("loud")
    with pytest.raises(InvalidArgumentError, match="unknown log format: xml"):
        logs.configure("", "xml")


def test_configuring_twice_logs_once(capsys: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        logs.configure("warn", "json")
        logs.configure("info", "text")
        logging.getLogger("some.module").info("hello", extra={"field": 1})
        print(file=sys.stderr)
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
    assert re.fullmatch(r'time="[^"]+" level=info msg=hello field=1\n\n', capsys.readouterr().err)
