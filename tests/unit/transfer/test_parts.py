"""Choosing manifests, sources of blobs, progress, and doing things together."""

from __future__ import annotations

import asyncio

import pytest

from containerd_hybrid.errors import NotFoundError
from containerd_hybrid.model import Descriptor, Digest, Platform, Reference
from containerd_hybrid.model.descriptor import OCI_INDEX, OCI_LAYER_GZIP, OCI_MANIFEST
from containerd_hybrid.model.manifest import Index
from containerd_hybrid.transfer.api import Progress
from containerd_hybrid.transfer.progress import TransferProgress, ref_key
from containerd_hybrid.transfer.selection import wanted_manifests
from containerd_hybrid.transfer.sources import mount_candidates
from containerd_hybrid.workers import together


def index(*platforms: str | None) -> Index:
    return Index(
        OCI_INDEX,
        tuple(
            Descriptor(OCI_MANIFEST, Digest.of(bytes([n])), n, platform=Platform.parse(p) if p else None)
            for n, p in enumerate(platforms)
        ),
    )


@pytest.mark.parametrize(
    ("offered", "wanted", "limit", "chosen"),
    [
        (["linux/amd64", "linux/arm64"], ["linux/arm64"], 0, [1]),
        (["linux/arm/v6", "linux/arm/v7"], ["linux/arm/v7"], 0, [1]),
        (["linux/arm/v6", "linux/arm/v5"], ["linux/arm/v7"], 0, [0]),
        (["linux/amd64", "linux/arm64", "linux/386"], ["linux/386", "linux/amd64"], 0, [0, 2]),
        (["linux/amd64", None], ["linux/amd64"], 0, [0, 1]),
        (["linux/amd64", None, "linux/s390x"], [], 0, [0, 1, 2]),
        (["linux/amd64", "linux/amd64"], ["linux/amd64"], 1, [0]),
        ([], [], 0, []),
    ],
)
def test_the_manifests_of_a_platform(
    offered: list[str | None], wanted: list[str], limit: int, chosen: list[int]
) -> None:
    found = wanted_manifests(index(*offered), [Platform.parse(text) for text in wanted], limit)
    assert [entry.size for entry in found] == chosen


def test_no_manifest_of_a_platform() -> None:
    with pytest.raises(NotFoundError, match="no match for platform linux/amd64 in NAME"):
        wanted_manifests(index("linux/s390x"), [Platform("linux", "amd64")], 0, "NAME")


def test_neighbours_with_most_in_common_first() -> None:
    labels = {
        "containerd.io/distribution.source.r.example": "a/b,team/app,team/base,team/app/sub,other",
        "containerd.io/distribution.source.q.example": "team/far",
    }
    found = mount_candidates(labels, Reference.parse("r.example:5000/team/app:1"))
    assert list(found) == ["team/app/sub", "team/base"]
    assert mount_candidates({}, Reference.parse("r.example/x")) == []


def test_progress_does_not_flood() -> None:
    now = 0.0
    told: list[Progress] = []
    progress = TransferProgress(told.append, "root", "downloading", lambda: now)
    blob = Descriptor(OCI_LAYER_GZIP, Digest.of(b""), 100)
    progress.waiting(blob)
    now = 1.0
    for count in range(50):
        progress.moved(blob, count)
    now = 2.0
    progress.moved(blob, 99)
    progress.complete(blob)
    assert [(step.event, step.progress) for step in told] == [
        ("waiting", 0),
        ("downloading", 0),
        ("downloading", 99),
        ("complete", 100),
    ]
    progress.extracting(Descriptor("x", Digest.of(b"unknown"), 1))
    assert len(told) == 4


@pytest.mark.parametrize(
    ("media_type", "kind"),
    [
        (OCI_MANIFEST, "manifest"),
        (OCI_INDEX, "index"),
        (OCI_LAYER_GZIP, "layer"),
        ("application/vnd.in-toto+json", "attestation"),
        ("application/vnd.x", "unknown"),
    ],
)
def test_names_of_ingests(media_type: str, kind: str) -> None:
    digest = Digest.of(b"")
    assert ref_key(Descriptor(media_type, digest, 0)) == f"{kind}-{digest}"
    named = Descriptor(media_type, digest, 0, {"org.opencontainers.image.ref.name": "1"})
    assert ref_key(named) == f"{kind}-1@{digest}"


async def test_the_first_failure_ends_the_others() -> None:
    ended = []

    async def waits() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            ended.append(1)

    async def fails() -> None:
        await asyncio.sleep(0)
        raise NotFoundError("this one")

    with pytest.raises(NotFoundError, match="this one"):
        await together([waits(), fails(), waits()])
    assert ended == [1, 1]
    await together([])


async def test_cancelled_together() -> None:
    ended = []

    async def waits() -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            await asyncio.sleep(0.01)
            ended.append(1)
            raise

    task = asyncio.ensure_future(together([waits(), waits()]))
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended == [1, 1], "waited for"
