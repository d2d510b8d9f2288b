"""The one exception tree of the project.

Every error that crosses a package boundary is one of these; ``rpc`` turns it into a gRPC or ttrpc
status in one interceptor, ``cli`` into a message that says what to do next.

    HybridError                     has .code (gRPC code name) and .message
    ├── CallCancelledError          CANCELLED            the caller went away
    ├── UnknownError                UNKNOWN              no better class is known
    ├── InvalidArgumentError        INVALID_ARGUMENT     the request cannot be right
    │   ├── InvalidReferenceError                        … an image reference
    │   ├── InvalidDigestError                           … a digest
    │   ├── InvalidFilterError                           … a filter expression
    │   └── InvalidConfigError                           … a configuration file
    ├── DeadlineExceededError       DEADLINE_EXCEEDED
    ├── NotFoundError               NOT_FOUND
    ├── AlreadyExistsError          ALREADY_EXISTS
    ├── PermissionDeniedError       PERMISSION_DENIED
    ├── UnauthenticatedError        UNAUTHENTICATED
    ├── ResourceExhaustedError      RESOURCE_EXHAUSTED   disk full, limits, a bomb
    ├── FailedPreconditionError     FAILED_PRECONDITION  the state does not allow it now
    │   ├── DigestMismatchError                          bytes are not what their digest says
    │   └── SizeMismatchError                            … their size says
    ├── AbortedError                ABORTED
    ├── OutOfRangeError             OUT_OF_RANGE
    ├── UnimplementedError          UNIMPLEMENTED
    ├── InternalError               INTERNAL             a bug or a broken invariant of ours
    ├── UnavailableError            UNAVAILABLE          try again later (locked ingest, shim away)
    └── DataLossError               DATA_LOSS            stored bytes are damaged

The codes are those of ``google.rpc.Code`` and match containerd's ``errdefs``.
"""

from __future__ import annotations

import errno
from typing import ClassVar


class HybridError(Exception):
    """Base of every error of the project.

    ``code`` is the name of a ``google.rpc.Code``; ``message`` is what a client is shown.
    """

    code: ClassVar[str] = "UNKNOWN"

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class CallCancelledError(HybridError):
    """The caller cancelled the call."""

    code = "CANCELLED"


class UnknownError(HybridError):
    """A failure for which no better class is known."""

    code = "UNKNOWN"


class InvalidArgumentError(HybridError):
    """The request cannot be right, whatever the state of the system."""

    code = "INVALID_ARGUMENT"


class InvalidReferenceError(InvalidArgumentError):
    """An image reference that cannot be parsed."""


class InvalidDigestError(InvalidArgumentError):
    """A digest that cannot be parsed or whose algorithm is not supported."""


class InvalidFilterError(InvalidArgumentError):
    """A filter expression that cannot be parsed."""


class InvalidConfigError(InvalidArgumentError):
    """A configuration that cannot be read: names file, key and what was expected."""


class DeadlineExceededError(HybridError):
    """The call's deadline passed."""

    code = "DEADLINE_EXCEEDED"


class NotFoundError(HybridError):
    """The named thing does not exist in this namespace."""

    code = "NOT_FOUND"


class AlreadyExistsError(HybridError):
    """A thing of that name exists already."""

    code = "ALREADY_EXISTS"


class PermissionDeniedError(HybridError):
    """The caller may not do this."""

    code = "PERMISSION_DENIED"


class UnauthenticatedError(HybridError):
    """The caller did not say who it is, or a registry did not believe us."""

    code = "UNAUTHENTICATED"


class ResourceExhaustedError(HybridError):
    """Disk, memory, or a limit is used up."""

    code = "RESOURCE_EXHAUSTED"


class FailedPreconditionError(HybridError):
    """The system's present state does not allow the call."""

    code = "FAILED_PRECONDITION"


class DigestMismatchError(FailedPreconditionError):
    """Bytes do not have the digest that was promised; the message names both."""


class SizeMismatchError(FailedPreconditionError):
    """Bytes do not have the length that was promised; the message names both."""


class AbortedError(HybridError):
    """The operation lost a race and was given up."""

    code = "ABORTED"


class OutOfRangeError(HybridError):
    """An offset lies outside of what there is."""

    code = "OUT_OF_RANGE"


class UnimplementedError(HybridError):
    """Not offered by this build or on this platform."""

    code = "UNIMPLEMENTED"


class InternalError(HybridError):
    """A broken invariant of ours."""

    code = "INTERNAL"


class UnavailableError(HybridError):
    """Not possible now; the same call may succeed later."""

    code = "UNAVAILABLE"


class DataLossError(HybridError):
    """Stored bytes are damaged or gone."""

    code = "DATA_LOSS"


def error_for_code(code: str, message: str) -> HybridError:
    """The exception for a ``google.rpc.Code`` name; an unknown name gives :class:`UnknownError`."""
    return _BY_CODE.get(code, UnknownError)(message)


_BY_CODE: dict[str, type[HybridError]] = {cls.code: cls for cls in HybridError.__subclasses__()}

CODES = (
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
)
"""The names of ``google.rpc.Code``, each at its number on the wire."""


def code_name(number: int) -> str:
    """The name of a status code on the wire; one that no version of the API knows is ``UNKNOWN``."""
    return CODES[number] if 0 <= number < len(CODES) else "UNKNOWN"


def error_for_os(error: OSError, doing: str) -> HybridError:
    """The exception for a failed system call; ``doing`` says what could not be done (``write /x/y``).

    A missing or an existing file is an accident of ours, not of the caller's, so these two become
    UnknownError; who expects them catches FileNotFoundError or FileExistsError before.
    """
    kind = _BY_ERRNO.get(error.errno or 0, UnknownError)
    return kind(f"cannot {doing}: {error.strerror or error}")


_BY_ERRNO: dict[int, type[HybridError]] = {
    errno.ENOSPC: ResourceExhaustedError,
    errno.EDQUOT: ResourceExhaustedError,
    errno.EFBIG: ResourceExhaustedError,
    errno.ENOMEM: ResourceExhaustedError,
    errno.EMFILE: ResourceExhaustedError,
    errno.ENFILE: ResourceExhaustedError,
    errno.EACCES: PermissionDeniedError,
    errno.EPERM: PermissionDeniedError,
    errno.EROFS: FailedPreconditionError,
    errno.EBUSY: UnavailableError,
    errno.EIO: DataLossError,
    errno.EUCLEAN: DataLossError,
}
