"""Digests as the OCI image spec defines them (descriptor.md, "Digests")."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

from containerd_hybrid.errors import InvalidDigestError

_HEX_LENGTH = {"sha256": 64, "sha384": 96, "sha512": 128}
_HEX = re.compile(r"[0-9a-f]+")


@dataclass(frozen=True, slots=True, order=True)
class Digest:
    """An algorithm and the lower-case hex of its result; ``str()`` gives ``sha256:…``."""

    algorithm: str
    hex: str

    @classmethod
    def parse(cls, text: str) -> Digest:
        """Parse ``algorithm:hex``.

        Raises:
            InvalidDigestError: the form, the algorithm or the length is wrong.
        """
        algorithm, separator, encoded = text.partition(":")
        if not separator:
            raise InvalidDigestError(f"invalid digest {text!r}: expected algorithm:hex, e.g. sha256:…")
        length = _HEX_LENGTH.get(algorithm)
        if length is None:
            raise InvalidDigestError(
                f"unsupported digest algorithm {algorithm!r} in {text!r}: use {', '.join(_HEX_LENGTH)}"
            )
        if len(encoded) != length or not _HEX.fullmatch(encoded):
            raise InvalidDigestError(f"invalid digest {text!r}: expected {length} lower-case hex digits")
        return cls(algorithm, encoded)

    @classmethod
    def of(cls, data: bytes, algorithm: str = "sha256") -> Digest:
        """The digest of bytes that are already in memory."""
        return cls(algorithm, hashlib.new(algorithm, data).hexdigest())

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.hex}"


def chain_id(diff_ids: list[Digest] | tuple[Digest, ...]) -> Digest:
    """The chain ID of a stack of layers, lowest first (OCI image spec, config.md, "Layer ChainID").

    Raises:
        InvalidDigestError: the stack is empty.
    """
    if not diff_ids:
        raise InvalidDigestError("an empty stack of layers has no chain ID")
    chain = diff_ids[0]
    for diff_id in diff_ids[1:]:
        chain = Digest.of(f"{chain} {diff_id}".encode())
    return chain
