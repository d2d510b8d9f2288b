"""Platforms: operating system, architecture, variant (OCI image spec, image-index.md)."""

from __future__ import annotations

import platform as _host
from dataclasses import dataclass

from containerd_hybrid.errors import InvalidArgumentError

_ARCHITECTURES = {
    "x86_64": ("amd64", ""),
    "x86-64": ("amd64", ""),
    "i386": ("386", ""),
    "i686": ("386", ""),
    "aarch64": ("arm64", ""),
    "armhf": ("arm", "v7"),
    "armv7l": ("arm", "v7"),
    "armel": ("arm", "v6"),
    "armv6l": ("arm", "v6"),
}
_ARM_FALLBACK = ("v8", "v7", "v6", "v5")


@dataclass(frozen=True, slots=True)
class Platform:
    """``os/architecture[/variant]`` with the Windows extras of the OCI spec."""

    os: str
    architecture: str
    variant: str = ""
    os_version: str = ""
    os_features: tuple[str, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Platform:
        """Parse ``os``, ``architecture``, ``os/arch`` or ``os/arch/variant`` and normalise it.

        Raises:
            InvalidArgumentError: more than three parts, or an empty one.
        """
        parts = text.strip().lower().split("/")
        if not 1 <= len(parts) <= 3 or not all(parts):
            raise InvalidArgumentError(f"invalid platform {text!r}: expected os/architecture[/variant]")
        if len(parts) == 1:
            host = Platform.host()
            if parts[0] in {"linux", "windows", "darwin", "freebsd"}:
                return cls(parts[0], host.architecture, host.variant if parts[0] == host.os else "")
            return cls(host.os, parts[0]).normalized()
        return cls(parts[0], parts[1], parts[2] if len(parts) == 3 else "").normalized()

    @classmethod
    def host(cls) -> Platform:
        """The platform this process runs on."""
        return cls(_host.system().lower(), _host.machine().lower()).normalized()

    def normalized(self) -> Platform:
        """Aliases replaced by canonical names; default variants dropped (arm64/v8) or added (arm/v7)."""
        architecture, variant = _ARCHITECTURES.get(self.architecture, (self.architecture, ""))
        variant = self.variant or variant
        if variant in {"5", "6", "7", "8"}:
            variant = "v" + variant
        if (architecture, variant) in {("arm64", "v8"), ("amd64", "v1")}:
            variant = ""
        if architecture == "arm" and not variant:
            variant = "v7"
        return Platform(self.os or "linux", architecture, variant, self.os_version, self.os_features)

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)


def match_rank(wanted: Platform, offered: Platform) -> int | None:
    """How well ``offered`` serves ``wanted``: 0 is exact, larger is worse, None is not at all."""
    want, have = wanted.normalized(), offered.normalized()
    if want.os != have.os:
        return None
    if want.os_version and have.os_version and not have.os_version.startswith(want.os_version):
        return None
    if want.architecture == have.architecture:
        if want.variant == have.variant:
            return 0
        if want.architecture == "arm" and want.variant in _ARM_FALLBACK and have.variant in _ARM_FALLBACK:
            distance = _ARM_FALLBACK.index(have.variant) - _ARM_FALLBACK.index(want.variant)
            return distance if distance > 0 else None
        if want.architecture == "amd64" and want.variant.startswith("v"):
            have_level = int(have.variant[1:] or 1) if have.variant.startswith("v") else 1
            distance = int(want.variant[1:]) - have_level
            return distance if distance >= 0 else None
        return None
    if (want.architecture, have.architecture) == ("amd64", "386"):
        return 10
    if (want.architecture, have.architecture) == ("arm64", "arm") and have.variant in _ARM_FALLBACK:
        return 10 + _ARM_FALLBACK.index(have.variant)
    return None
