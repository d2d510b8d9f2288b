"""Identifiers: names that are safe as one component of a path (containerd's ``pkg/identifiers``)."""

from __future__ import annotations

import re

from containerd_hybrid.errors import InvalidArgumentError

MAX_LENGTH = 76
PATTERN = r"^[A-Za-z0-9]+(?:[._-](?:[A-Za-z0-9]+))*$"

# fullmatch of the bare pattern, because Python's ``$`` also holds before a trailing newline.
_IDENTIFIER = re.compile(PATTERN[1:-1])


def validate_identifier(text: str) -> None:
    """Check a namespace, container id, exec id or a component of a topic.

    Raises:
        InvalidArgumentError: empty, longer than 76 characters, or other than letters and digits
            joined by single ``.``, ``_`` and ``-``.
    """
    if not text:
        raise InvalidArgumentError("identifier must not be empty")
    if len(text.encode(errors="surrogatepass")) > MAX_LENGTH:
        raise InvalidArgumentError(
            f"identifier {quoted(text)} greater than maximum length ({MAX_LENGTH} characters)"
        )
    if not _IDENTIFIER.fullmatch(text):
        raise InvalidArgumentError(f"identifier {quoted(text)} must match {PATTERN}")


def quoted(text: str) -> str:
    """In double quotes with escapes, as containerd's messages have names."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in escaped) + '"'
