"""The log, in the two forms that containerd's has: logrus text and JSON, on standard error.

Anything given to a log call as ``extra`` becomes a field. The levels are logrus's; ``fatal`` and
``panic`` only silence everything below error.
"""

from __future__ import annotations

import json
import logging
import sys
import time
import traceback
from typing import Any

from containerd_hybrid.errors import InvalidArgumentError

TRACE = 5
_LEVELS = {
    "trace": TRACE,
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warn": logging.WARNING,
    "warning": logging.WARNING,
    "error": logging.ERROR,
    "fatal": logging.CRITICAL,
    "panic": logging.CRITICAL,
}
_FORMATS = ("text", "json")
_NAMES = ((logging.CRITICAL, "fatal"), (logging.ERROR, "error"), (logging.WARNING, "warning"))
_COLORS = {"trace": 37, "debug": 37, "info": 36, "warning": 33, "error": 31, "fatal": 31}
_ESCAPES = {"\a": "\\a", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t", "\v": "\\v"}
_PLAIN = frozenset("-._/@^+")
_OWN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def configure(level: str = "", format: str = "", *, trace_ids: bool = False) -> None:
    """Send the log to standard error; an empty level is ``info``, an empty format ``text``.

    With ``trace_ids`` what is said in a traced call has the field ``trace_id``.

    Raises:
        InvalidArgumentError: there is no such level or format.
    """
    number = parse_level(level or "info")
    formatter = _formatter(format or "text")
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    if trace_ids:
        handler.addFilter(_with_trace_id)
    root.addHandler(handler)
    root.setLevel(number)
    logging.addLevelName(TRACE, "trace")
    # What they say below this level is about their own workings.
    for library in ("asyncio", "grpc"):
        logging.getLogger(library).setLevel(logging.WARNING)


def _with_trace_id(record: logging.LogRecord) -> bool:
    from containerd_hybrid.tracing.api import current

    span = current()
    if span is not None:
        record.trace_id = span.trace_id.hex()
    return True


def level() -> str:
    """The name of the level in force."""
    number = logging.getLogger().level
    return next((name for name, known in _LEVELS.items() if known == number), str(number))


def set_level(name: str) -> None:
    """Change the level, until the configuration is read again.

    Raises:
        InvalidArgumentError: there is no such level.
    """
    logging.getLogger().setLevel(parse_level(name))


def parse_level(name: str) -> int:
    """The number of a level's name.

    Raises:
        InvalidArgumentError: there is no such level.
    """
    number = _LEVELS.get(name.lower())
    if number is None:
        raise InvalidArgumentError(f'not a valid log level: "{name}" (use {", ".join(_LEVELS)})')
    return number


def _formatter(format: str) -> logging.Formatter:
    if format not in _FORMATS:
        raise InvalidArgumentError(f"unknown log format: {format} (use {' or '.join(_FORMATS)})")
    if format == "json":
        return JsonFormatter()
    return ColoredFormatter() if sys.stderr.isatty() else TextFormatter()


class TextFormatter(logging.Formatter):
    """``time="…" level=info msg="…" key=value``, the keys in alphabetical order."""

    def format(self, record: logging.LogRecord) -> str:
        fields = {
            "time": _time(record),
            "level": _level(record),
            "msg": record.getMessage(),
            **dict(sorted(_fields(record).items())),
        }
        return " ".join(f"{key}={_text(value)}" for key, value in fields.items())


class ColoredFormatter(logging.Formatter):
    """The same for eyes: ``INFO[…] message  key=value``."""

    def format(self, record: logging.LogRecord) -> str:
        level = _level(record)
        color = f"\x1b[{_COLORS[level]}m"
        fields = "".join(
            f" {color}{key}\x1b[0m={_text(value)}" for key, value in sorted(_fields(record).items())
        )
        return f"{color}{level.upper()[:4]}\x1b[0m[{_time(record)}] {record.getMessage():<44} {fields}"


class JsonFormatter(logging.Formatter):
    """One JSON object a line; a field that is named like one of ours gets ``fields.`` before its name."""

    def format(self, record: logging.LogRecord) -> str:
        own = {"level": _level(record), "msg": record.getMessage(), "time": _time(record)}
        fields = {f"fields.{key}" if key in own else key: value for key, value in _fields(record).items()}
        return json.dumps({**fields, **own}, sort_keys=True, default=str, ensure_ascii=False)


def _time(record: logging.LogRecord) -> str:
    """RFC 3339 with nine digits and the local zone, which on most machines is Z."""
    local = time.localtime(record.created)
    zone = time.strftime("%z", local)
    zone = "Z" if zone == "+0000" else f"{zone[:3]}:{zone[3:]}"
    # A record's time is a float: what is beyond its microseconds is noise.
    microseconds = int(record.created % 1 * 1e6)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', local)}.{microseconds:06d}000{zone}"


def _level(record: logging.LogRecord) -> str:
    for number, name in _NAMES:
        if record.levelno >= number:
            return name
    if record.levelno >= logging.INFO:
        return "info"
    return "debug" if record.levelno >= logging.DEBUG else "trace"


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    fields = {key: value for key, value in vars(record).items() if key not in _OWN}
    if record.exc_info and record.exc_info[1] is not None:
        fields.setdefault("error", str(record.exc_info[1]) or type(record.exc_info[1]).__name__)
        fields["stack"] = "".join(traceback.format_exception(*record.exc_info))
    return fields


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    text = str(value)
    if all((c.isascii() and c.isalnum()) or c in _PLAIN for c in text):
        return text
    return '"' + "".join(_escaped(c) for c in text) + '"'


def _escaped(character: str) -> str:
    if character in '"\\':
        return "\\" + character
    if character.isprintable():
        return character
    code = ord(character)
    if character in _ESCAPES:
        return _ESCAPES[character]
    return f"\\x{code:02x}" if code < 0x80 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
