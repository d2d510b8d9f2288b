"""Manifests, indexes and image configurations, parsed from untrusted JSON into frozen values.

Only what the runtime needs is kept; unknown fields are ignored as the OCI image spec asks.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

from containerd_hybrid.errors import InvalidArgumentError
from containerd_hybrid.model.descriptor import Descriptor, is_index, is_manifest
from containerd_hybrid.model.digest import Digest
from containerd_hybrid.model.platform import Platform, match_rank

# The size above which no honest manifest is; the distribution spec asks registries to accept 4 MiB.
MAX_DOCUMENT_BYTES = 8 << 20


@dataclass(frozen=True, slots=True)
class Manifest:
    """An image manifest: its config and its layers, lowest first."""

    media_type: str
    config: Descriptor
    layers: tuple[Descriptor, ...]
    subject: Descriptor | None = None
    annotations: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Index:
    """A list of manifests, usually one a platform."""

    media_type: str
    manifests: tuple[Descriptor, ...]
    annotations: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ImageConfig:
    """What a container made from the image runs by default (OCI image spec, config.md)."""

    platform: Platform
    diff_ids: tuple[Digest, ...]
    env: tuple[str, ...] = ()
    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    working_dir: str = ""
    user: str = ""
    stop_signal: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    exposed_ports: tuple[str, ...] = ()
    volumes: tuple[str, ...] = ()


def parse_manifest_or_index(data: bytes, media_type: str = "") -> Manifest | Index:
    """Parse by the media type given, else the document's own, else by its fields.

    Raises:
        InvalidArgumentError: not JSON, of the wrong shape, or with fields of both kinds, which could be
            read as one thing by one program and as another by the next (CVE-2021-41190).
    """
    document = _object(data, "manifest")
    kind = media_type or str(document.get("mediaType") or "")
    if "manifests" in document and ("layers" in document or "config" in document):
        raise InvalidArgumentError("ambiguous document: it has the fields of a manifest and of an index")
    if is_index(kind) or (not is_manifest(kind) and "manifests" in document):
        return Index(
            kind,
            tuple(_descriptor(entry, "manifests") for entry in _list(document, "manifests")),
            _strings(document, "annotations"),
        )
    if is_manifest(kind) or "layers" in document or "config" in document:
        subject = document.get("subject")
        return Manifest(
            kind,
            _descriptor(document.get("config"), "config"),
            tuple(_descriptor(entry, "layers") for entry in _list(document, "layers")),
            _descriptor(subject, "subject") if subject is not None else None,
            _strings(document, "annotations"),
        )
    raise InvalidArgumentError(f"neither a manifest nor an index (media type {kind or 'unknown'!r})")


def parse_image_config(data: bytes) -> ImageConfig:
    """
    Raises:
        InvalidArgumentError: not JSON or of the wrong shape.
        InvalidDigestError: a diff ID is malformed.
    """
    document = _object(data, "image config")
    rootfs = document.get("rootfs") or {}
    run = document.get("config") or {}
    if not isinstance(rootfs, dict) or not isinstance(run, dict):
        _malformed("image config", "rootfs and config have to be objects")
    platform = Platform(
        _text(document, "os"),
        _text(document, "architecture"),
        _text(document, "variant"),
        _text(document, "os.version"),
        tuple(_list_of_text(document, "os.features")),
    ).normalized()
    return ImageConfig(
        platform=platform,
        diff_ids=tuple(Digest.parse(diff_id) for diff_id in _list_of_text(rootfs, "diff_ids")),
        env=tuple(_list_of_text(run, "Env")),
        entrypoint=tuple(_list_of_text(run, "Entrypoint")),
        cmd=tuple(_list_of_text(run, "Cmd")),
        working_dir=_text(run, "WorkingDir"),
        user=_text(run, "User"),
        stop_signal=_text(run, "StopSignal"),
        labels=_strings(run, "Labels"),
        exposed_ports=tuple(run.get("ExposedPorts") or ()),
        volumes=tuple(run.get("Volumes") or ()),
    )


def choose_manifest(index: Index, wanted: Platform) -> Descriptor | None:
    """The entry that serves the platform best; an entry without a platform serves when none else does."""
    ranked: list[tuple[int, int, Descriptor]] = []
    for position, entry in enumerate(index.manifests):
        if not (is_manifest(entry.media_type) or is_index(entry.media_type)):
            continue
        if entry.platform is None:
            ranked.append((1_000, position, entry))
            continue
        rank = match_rank(wanted, entry.platform)
        if rank is not None:
            ranked.append((rank, position, entry))
    return min(ranked, key=lambda item: item[:2])[2] if ranked else None


def ranked_for(entries: Sequence[Descriptor], platforms: Sequence[Platform]) -> dict[int, int]:
    """The positions of those entries that serve a platform better than all others, with their ranks."""
    chosen: dict[int, int] = {}
    for wanted in platforms:
        ranks = {
            position: rank
            for position, entry in enumerate(entries)
            if entry.platform is not None and (rank := match_rank(wanted, entry.platform)) is not None
        }
        best = min(ranks.values(), default=0)
        chosen |= {position: rank for position, rank in ranks.items() if rank == best}
    return chosen


def wanted_of(entries: Sequence[Descriptor], platforms: Sequence[Platform]) -> tuple[Descriptor, ...]:
    """The entries that serve a platform best or name none, in their order; all without platforms."""
    ranked = ranked_for(entries, platforms)
    return tuple(
        entry
        for position, entry in enumerate(entries)
        if not platforms or entry.platform is None or position in ranked
    )


def descriptor_from_json(value: Any) -> Descriptor:
    """
    Raises:
        InvalidArgumentError: the shape is wrong or the digest is malformed.
    """
    return _descriptor(value, "descriptor")


def descriptor_to_json(descriptor: Descriptor) -> dict[str, Any]:
    """The JSON object of the OCI image spec, without empty fields."""
    value: dict[str, Any] = {
        "mediaType": descriptor.media_type,
        "digest": str(descriptor.digest),
        "size": descriptor.size,
    }
    if descriptor.urls:
        value["urls"] = list(descriptor.urls)
    if descriptor.annotations:
        value["annotations"] = dict(descriptor.annotations)
    if descriptor.platform is not None:
        platform = descriptor.platform
        value["platform"] = {
            key: entry
            for key, entry in (
                ("architecture", platform.architecture),
                ("os", platform.os),
                ("os.version", platform.os_version),
                ("os.features", list(platform.os_features)),
                ("variant", platform.variant),
            )
            if entry
        }
    if descriptor.artifact_type:
        value["artifactType"] = descriptor.artifact_type
    return value


def _malformed(what: str, why: str) -> NoReturn:
    raise InvalidArgumentError(f"malformed {what}: {why}")


def _object(data: bytes, what: str) -> dict[str, Any]:
    if len(data) > MAX_DOCUMENT_BYTES:
        _malformed(what, f"{len(data)} bytes are more than the {MAX_DOCUMENT_BYTES} that are read")
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise InvalidArgumentError(f"malformed {what}: {error}") from error
    if not isinstance(document, dict):
        _malformed(what, "expected a JSON object")
    return document


def _list(document: Mapping[str, Any], key: str) -> list[Any]:
    value = document.get(key)
    if value is None:
        return []
    if not isinstance(value, list):
        _malformed(key, "expected a list")
    return value


def _list_of_text(document: Mapping[str, Any], key: str) -> list[str]:
    values = _list(document, key)
    if not all(isinstance(value, str) for value in values):
        _malformed(key, "expected a list of strings")
    return values


def _text(document: Mapping[str, Any], key: str) -> str:
    value = document.get(key)
    if value is None:
        return ""
    if not isinstance(value, str):
        _malformed(key, "expected a string")
    return value


def _strings(document: Mapping[str, Any], key: str) -> dict[str, str]:
    value = document.get(key)
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(entry, str) for entry in value.values()):
        _malformed(key, "expected an object of strings")
    return value


def _descriptor(value: Any, where: str) -> Descriptor:
    if not isinstance(value, dict):
        _malformed(where, "expected a descriptor")
    size = value.get("size")
    if not isinstance(size, int) or isinstance(size, bool) or size < 0:
        _malformed(where, "a descriptor needs a size of 0 or more")
    platform = value.get("platform")
    if platform is not None and not isinstance(platform, dict):
        _malformed(where, "platform has to be an object")
    return Descriptor(
        media_type=_text(value, "mediaType"),
        digest=Digest.parse(_text(value, "digest")),
        size=size,
        annotations=_strings(value, "annotations"),
        platform=_platform(platform) if platform else None,
        urls=tuple(_list_of_text(value, "urls")),
        artifact_type=_text(value, "artifactType"),
    )


def _platform(value: Mapping[str, Any]) -> Platform:
    return Platform(
        _text(value, "os"),
        _text(value, "architecture"),
        _text(value, "variant"),
        _text(value, "os.version"),
        tuple(_list_of_text(value, "os.features")),
    )
