"""Spans: what took how long inside of what (OpenTelemetry's trace model, W3C Trace Context).

:func:`span` marks a piece of work anywhere below a traced call, and costs a look-up where there is none: the
span around the call (``rpc/interceptors/tracing.py``) is in a context variable, which tasks and threads
inherit, and knows where its children are to be recorded.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import os
import re
import time
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from types import TracebackType
from typing import Protocol, TypeAlias

from containerd_hybrid.errors import HybridError

Attribute: TypeAlias = str | bool | int | float

TRACEPARENT = "traceparent"
TRACESTATE = "tracestate"
_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_SAMPLED = 1


class Kind(enum.IntEnum):
    """Which side of a call a span is; the numbers are OTLP's."""

    INTERNAL = 1
    SERVER = 2
    CLIENT = 3


@dataclass(frozen=True, slots=True)
class TraceContext:
    """A span of somebody else's. Ids are 16 and 8 bytes; ``state`` is theirs, handed on as it is."""

    trace_id: bytes
    span_id: bytes
    sampled: bool
    state: str = ""

    @classmethod
    def parse(cls, metadata: Mapping[str, str]) -> TraceContext | None:
        """From the headers of a call, None when they name no span (or not as W3C has it)."""
        match = _TRACEPARENT.fullmatch(metadata.get(TRACEPARENT, "").strip())
        if match is None or match[1] == "ff" or (match[1] == "00" and match[5]):
            return None
        trace_id, span_id = bytes.fromhex(match[2]), bytes.fromhex(match[3])
        if not any(trace_id) or not any(span_id):
            return None
        return cls(trace_id, span_id, bool(int(match[4], 16) & _SAMPLED), metadata.get(TRACESTATE, ""))


class SpanSink(Protocol):
    """Where ended spans go; taking one never waits."""

    def record(self, span: Span) -> None: ...


@dataclass(slots=True)
class Span:
    """One that runs or has ended. Times are Unix nanoseconds; ``error`` is empty for success."""

    sink: SpanSink
    name: str
    kind: Kind
    trace_id: bytes
    parent_id: bytes = b""
    state: str = ""
    attributes: dict[str, Attribute] = field(default_factory=dict)
    span_id: bytes = field(default_factory=lambda: os.urandom(8))
    started: int = field(default_factory=time.time_ns)
    ended: int = 0
    error: str | None = None

    @property
    def headers(self) -> dict[str, str]:
        """What tells a callee that its spans belong below this one."""
        headers = {TRACEPARENT: f"00-{self.trace_id.hex()}-{self.span_id.hex()}-01"}
        return headers | {TRACESTATE: self.state} if self.state else headers

    def child(self, name: str, kind: Kind, attributes: Mapping[str, Attribute]) -> Span:
        """A span below this one, which begins now."""
        return Span(self.sink, name, kind, self.trace_id, self.span_id, self.state, dict(attributes))

    def end(self, error: BaseException | None = None) -> None:
        """It ends now, by an error or not."""
        self.ended = time.time_ns()
        if error is not None:
            self.error = message_of(error)
        self.sink.record(self)


class Tracer(Protocol):
    """Decides which calls are traced."""

    def begin(self, name: str, kind: Kind, parent: TraceContext | None = None) -> Span | None:
        """The first span in this process, or None when this trace is not wanted."""
        ...


_current: ContextVar[Span | None] = ContextVar("containerd_hybrid_span", default=None)


def current() -> Span | None:
    """The span around what runs now."""
    return _current.get()


def headers() -> dict[str, str]:
    """What to send along with a call to somebody else; empty when nothing is traced."""
    span = _current.get()
    return span.headers if span is not None else {}


class inside:  # noqa: N801 (used as a statement: with inside(span))
    """Makes a span the current one, and ends it with the block."""

    __slots__ = ("_span", "_token")

    def __init__(self, span: Span | None) -> None:
        self._span = span

    def __enter__(self) -> Span | None:
        if self._span is not None:
            self._token = _current.set(self._span)
        return self._span

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._span is not None:
            # A stream that is closed by another task than it ran in has no way back, and needs none.
            with contextlib.suppress(ValueError):
                _current.reset(self._token)
            self._span.end(error)


def span(name: str, kind: Kind = Kind.INTERNAL, **attributes: Attribute) -> inside:
    """``with span("unpack layer", digest=…):`` a piece of work, recorded if what is around it is.

    In the names of attributes ``__`` stands for a dot.
    """
    around = _current.get()
    if around is None:
        return inside(None)
    named = {key.replace("__", "."): value for key, value in attributes.items()}
    return inside(around.child(name, kind, named))


def message_of(error: BaseException) -> str:
    """What a trace is told of a failure; messages of ours name no secrets."""
    if isinstance(error, HybridError):
        return error.message
    return "cancelled" if isinstance(error, asyncio.CancelledError | GeneratorExit) else type(error).__name__
