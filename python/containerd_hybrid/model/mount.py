"""A mount as it travels in the API (containerd.types.Mount)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Mount:
    """``type`` is a file system or ``bind``; ``target`` is a subfolder of the place it is mounted on."""

    type: str
    source: str
    options: tuple[str, ...] = ()
    target: str = ""

    @property
    def read_only(self) -> bool:
        """Whether the options ask for a read-only mount."""
        return "ro" in self.options
