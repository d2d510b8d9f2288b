"""Images over the library: archives go in and out through streams, with progress and clear errors."""

from __future__ import annotations

import asyncio
import gzip
import io
import os
from pathlib import Path
from typing import Any

import pytest
from tests.unit.client.daemon import TestDaemon, open_test_daemon
from tests.unit.images.archives import (
    Layout,
    add_image,
    descriptor,
    docker_layout,
    finish_layout,
    oci_layout,
    sha256,
    tar_bytes,
)
from tests.unit.images.test_importer import broken
from tests.unit.images.world import NS

from containerd_hybrid.errors import (
    DigestMismatchError,
    HybridError,
    InvalidArgumentError,
    NotFoundError,
    ResourceExhaustedError,
    UnimplementedError,
)
from containerd_hybrid.model import Digest, Platform, chain_id
from containerd_hybrid.model.descriptor import OCI_MANIFEST
from containerd_hybrid.testing.waiting import until_async
from containerd_hybrid.transfer.api import Progress

LAYER = tar_bytes({"file": b"content", "etc/": b""})
# Larger than the window of a stream, so it has to be granted anew, and not compressible.
LARGE = tar_bytes({"large": os.urandom(20 << 20)})


async def test_an_archive_goes_in_and_is_unpacked(daemon: TestDaemon, tmp_path: Path) -> None:
    path = oci_layout([LAYER, LARGE], "example.com/a:1").write(tmp_path / "a.tar")
    steps: list[Progress] = []
    (image,) = await daemon.client.images.import_archive(path, progress=steps.append)
    assert image.name == "example.com/a:1"
    assert await daemon.client.images.list() == [image]
    chains = [chain_id([Digest.of(LAYER)]), chain_id([Digest.of(LAYER), Digest.of(LARGE)])]
    assert sorted(await daemon.snapshots()) == sorted(map(str, chains))
    assert [step.event for step in steps] == [
        "Importing",
        *("extracting", "extracted") * 2,
        "saved",
        "Completed import",
    ]
    await daemon.world.stores.collector.collect()
    assert sorted(await daemon.snapshots()) == sorted(map(str, chains))
    assert await daemon.world.stores.leases.list(NS) == []


@pytest.mark.parametrize("kind", ["oci", "docker", "gzip"])
async def test_every_kind_of_archive_from_an_open_file(daemon: TestDaemon, kind: str) -> None:
    layout = (
        docker_layout([LAYER], ["a:1"]) if kind == "docker" else oci_layout([LAYER], "docker.io/library/a:1")
    )
    data = gzip.compress(layout.bytes()) if kind == "gzip" else layout.bytes()
    (image,) = await daemon.client.images.import_archive(io.BytesIO(data))
    assert image.name == "docker.io/library/a:1"
    _, config = await daemon.client.images.config(await daemon.client.images.get("a:1"))
    assert config.diff_ids == (Digest.of(LAYER),)


async def test_import_without_unpacking_and_unpacking_later(daemon: TestDaemon, tmp_path: Path) -> None:
    path = oci_layout([LAYER], "a.b/c:1").write(tmp_path / "a.tar")
    await daemon.client.images.import_archive(path, unpack=False)
    assert await daemon.snapshots() == []
    await daemon.client.images.unpack("a.b/c:1")
    await daemon.client.images.unpack("a.b/c:1", snapshotter="native")
    assert await daemon.snapshots() == [str(chain_id([Digest.of(LAYER)]))]
    with pytest.raises(InvalidArgumentError, match="snapshotter not loaded: zfs: use one of native"):
        await daemon.client.images.unpack("a.b/c:1", snapshotter="zfs")


async def test_names_for_the_index_and_for_bare_tags(daemon: TestDaemon, tmp_path: Path) -> None:
    layout = Layout()
    manifest = add_image(layout, [LAYER])
    annotations = {"org.opencontainers.image.ref.name": "v1"}
    finish_layout(layout, [descriptor(manifest, OCI_MANIFEST, annotations=annotations)])
    path = layout.write(tmp_path / "a.tar")
    images = await daemon.client.images.import_archive(path, base_name="quay.io/me/x", name="whole")
    assert {image.name for image in images} == {"quay.io/me/x:v1", "docker.io/library/whole:latest"}


