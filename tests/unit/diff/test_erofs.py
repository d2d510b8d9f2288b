"""Layers piped into ``mkfs.erofs``: a program in its place writes down what it was given."""

from __future__ import annotations

import gzip
import json
import os
import stat
import sys
import uuid
from pathlib import Path
from typing import Any

import pytest

from containerd_hybrid.diff.api import DiffOptions
from containerd_hybrid.diff.erofs import ErofsDiffer, check_program
from containerd_hybrid.errors import (
    DigestMismatchError,
    FailedPreconditionError,
    UnimplementedError,
    UnknownError,
)
from containerd_hybrid.model import Descriptor, Digest, Mount, Scope
from containerd_hybrid.model.descriptor import OCI_LAYER, OCI_LAYER_GZIP

NS = Scope("default")
TAR = os.urandom(3 << 20)
_PROGRAM = """#!{python}
import hashlib, json, os, sys
if "--help" in sys.argv:
    print(" --tar=X" if os.environ.get("WITH_TAR", "1") == "1" else "old")
    sys.exit(0)
if "fail" in os.environ.get("MKFS_DOES", ""):
    print("no such luck")
    sys.exit(3)
data = sys.stdin.buffer.read(1000 if "early" in os.environ.get("MKFS_DOES", "") else -1)
with open(sys.argv[-1], "w") as image:
    json.dump({{"arguments": sys.argv[1:-1], "input": hashlib.sha256(data).hexdigest()}}, image)
"""


