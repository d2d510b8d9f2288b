"""Answers that are no success become exceptions which say where, what, and what to do."""

from __future__ import annotations

import json
from typing import Any

from containerd_hybrid.errors import (
    AlreadyExistsError,
    FailedPreconditionError,
    HybridError,
    InvalidArgumentError,
    NotFoundError,
    OutOfRangeError,
    PermissionDeniedError,
    ResourceExhaustedError,
    UnauthenticatedError,
    UnavailableError,
    UnimplementedError,
    UnknownError,
)
from containerd_hybrid.registry.http import Response

MAX_ERROR_BYTES = 64 << 10
_SHOWN = 512

_KINDS: dict[int, tuple[type[HybridError], str]] = {
    400: (InvalidArgumentError, ""),
    401: (UnauthenticatedError, "log in to the registry; the repository may not exist"),
    403: (PermissionDeniedError, "the account has no right to do this; check it and the repository's name"),
    404: (NotFoundError, "not found: check the name, tag and digest"),
    405: (UnimplementedError, "the registry does not offer this"),
    409: (AlreadyExistsError, ""),
    412: (FailedPreconditionError, ""),
    413: (ResourceExhaustedError, "it is larger than the registry accepts"),
    416: (OutOfRangeError, ""),
    429: (ResourceExhaustedError, "the registry's limit of requests is reached; wait, or log in"),
}


async def failure(doing: str, response: Response) -> HybridError:
    """The exception for an answer; reads its body. ``doing`` is ``pull HOST/REPOSITORY`` or the like."""
    try:
        body = await response.read(MAX_ERROR_BYTES)
    except HybridError:
        body = b""  # the status says enough
    finally:
        response.close()
    kind, advice = _KINDS.get(response.status, (UnknownError, ""))
    if response.status >= 500:
        kind, advice = UnavailableError, "try again later"
    said = "; ".join(registry_errors(body))
    parts = [f"cannot {doing}", f"status {response.status}" + (f" ({said})" if said else ""), advice]
    return kind(": ".join(filter(None, parts)))


def registry_errors(body: bytes) -> list[str]:
    """``CODE: message`` of each error in a registry's error document; none for other bodies."""
    try:
        document = json.loads(body)
        errors = document.get("errors") or []
        found = [_line(error) for error in errors if isinstance(error, dict)]
    except (ValueError, AttributeError, TypeError, RecursionError):
        return []
    return [text for text in found if text]


def _line(error: dict[str, Any]) -> str:
    texts = [error.get("code"), error.get("message")]
    line = ": ".join(text for text in texts if isinstance(text, str) and text)
    return "".join(mark if mark.isprintable() else " " for mark in line)[:_SHOWN]
