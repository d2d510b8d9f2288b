"""Image references: ``host[:port]/path[:tag][@digest]``, as github.com/distribution/reference reads them."""

from __future__ import annotations

import re
from dataclasses import dataclass

from containerd_hybrid.errors import InvalidDigestError, InvalidReferenceError
from containerd_hybrid.model.digest import Digest

DEFAULT_HOST = "docker.io"
_DEFAULT_TAG = "latest"
_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_PATH = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*")
_LABEL = r"(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
_HOST = re.compile(rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[a-fA-F0-9:]+\])(?::[0-9]+)?")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_MAX_PATH = 255


def has_tag(text: str) -> bool:
    """Whether a reference, full or familiar, says a tag itself."""
    return ":" in text.partition("@")[0].rpartition("/")[2]


@dataclass(frozen=True, slots=True)
class Reference:
    """Where an image is: ``host`` (with port), ``path``, and a tag, a digest, or both."""

    host: str
    path: str
    tag: str = ""
    digest: Digest | None = None

    @classmethod
    def parse(cls, text: str) -> Reference:
        """Parse a full or a familiar name: ``busybox`` is ``docker.io/library/busybox:latest``.

        Raises:
            InvalidReferenceError: names the part that cannot be right.
        """
        name, at, digest_text = text.partition("@")
        digest = None
        if at:
            try:
                digest = Digest.parse(digest_text)
            except InvalidDigestError as error:
                raise InvalidReferenceError(f"invalid reference {text!r}: {error.message}") from error
        head, slash, rest = name.partition("/")
        if slash and (head == "localhost" or any(mark in head for mark in ".:") or head != head.lower()):
            host, path = head, rest
        else:
            host, path = DEFAULT_HOST, name
        tag = ""
        last = path.rpartition("/")[2]
        if ":" in last:
            tag = last.partition(":")[2]
            path = path[: len(path) - len(tag) - 1]
            if not _TAG.fullmatch(tag):
                raise InvalidReferenceError(f"invalid reference {text!r}: {tag!r} is not a tag")
        if host in {DEFAULT_HOST, "index.docker.io"}:
            host = DEFAULT_HOST
            if path and "/" not in path:
                path = f"library/{path}"
        if not _HOST.fullmatch(host):
            raise InvalidReferenceError(f"invalid reference {text!r}: {host!r} is not a host name")
        if not _PATH.fullmatch(path) or len(path) > _MAX_PATH:
            raise InvalidReferenceError(
                f"invalid reference {text!r}: the repository has to be lower case, of at most {_MAX_PATH} "
                "characters, e.g. docker.io/library/busybox:latest"
            )
        if not tag and digest is None:
            tag = _DEFAULT_TAG
        return cls(host, path, tag, digest)

    @property
    def repository(self) -> str:
        """``host/path``."""
        return f"{self.host}/{self.path}"

    @property
    def familiar(self) -> str:
        """As Docker's users write it: without the host and ``library/`` where these are the defaults."""
        whole = str(self)
        if self.host != DEFAULT_HOST:
            return whole
        path = whole.removeprefix(f"{DEFAULT_HOST}/")
        short = path.removeprefix("library/")
        return path if "/" in short.partition("@")[0] else short

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        digest = f"@{self.digest}" if self.digest else ""
        return f"{self.repository}{tag}{digest}"