class _Blobs:
    """As much of a content store as applying needs."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir()

    def add(self, data: bytes, media_type: str) -> Descriptor:
        digest = Digest.of(data)
        (self._folder / digest.hex).write_bytes(data)
        return Descriptor(media_type, digest, len(data))

    async def open_blob(self, scope: Scope, digest: Digest) -> int:
        return os.open(self._folder / digest.hex, os.O_RDONLY)


class _Comparer:
    async def compare(self, *arguments: Any) -> Descriptor:
        return Descriptor("compared", Digest.of(b""), 0)


@pytest.fixture(autouse=True)
def _program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "bin" / "mkfs.erofs"
    program.parent.mkdir()
    program.write_text(_PROGRAM.format(python=sys.executable))
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")


@pytest.fixture
def blobs(tmp_path: Path) -> _Blobs:
    return _Blobs(tmp_path / "blobs")


@pytest.fixture
def snapshot(tmp_path: Path) -> Path:
    folder = tmp_path / "snapshot"
    (folder / "fs").mkdir(parents=True)
    (folder / ".erofslayer").touch()
    return folder


def _differ(blobs: _Blobs, **settings: Any) -> ErofsDiffer:
    return ErofsDiffer(blobs, _Comparer(), **settings)  # type: ignore[arg-type]


def _bind(snapshot: Path) -> list[Mount]:
    return [Mount("bind", str(snapshot / "fs"), ("rw", "rbind"))]


@pytest.mark.parametrize("does", ["", "early"])
async def test_the_archive_goes_into_the_program(
    blobs: _Blobs, snapshot: Path, monkeypatch: pytest.MonkeyPatch, does: str
) -> None:
    monkeypatch.setenv("MKFS_DOES", does)
    layer = blobs.add(gzip.compress(TAR, 1), OCI_LAYER_GZIP)
    applied = await _differ(blobs, mkfs_options=("-zlz4",)).apply(NS, layer, _bind(snapshot))
    assert applied.descriptor == Descriptor(OCI_LAYER, Digest.of(TAR), len(TAR))
    made = json.loads((snapshot / "layer.erofs").read_text())
    name = str(uuid.uuid5(uuid.NAMESPACE_URL, f"erofs:blobs/{layer.digest}"))
    options = ["--tar=f", "--aufs", "--quiet", "-Enoinline_data", "-b4096", "-zlz4", "-U", name]
    assert made["arguments"] == options
    if not does:
        assert made["input"] == Digest.of(TAR).hex
    assert sorted(path.name for path in snapshot.iterdir()) == [".erofslayer", "fs", "layer.erofs"]


async def test_an_index_is_followed_by_the_archive(blobs: _Blobs, snapshot: Path) -> None:
    layer = blobs.add(TAR, OCI_LAYER)
    await _differ(blobs, tar_index=True, mkfs_options=("-b512",)).apply(NS, layer, _bind(snapshot))
    image = (snapshot / "layer.erofs").read_bytes()
    assert image.endswith(TAR)
    made = json.loads(image[: -len(TAR)])
    assert made["arguments"][:4] == ["--tar=i", "--aufs", "--quiet", "-b512"]
    assert made["input"] == Digest.of(TAR).hex
    assert sorted(path.name for path in snapshot.iterdir()) == [".erofslayer", "fs", "layer.erofs"]


async def test_an_image_of_erofs_is_taken_as_it_is(blobs: _Blobs, snapshot: Path) -> None:
    layer = blobs.add(b"an image", "application/vnd.erofs.layer.v1")
    applied = await _differ(blobs).apply(NS, layer, _bind(snapshot))
    assert applied.descriptor == Descriptor(layer.media_type, layer.digest, 8)
    assert (snapshot / "layer.erofs").read_bytes() == b"an image"
    odd = blobs.add(b"another", "application/vnd.erofs.layer.v1+gzip")
    with pytest.raises(UnimplementedError, match="unsupported erofs layer suffix: gzip"):
        await _differ(blobs).apply(NS, odd, _bind(snapshot))


async def test_a_failure_leaves_nothing_and_says_what_the_program_said(
    blobs: _Blobs, snapshot: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = blobs.add(TAR, OCI_LAYER)
    wrong = Descriptor(OCI_LAYER, layer.digest, 5)
    with pytest.raises(Exception, match=f"layer {layer.digest}"):
        await _differ(blobs).apply(NS, wrong, _bind(snapshot))
    (blobs._folder / Digest.of(b"other").hex).write_bytes(TAR)
    with pytest.raises(DigestMismatchError):
        await _differ(blobs).apply(NS, Descriptor(OCI_LAYER, Digest.of(b"other"), 0), _bind(snapshot))
    monkeypatch.setenv("MKFS_DOES", "fail")
    for index in (False, True):
        with pytest.raises(UnknownError, match="status 3: no such luck"):
            await _differ(blobs, tar_index=index).apply(NS, layer, _bind(snapshot))
    assert sorted(path.name for path in snapshot.iterdir()) == [".erofslayer", "fs"]


async def test_other_snapshots_are_for_other_differs(blobs: _Blobs, snapshot: Path, tmp_path: Path) -> None:
    layer = blobs.add(TAR, OCI_LAYER)
    (tmp_path / "plain").mkdir()
    for mounts in (
        [],
        [Mount("bind", str(tmp_path / "plain" / "fs"))],
        [Mount("overlay", "overlay", (f"upperdir={tmp_path}/plain/fs", "lowerdir=/x"))],
        [Mount("btrfs", "/dev/vda")],
    ):
        with pytest.raises(UnimplementedError):
            await _differ(blobs).apply(NS, layer, mounts)
        with pytest.raises(UnimplementedError):
            await _differ(blobs).compare(NS, [], mounts, DiffOptions())
    with pytest.raises(FailedPreconditionError, match="whole blobs only"):
        await _differ(blobs).apply(NS, layer, _bind(snapshot), growing=object())
    with pytest.raises(UnimplementedError, match="unsupported media type"):
        await _differ(blobs).apply(NS, blobs.add(b"x", "text/plain"), _bind(snapshot))


@pytest.mark.parametrize(
    "mounts",
    [
        lambda here: [Mount("mkfs/ext4", f"{here}/rwlayer.img"), Mount("format/mkdir/bind", "{{ mount 0 }}")],
        lambda here: [
            Mount("erofs", "/below/layer.erofs"),
            Mount("format/mkdir/overlay", "overlay", (f"upperdir={here}/fs", "lowerdir={{ mount 0 }}")),
        ],
        lambda here: [
            Mount("erofs", f"{here}/layer.erofs"),
            Mount("format/overlay", "overlay", ("lowerdir={{ mount 0 }}",)),
        ],
        lambda here: [Mount("erofs", f"{here}/layer.erofs", ("ro", "loop"))],
    ],
)
async def test_a_snapshot_is_found_behind_its_mounts(blobs: _Blobs, snapshot: Path, mounts: Any) -> None:
    made = await _differ(blobs).compare(NS, [], mounts(snapshot), DiffOptions())
    assert made.media_type == "compared"


def test_a_program_that_reads_no_tar_is_said_to(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    check_program()
    monkeypatch.setenv("WITH_TAR", "0")
    with pytest.raises(UnimplementedError, match=r"does not support tar mode \(--tar option\)"):
        check_program()
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UnimplementedError, match="install erofs-utils"):
        check_program()
