"""Spans sent over gRPC (OTLP/gRPC), with the library's blocking channel, in the exporter's thread."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import grpc

from containerd_hybrid.errors import InvalidConfigError, UnavailableError
from containerd_hybrid.tracing.otlp import check_answer
from containerd_hybrid.tracing.settings import ExportSettings

_METHOD = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
_DEFAULT_PORT = 4317


class GrpcExport:
    """Sends batches; the channel is kept. For one thread."""

    def __init__(self, settings: ExportSettings) -> None:
        """
        Raises:
            InvalidConfigError: a certificate cannot be read, or there is no such compression.
        """
        if settings.compression not in ("", "gzip"):
            raise InvalidConfigError(f"OTLP compression {settings.compression!r}: use gzip or none")
        url = urlsplit(settings.endpoint)
        self._address = f"{url.hostname}:{url.port or _DEFAULT_PORT}"
        self._timeout = settings.timeout
        self._metadata = tuple((key.lower(), value) for key, value in settings.headers.items())
        compression = grpc.Compression.Gzip if settings.compression else grpc.Compression.NoCompression
        if settings.is_plain:
            self._channel = grpc.insecure_channel(self._address, compression=compression)
        else:
            self._channel = grpc.secure_channel(
                self._address, _credentials(settings), compression=compression
            )
        self._export = self._channel.unary_unary(
            _METHOD, request_serializer=bytes, response_deserializer=bytes
        )

    def __call__(self, message: bytes) -> None:
        """Send one message.

        Raises:
            UnavailableError: the collector did not take it.
        """
        try:
            answer = self._export(message, timeout=self._timeout, metadata=self._metadata)
        except grpc.RpcError as error:
            raise UnavailableError(f"{self._address}: {_told(error)}") from error
        check_answer(answer)

    def close(self) -> None:
        """End the connection, and a call that is under way."""
        self._channel.close()


def _told(error: Any) -> str:
    """What this library raises is a call as well, which its types do not say."""
    return f"{error.code().name}: {error.details()}" if hasattr(error, "details") else str(error)


def _credentials(settings: ExportSettings) -> grpc.ChannelCredentials:
    try:
        ca, certificate, key = (
            Path(path).read_bytes() if path else None
            for path in (settings.ca, settings.certificate, settings.key)
        )
    except OSError as error:
        raise InvalidConfigError(f"certificates for OpenTelemetry cannot be read: {error}") from error
    return grpc.ssl_channel_credentials(ca, key, certificate)
