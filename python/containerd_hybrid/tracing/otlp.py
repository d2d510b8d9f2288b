"""Spans as OTLP has them, sent over HTTP (OpenTelemetry protocol specification 1.x, OTLP/HTTP)."""

from __future__ import annotations

import gzip
import http.client
import logging
import ssl
import threading
from collections.abc import Callable, Mapping, Sequence
from urllib.parse import urlsplit

from google.protobuf.message import DecodeError

from containerd_hybrid.errors import InvalidConfigError, UnavailableError, UnknownError
from containerd_hybrid.proto.otlp import trace_pb2 as pb
from containerd_hybrid.tracing.api import Attribute, Span
from containerd_hybrid.tracing.settings import ExportSettings

logger = logging.getLogger(__name__)

_SCOPE = "containerd_hybrid"
_SAMPLED = 1
_RETRIED = frozenset({429, 502, 503, 504})
_ATTEMPTS = 4
_FIRST_PAUSE = 0.5
_LONGEST_PAUSE = 5.0
_ANSWER_BYTES = 1 << 16


def encode(spans: Sequence[Span], resource: Mapping[str, str], version: str) -> bytes:
    """The message for a batch of spans."""
    messages = [
        pb.Span(
            trace_id=span.trace_id,
            span_id=span.span_id,
            trace_state=span.state,
            parent_span_id=span.parent_id,
            name=span.name,
            kind=pb.Span.Kind.ValueType(span.kind),
            start_time_unix_nano=span.started,
            end_time_unix_nano=span.ended,
            attributes=[_attribute(key, value) for key, value in span.attributes.items()],
            status=pb.Status(code=pb.Status.ERROR, message=span.error) if span.error is not None else None,
            flags=_SAMPLED,
        )
        for span in spans
    ]
    scope = pb.ScopeSpans(scope=pb.InstrumentationScope(name=_SCOPE, version=version), spans=messages)
    who = pb.Resource(attributes=[_attribute(key, value) for key, value in resource.items()])
    request = pb.ExportTraceServiceRequest(
        resource_spans=[pb.ResourceSpans(resource=who, scope_spans=[scope])]
    )
    return request.SerializeToString()


def _attribute(key: str, value: Attribute) -> pb.KeyValue:
    match value:
        case bool():
            return pb.KeyValue(key=key, value=pb.AnyValue(bool_value=value))
        case int():
            return pb.KeyValue(key=key, value=pb.AnyValue(int_value=value))
        case float():
            return pb.KeyValue(key=key, value=pb.AnyValue(double_value=value))
        case _:
            return pb.KeyValue(key=key, value=pb.AnyValue(string_value=value))


def check_answer(data: bytes) -> None:
    """Log what a collector did not take."""
    try:
        partial = pb.ExportTraceServiceResponse.FromString(data).partial_success
    except DecodeError:
        return  # a proxy's page; the spans were taken all the same
    if partial.rejected_spans or partial.error_message:
        logger.warning(
            "the collector rejected spans",
            extra={"spans": partial.rejected_spans, "error": partial.error_message},
        )


class HttpExport:
    """Sends batches by POST; the connection is kept. For one thread."""

    def __init__(self, settings: ExportSettings, pause: Callable[[float], object] | None = None) -> None:
        """``pause`` waits for some seconds between attempts; a test may not want to.

        Raises:
            InvalidConfigError: a certificate cannot be read, or there is no such compression.
        """
        if settings.compression not in ("", "gzip"):
            raise InvalidConfigError(f"OTLP compression {settings.compression!r}: use gzip or none")
        self._settings = settings
        self._url = urlsplit(settings.endpoint)
        self._context = None if settings.is_plain else tls_context(settings)
        self._connection: http.client.HTTPConnection | None = None
        self._stopped = threading.Event()
        self._pause = pause or self._stopped.wait

    def __call__(self, message: bytes) -> None:
        """Send one message, again when the collector says that this may help.

        Raises:
            UnavailableError: it could not be reached, or takes nothing now.
            UnknownError: it refused.
        """
        body = gzip.compress(message, 1) if self._settings.compression else message
        for attempt in range(_ATTEMPTS):
            status, after, data = self._post(body)
            if status < http.client.MULTIPLE_CHOICES:
                check_answer(data)
                return
            if status not in _RETRIED:
                raise UnknownError(f"{self._where} answered {status}")
            if attempt + 1 < _ATTEMPTS:
                self._pause(min(after or _FIRST_PAUSE * 2**attempt, _LONGEST_PAUSE))
        raise UnavailableError(f"{self._where} takes nothing now")

    def close(self) -> None:
        """End the pauses and the connection."""
        self._stopped.set()

    @property
    def _where(self) -> str:
        return f"{self._url.scheme}://{self._url.hostname}:{self._url.port or ''}".rstrip(":")

    def _post(self, body: bytes) -> tuple[int, float, bytes]:
        headers = {"Content-Type": "application/x-protobuf", **self._settings.headers}
        if self._settings.compression:
            headers["Content-Encoding"] = self._settings.compression
        path = (self._url.path or "/") + (f"?{self._url.query}" if self._url.query else "")
        # A kept connection may have been closed meanwhile, which is told by the first use of it.
        for fresh in (self._connection is None, True):
            connection = self._connected()
            try:
                connection.request("POST", path, body, headers)
                answer = connection.getresponse()
                data = answer.read(_ANSWER_BYTES)
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                self._connection = None
                if fresh:
                    raise UnavailableError(f"{self._where}: {str(error) or type(error).__name__}") from error
                continue
            if answer.will_close or not answer.isclosed():
                connection.close()
                self._connection = None
            return answer.status, _seconds(answer.getheader("Retry-After")), data
        raise AssertionError("unreachable")

    def _connected(self) -> http.client.HTTPConnection:
        if self._connection is None:
            host, port, seconds = self._url.hostname or "", self._url.port, self._settings.timeout
            if self._context is None:
                self._connection = http.client.HTTPConnection(host, port, timeout=seconds)
            else:
                self._connection = http.client.HTTPSConnection(
                    host, port, timeout=seconds, context=self._context
                )
        return self._connection


def tls_context(settings: ExportSettings) -> ssl.SSLContext:
    """
    Raises:
        InvalidConfigError: a certificate cannot be read.
    """
    try:
        context = ssl.create_default_context(cafile=settings.ca or None)
        if settings.certificate:
            context.load_cert_chain(settings.certificate, settings.key or None)
    except (OSError, ssl.SSLError) as error:
        raise InvalidConfigError(f"certificates for OpenTelemetry cannot be read: {error}") from error
    return context


def _seconds(text: str | None) -> float:
    try:
        return max(float(text or 0), 0.0)
    except ValueError:
        return 0.0  # a date; the own pause will do