async def test_export_gives_what_was_imported(daemon: TestDaemon, tmp_path: Path) -> None:
    path = oci_layout([LAYER, LARGE], "example.com/a:1").write(tmp_path / "a.tar")
    (before,) = await daemon.client.images.import_archive(path)
    steps: list[Progress] = []
    await daemon.client.images.export_archive(
        ["example.com/a:1"], tmp_path / "out.tar", progress=steps.append
    )
    assert [step.event for step in steps] == ["Exporting", "Completed export"]
    buffer = io.BytesIO()
    await daemon.client.images.export_archive(["example.com/a:1"], buffer)
    assert buffer.getvalue() == (tmp_path / "out.tar").read_bytes()
    async with open_test_daemon(tmp_path / "other") as other:
        (after,) = await other.client.images.import_archive(tmp_path / "out.tar")
        assert (after.name, after.target.digest) == (before.name, before.target.digest)


async def test_an_export_that_fails_leaves_no_file_and_keeps_the_old_one(
    daemon: TestDaemon, tmp_path: Path
) -> None:
    path = oci_layout([LAYER], "a.b/c:1").write(tmp_path / "a.tar")
    (image,) = await daemon.client.images.import_archive(path, unpack=False)
    target = tmp_path / "out" / "out.tar"
    target.parent.mkdir()
    with pytest.raises(
        NotFoundError, match=r"image 'docker.io/library/nope:latest' not found: import it first"
    ):
        await daemon.client.images.export_archive(["nope"], target)
    assert list(target.parent.iterdir()) == []
    target.write_text("old")
    manifest, _ = await daemon.client.images.config(image)
    await daemon.world.stores.content.delete(NS, manifest.layers[0].digest)
    with pytest.raises(NotFoundError, match=str(manifest.layers[0].digest)):
        await daemon.client.images.export_archive([image.name], target)
    assert [file.name for file in target.parent.iterdir()] == ["out.tar"]
    assert target.read_text() == "old"


async def test_tags_and_removal(daemon: TestDaemon, tmp_path: Path) -> None:
    path = oci_layout([LAYER], "docker.io/library/a:1").write(tmp_path / "a.tar")
    await daemon.client.images.import_archive(path)
    tagged = await daemon.client.images.tag("a:1", "b")
    assert tagged.name == "docker.io/library/b:latest"
    await daemon.client.images.remove("a:1")
    assert [image.name for image in await daemon.client.images.list()] == ["docker.io/library/b:latest"]
    assert await daemon.snapshots() != []
    await daemon.client.images.remove("b")
    assert await daemon.world.blobs() == set()
    assert await daemon.snapshots() == []
    with pytest.raises(NotFoundError, match=r"'docker.io/library/b:latest' not found: import it first"):
        await daemon.client.images.remove("b")


async def test_lists_are_filtered_by_the_daemon(daemon: TestDaemon, tmp_path: Path) -> None:
    for name in ("one.io/a:1", "two.io/a:1"):
        await daemon.client.images.import_archive(oci_layout([LAYER], name).write(tmp_path / "a.tar"))
    found = await daemon.client.images.list(['name~="^two"'])
    assert [image.name for image in found] == ["two.io/a:1"]


async def test_an_image_of_another_platform_is_kept_but_not_unpacked(
    daemon: TestDaemon, tmp_path: Path
) -> None:
    other = Platform.parse("linux/s390x")
    path = oci_layout([LAYER], "s.io/a:1", platform=other).write(tmp_path / "a.tar")
    (image,) = await daemon.client.images.import_archive(path)
    assert await daemon.snapshots() == []
    await daemon.client.images.import_archive(path, platform=other)
    assert await daemon.snapshots() != []
    assert (await daemon.client.images.config(image, other))[1].platform == other


# --- what is wrong


@pytest.mark.parametrize(
    ("how", "error"),
    [
        ("flipped byte", InvalidArgumentError),
        ("missing layer", NotFoundError),
        ("truncated", InvalidArgumentError),
        ("index is deep", InvalidArgumentError),
        ("no layout", InvalidArgumentError),
    ],
)
async def test_a_broken_archive_leaves_nothing(
    daemon: TestDaemon, tmp_path: Path, how: str, error: type[HybridError]
) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(broken(oci_layout([LAYER, LARGE], compressed=False), how))
    with pytest.raises(error):
        await daemon.client.images.import_archive(path)
    assert await daemon.world.leftovers() == []
    assert await daemon.snapshots() == []


