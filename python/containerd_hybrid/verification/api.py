"""Who may say no to an image (containerd's docs/image-verification.md)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from containerd_hybrid.model import Descriptor


@dataclass(frozen=True, slots=True)
class Judgement:
    """Whether an image may be pulled, and the words for it."""

    ok: bool
    reason: str


class ImageVerifier(Protocol):
    """Judges an image by its name and what that was resolved to, before anything else is fetched."""

    async def verify(self, name: str, image: Descriptor) -> Judgement:
        """
        Raises:
            HybridError: no judgement could be had; the pull is then blocked as well.
        """
        ...
