"""A typed value whose type this daemon need not know (google.protobuf.Any)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class AnyValue:
    """``type_url`` as it came; containerd's own urls often have no ``type.googleapis.com/`` before them."""

    type_url: str
    value: bytes

    @property
    def type_name(self) -> str:
        """The type's full name, without a host."""
        return (
            self.type_url.rpartition("/")[2]
            if self.type_url.startswith("type.googleapis.com/")
            else self.type_url
        )
