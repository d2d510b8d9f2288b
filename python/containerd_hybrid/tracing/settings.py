"""Where traces go, by the environment variables of OpenTelemetry's specification and by configuration."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

from containerd_hybrid.errors import InvalidConfigError, UnimplementedError

HTTP = "http/protobuf"
GRPC = "grpc"
_PREFIX = "OTEL_EXPORTER_OTLP_"
_PATH = "/v1/traces"
_TIMEOUT_MS = 10_000
_NAMES = {"true": True, "1": True, "t": True, "false": False, "0": False, "f": False, "": False}


@dataclass(frozen=True, slots=True)
class ExportSettings:
    """``endpoint`` is the whole URL for http; ``timeout`` is seconds. Certificates are paths, or empty.

    The batch: at most ``queue`` spans wait, ``batch`` go at once, after ``delay`` seconds at the latest.
    """

    endpoint: str
    protocol: str = HTTP
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    timeout: float = _TIMEOUT_MS / 1000
    compression: str = ""
    ca: str = ""
    certificate: str = ""
    key: str = ""
    queue: int = 2048
    batch: int = 512
    delay: float = 5.0

    @property
    def is_plain(self) -> bool:
        """Whether it goes without TLS."""
        return urlsplit(self.endpoint).scheme == "http"


def is_disabled(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether OTEL_SDK_DISABLED says so.

    Raises:
        InvalidConfigError: it is no truth value.
    """
    return _truth("OTEL_SDK_DISABLED", environment)


def export_settings(
    endpoint: str = "",
    protocol: str = "",
    insecure: bool = False,
    environment: Mapping[str, str] = os.environ,
) -> ExportSettings | None:
    """The settings, None when no endpoint is named. The environment wins over the configuration.

    Raises:
        InvalidConfigError: a value is none; the message names the variable, never a header's value.
        UnimplementedError: another protocol, or another exporter than otlp.
    """
    exporter = environment.get("OTEL_TRACES_EXPORTER", "")
    if exporter not in ("", "otlp", "none"):
        raise UnimplementedError(f"OTEL_TRACES_EXPORTER={exporter!r} is not supported: use otlp or none")
    whole, base = environment.get(f"{_PREFIX}TRACES_ENDPOINT", ""), _of(environment, "ENDPOINT") or endpoint
    if exporter == "none" or not (whole or base):
        return None
    kind = _of(environment, "PROTOCOL") or protocol or HTTP
    if kind not in (HTTP, GRPC):
        raise UnimplementedError(f"OpenTelemetry protocol {kind!r} is not supported: use {HTTP} or {GRPC}")
    plain = insecure or _truth(f"{_PREFIX}INSECURE", environment)
    address = _url(whole or base, plain)
    if kind == HTTP and not whole:
        address = address.rstrip("/") + _PATH
    return ExportSettings(
        address,
        kind,
        _headers(_of(environment, "HEADERS")),
        _number(f"{_PREFIX}TIMEOUT", _of(environment, "TIMEOUT"), _TIMEOUT_MS) / 1000,
        _of(environment, "COMPRESSION").replace("none", ""),
        _of(environment, "CERTIFICATE"),
        _of(environment, "CLIENT_CERTIFICATE"),
        _of(environment, "CLIENT_KEY"),
        _number("OTEL_BSP_MAX_QUEUE_SIZE", environment.get("OTEL_BSP_MAX_QUEUE_SIZE", ""), 2048),
        _number("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", environment.get("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", ""), 512),
        _number("OTEL_BSP_SCHEDULE_DELAY", environment.get("OTEL_BSP_SCHEDULE_DELAY", ""), 5000) / 1000,
    )


def resource_attributes(service: str = "", environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Who we are: OTEL_RESOURCE_ATTRIBUTES and a service's name, which is containerd unless one is given."""
    attributes = _headers(environment.get("OTEL_RESOURCE_ATTRIBUTES", ""))
    name = environment.get("OTEL_SERVICE_NAME") or service or attributes.get("service.name") or "containerd"
    return {**attributes, "service.name": name}


def sampler_of(ratio: float = 0.0, environment: Mapping[str, str] = os.environ) -> tuple[str, float]:
    """The sampler's name and ratio; a ``ratio`` that is configured makes it one by ratio.

    Raises:
        InvalidConfigError: OTEL_TRACES_SAMPLER_ARG is no number.
    """
    name = environment.get("OTEL_TRACES_SAMPLER", "")
    if not name:
        return ("parentbased_traceidratio", ratio) if ratio else ("parentbased_always_on", 1.0)
    argument = environment.get("OTEL_TRACES_SAMPLER_ARG", "")
    try:
        return name, float(argument or 1.0)
    except ValueError:
        raise InvalidConfigError(f"OTEL_TRACES_SAMPLER_ARG={argument!r}: expected a number") from None


def _of(environment: Mapping[str, str], name: str) -> str:
    """What is for traces wins over what is for all signals."""
    return environment.get(f"{_PREFIX}TRACES_{name}") or environment.get(f"{_PREFIX}{name}") or ""


def _url(text: str, insecure: bool) -> str:
    address = text if "://" in text else f"{'http' if insecure else 'https'}://{text}"
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InvalidConfigError(f"OpenTelemetry endpoint {text!r}: expected an http or https URL")
    return address


def _headers(text: str) -> dict[str, str]:
    found = {}
    for entry in filter(None, (part.strip() for part in text.split(","))):
        key, equals, value = entry.partition("=")
        if not equals or not key.strip():
            raise InvalidConfigError("OpenTelemetry headers or attributes: expected key=value,key=value")
        found[unquote(key.strip())] = unquote(value.strip())
    return found


def _number(name: str, text: str, default: int) -> int:
    if not text:
        return default
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number <= 0:
        raise InvalidConfigError(f"{name}={text!r}: expected a whole number greater than 0")
    return number


def _truth(name: str, environment: Mapping[str, str]) -> bool:
    text = environment.get(name, "").lower()
    if text not in _NAMES:
        raise InvalidConfigError(f"{name}={text!r}: expected true or false")
    return _NAMES[text]