async def test_an_error_comes_at_once_and_not_after_the_whole_archive(daemon: TestDaemon) -> None:
    class Endless(io.RawIOBase):
        def __init__(self) -> None:
            self.position = 0

        def read(self, size: int = -1) -> bytes:
            self.position += size
            return b"no archive" * (size // 10)

    endless = Endless()
    with pytest.raises(InvalidArgumentError, match="it is no tar archive"):
        await daemon.client.images.import_archive(endless)  # type: ignore[arg-type]
    assert endless.position < 64 << 20


async def test_a_wrong_diff_id_is_found_before_anything_is_visible(
    daemon: TestDaemon, tmp_path: Path
) -> None:
    layout = Layout()
    manifest = add_image(layout, [LAYER])
    for name, data in list(layout.entries.items()):
        if isinstance(data, bytes) and b"diff_ids" in data:
            layout.entries.pop(name)
            wrong = layout.add_blob(data.replace(sha256(LAYER).encode(), sha256(b"else").encode()))
            manifest = layout.add_blob(manifest.replace(sha256(data).encode(), sha256(wrong).encode()))
    name = {"io.containerd.image.name": "a.b/c:1"}
    path = finish_layout(layout, [descriptor(manifest, OCI_MANIFEST, annotations=name)]).write(
        tmp_path / "a.tar"
    )
    with pytest.raises(DigestMismatchError, match=r"wrong diff ID of layer sha256:.*its config says"):
        await daemon.client.images.import_archive(path)
    assert await daemon.world.leftovers() == []
    assert await daemon.snapshots() == []


async def test_a_sender_that_breaks_gets_its_own_error(daemon: TestDaemon) -> None:
    class Broken(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            if self.tell() > 3 << 20:
                raise OSError("the tape is torn")
            return super().read(size)

    archive = Broken(oci_layout([LAYER, LARGE]).bytes())
    with pytest.raises(OSError, match="the tape is torn"):
        await daemon.client.images.import_archive(archive)
    assert await daemon.world.leftovers() == []


async def test_a_cancelled_import_leaves_nothing(daemon: TestDaemon) -> None:
    begun = asyncio.Event()
    loop = asyncio.get_running_loop()

    class Slow(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            loop.call_soon_threadsafe(begun.set)
            return super().read(1 << 16)

    importing = asyncio.ensure_future(
        daemon.client.images.import_archive(Slow(oci_layout([LAYER, LARGE]).bytes()))
    )
    await begun.wait()
    for _ in range(20):
        await asyncio.sleep(0)
    importing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await importing

    async def nothing_is_left() -> bool:
        return await daemon.world.leftovers() == []

    await until_async(nothing_is_left)


async def test_a_receiver_that_fails_gets_its_own_error(daemon: TestDaemon, tmp_path: Path) -> None:
    path = oci_layout([LARGE], "a.b/c:1").write(tmp_path / "a.tar")
    await daemon.client.images.import_archive(path, unpack=False)

    class Full(io.BytesIO):
        def write(self, data: Any) -> int:
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        await daemon.client.images.export_archive(["a.b/c:1"], Full())


async def test_a_progress_function_that_fails_is_the_callers_error(
    daemon: TestDaemon, tmp_path: Path
) -> None:
    path = oci_layout([LAYER], "a.b/c:1").write(tmp_path / "a.tar")

    def fail(step: Progress) -> None:
        raise ValueError(step.event)

    with pytest.raises(ValueError, match="Importing"):
        await daemon.client.images.import_archive(path, progress=fail)


async def test_a_document_larger_than_any_is_not_read(daemon: TestDaemon) -> None:
    archive = io.BytesIO(tar_bytes({"manifest.json": b" " * (9 << 20)}))
    with pytest.raises(ResourceExhaustedError, match=r"manifest.json has 9437184 bytes"):
        await daemon.client.images.import_archive(archive)


async def test_a_daemon_without_the_service_says_what_else_to_do(daemon: TestDaemon, tmp_path: Path) -> None:
    daemon.transport._services.pop("containerd.services.streaming.v1.Streaming")
    path = oci_layout([LAYER]).write(tmp_path / "a.tar")
    with pytest.raises(UnimplementedError, match=r"no transfer service .*ctr image import"):
        await daemon.client.images.import_archive(path)


async def test_many_imports_at_once(daemon: TestDaemon, tmp_path: Path) -> None:
    paths = [
        oci_layout([LAYER, tar_bytes({"n": str(number).encode()})], f"a.b/c:{number}").write(
            tmp_path / f"{number}.tar"
        )
        for number in range(12)
    ]
    await asyncio.gather(*(daemon.client.images.import_archive(path) for path in paths))
    assert len(await daemon.client.images.list()) == 12
    assert len(await daemon.snapshots()) == 13
