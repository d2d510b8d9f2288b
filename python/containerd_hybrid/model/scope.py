"""The scope of a call: which namespace it acts in and which lease protects what it makes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Scope:
    """A namespace and, when the caller holds one, a lease in it.

    Every namespaced operation takes a scope as its first argument. Whatever it creates is added
    to ``lease`` in the same transaction, so the collector cannot take it in between.
    """

    namespace: str
    lease: str | None = None
