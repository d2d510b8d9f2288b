"""``Link`` headers (RFC 8288), as far as lists in pages need them."""

from __future__ import annotations

import re
from collections.abc import Iterable

_LINK = re.compile(r'<([^>]*)>((?:\s*;\s*[^\s=;,]+(?:\s*=\s*(?:"[^"]*"|[^\s";,]*))?)*)')
_RELATION = re.compile(r';\s*rel\s*=\s*(?:"([^"]*)"|([^\s";,]*))', re.IGNORECASE)


def next_link(values: Iterable[str]) -> str:
    """The target of the link to the next page, empty when there is none."""
    for value in values:
        for link in _LINK.finditer(value):
            relation = _RELATION.search(link[2])
            if relation and "next" in (relation[1] or relation[2] or "").lower().split():
                return link[1]
    return ""
