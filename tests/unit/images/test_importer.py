"""Archives become blobs, labels and image records, or an error that names what is wrong and nothing else."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from tests.unit.images.archives import (
    Layout,
    add_image,
    descriptor,
    docker_layout,
    finish_layout,
    index,
    oci_layout,
    sha256,
    tar_bytes,
)
from tests.unit.images.world import NS, BytesSource, ImageWorld, open_image_world

from containerd_hybrid.errors import HybridError, InvalidArgumentError, NotFoundError, ResourceExhaustedError
from containerd_hybrid.images.api import Image, ImportOptions, ReferenceRule
from containerd_hybrid.model import Platform, Scope
from containerd_hybrid.model.descriptor import DOCKER_LAYER, DOCKER_LAYER_GZIP, OCI_INDEX, OCI_MANIFEST
from containerd_hybrid.model.manifest import Manifest, parse_manifest_or_index

LAYER = tar_bytes({"file": b"content"})
OTHER = tar_bytes({"other": b"x" * 10_000})
AMD, ARM, S390 = (Platform.parse(f"linux/{name}") for name in ("amd64", "arm64", "s390x"))
NAME = "io.containerd.image.name"
BY_ARCHIVE = ImportOptions(references=(ReferenceRule("import", is_prefix=True, allow_overwrite=True),))


async def load(
    world: ImageWorld,
    data: bytes,
    options: ImportOptions = BY_ARCHIVE,
    platforms: tuple[Platform, ...] = (),
    *,
    compress: bool = False,
) -> dict[str, Image]:
    async with world.leased() as scope:
        imported = await world.importer.read(scope, BytesSource(data), platforms, compress=compress)
        return {image.name: image for image in await world.importer.store(scope, imported, options)}


async def manifest_of(world: ImageWorld, image: Image) -> Manifest:
    data = await world.stores.content.read_at(NS, image.target.digest, 0, 1 << 20)
    document = parse_manifest_or_index(data, image.target.media_type)
    assert isinstance(document, Manifest)
    return document


async def test_an_oci_layout_becomes_an_image(world: ImageWorld) -> None:
    layout = oci_layout([LAYER, OTHER], "example.com/a/b:1")
    images = await load(world, layout.bytes())
    assert list(images) == ["example.com/a/b:1"]
    stored = await world.images.get(NS, "example.com/a/b:1")
    assert stored.target.media_type == OCI_MANIFEST
    manifest = await manifest_of(world, stored)
    assert len(manifest.layers) == 2
    blobs = {f"sha256:{name.rpartition('/')[2]}" for name in layout.entries if name.startswith("blobs/")}
    assert blobs <= await world.blobs()


async def test_everything_an_image_needs_outlives_the_collector(world: ImageWorld) -> None:
    layout = oci_layout([LAYER, OTHER])
    await load(world, layout.bytes())
    await world.stores.collector.collect()
    blobs = {f"sha256:{name.rpartition('/')[2]}" for name in layout.entries if name.startswith("blobs/")}
    assert await world.blobs() == blobs
    assert not await world.stores.content.list_ingests(NS)
    assert not await world.stores.leases.list(NS)


async def test_the_labels_are_those_of_containerd(world: ImageWorld) -> None:
    layout = Layout()
    manifest = add_image(layout, [LAYER, OTHER])
    inner = layout.add_blob(index([descriptor(manifest, OCI_MANIFEST)]))
    finish_layout(layout, [descriptor(inner, OCI_INDEX, annotations={NAME: "a:1"})])
    await load(world, layout.bytes())
    assert await world.labels(sha256(inner)) == {"containerd.io/gc.ref.content.m.0": sha256(manifest)}
    document = json.loads(manifest)
    assert await world.labels(sha256(manifest)) == {
        "containerd.io/gc.ref.content.config": document["config"]["digest"],
        "containerd.io/gc.ref.content.l.0": document["layers"][0]["digest"],
        "containerd.io/gc.ref.content.l.1": document["layers"][1]["digest"],
    }


@pytest.mark.parametrize("compressed", [False, True])
async def test_a_docker_archive_becomes_images(world: ImageWorld, compressed: bool) -> None:
    layout = docker_layout([LAYER, OTHER, LAYER], ["test/image:1", "quay.io/other:2"], Env=["A=b"])
    data = gzip.compress(layout.bytes()) if compressed else layout.bytes()
    images = await load(world, data)
    assert sorted(images) == ["docker.io/test/image:1", "quay.io/other:2"]
    assert images["docker.io/test/image:1"].target.digest == images["quay.io/other:2"].target.digest
    manifest = await manifest_of(world, images["quay.io/other:2"])
    assert [str(layer.digest) for layer in manifest.layers] == [sha256(LAYER), sha256(OTHER), sha256(LAYER)]
    assert {layer.media_type for layer in manifest.layers} == {DOCKER_LAYER}


async def test_layers_of_a_docker_archive_have_the_type_that_their_bytes_have(world: ImageWorld) -> None:
    layout = docker_layout([LAYER])
    name = next(name for name in layout.entries if name.endswith("layer.tar"))
    layout.entries[name] = gzip.compress(LAYER)
    images = await load(world, layout.bytes())
    manifest = await manifest_of(world, images["docker.io/test/image:1"])
    assert manifest.layers[0].media_type == DOCKER_LAYER_GZIP


async def test_layers_of_a_docker_archive_can_be_compressed(world: ImageWorld) -> None:
    layout = docker_layout([LAYER, OTHER, LAYER])
    images = await load(world, layout.bytes(), compress=True)
    await world.stores.collector.collect()
    manifest = await manifest_of(world, images["docker.io/test/image:1"])
    assert {layer.media_type for layer in manifest.layers} == {DOCKER_LAYER_GZIP}
    assert manifest.layers[0] == manifest.layers[2]
    for layer, plain in zip(manifest.layers, (LAYER, OTHER, LAYER), strict=True):
        stored = await world.stores.content.read_at(NS, layer.digest, 0, 1 << 20)
        assert (gzip.decompress(stored), len(stored)) == (plain, layer.size)
        assert await world.labels(str(layer.digest)) == {"containerd.io/uncompressed": sha256(plain)}
    assert not {sha256(LAYER), sha256(OTHER)} & await world.blobs()  # what no image has is collected


async def test_a_docker_archive_shares_the_compressed_layers_that_are_here(world: ImageWorld) -> None:
    layout = docker_layout([LAYER, OTHER])
    first = await load(world, layout.bytes(), compress=True)
    again = await load(world, docker_layout([LAYER, OTHER], ["other:2"]).bytes())
    await world.stores.collector.collect()
    one = await manifest_of(world, first["docker.io/test/image:1"])
    other = await manifest_of(world, again["docker.io/library/other:2"])
    assert one.layers == other.layers


async def test_compressed_layers_and_those_of_an_oci_layout_stay_as_they_are(world: ImageWorld) -> None:
    docker = docker_layout([LAYER])
    name = next(name for name in docker.entries if name.endswith("layer.tar"))
    packed = docker.entries[name] = gzip.compress(LAYER)
    oci = oci_layout([OTHER], "docker.io/oci:1", compressed=False)
    images = await load(world, docker.bytes(), compress=True)
    images |= await load(world, oci.bytes(), compress=True)
    found = [(await manifest_of(world, image)).layers[0].digest for image in images.values()]
    assert [str(digest) for digest in found] == [sha256(packed), sha256(OTHER)]


async def test_links_to_links_and_links_before_their_targets(world: ImageWorld) -> None:
    layout = docker_layout([LAYER])
    name = next(name for name in layout.entries if name.endswith("layer.tar"))
    content = layout.entries.pop(name)
    layout.entries = {name: "../one", "one": "two", "two": "real", **layout.entries, "real": content}
    images = await load(world, layout.bytes())
    manifest = await manifest_of(world, images["docker.io/test/image:1"])
    assert str(manifest.layers[0].digest) == sha256(LAYER)


async def test_links_in_a_circle_and_out_of_the_archive_are_missing_files(world: ImageWorld) -> None:
    for target in ("other", "/etc/passwd", "../../../etc/passwd"):
        layout = docker_layout([LAYER])
        name = next(name for name in layout.entries if name.endswith("layer.tar"))
        layout.entries |= {name: "../other", "other": target}
        with pytest.raises(NotFoundError, match=r"layer '.*layer.tar' is not in the archive"):
            await load(world, layout.bytes())
    assert await world.leftovers() == []


async def test_importing_twice_writes_nothing_again(
    world: ImageWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = oci_layout([LAYER, OTHER]).bytes()
    await load(world, data)
    before = await world.blobs()
    written = 0
    open_ingest = world.stores.content.open_ingest

    async def counting(*args: Any) -> Any:
        nonlocal written
        ingest = await open_ingest(*args)
        write = ingest.write

        async def count(piece: bytes, offset: int | None = None) -> int:
            nonlocal written
            written += len(piece)
            return await write(piece, offset)

        monkeypatch.setattr(ingest, "write", count)
        return ingest

    monkeypatch.setattr(world.stores.content, "open_ingest", counting)
    await load(world, data)
    assert await world.blobs() == before
    assert written == len(json.dumps(json.loads(oci_layout([LAYER, OTHER]).entries["index.json"])))


async def test_another_namespace_has_the_bytes_without_writing_them(world: ImageWorld) -> None:
    data = oci_layout([LAYER]).bytes()
    await load(world, data)
    other = Scope("other")
    lease = await world.stores.leases.create(other, "held")
    scope = Scope("other", lease.id)
    imported = await world.importer.read(scope, BytesSource(data))
    await world.importer.store(scope, imported, BY_ARCHIVE)
    assert (await world.images.get(other, "example.com/test/image:1")).target == imported.manifests[0]


# --- names


async def test_a_bare_tag_gets_the_prefix_and_a_full_name_stays(world: ImageWorld) -> None:
    for ref, expected in (("v1", "base:v1"), ("docker.io/x/y:2", "docker.io/x/y:2")):
        layout = Layout()
        manifest = add_image(layout, [LAYER])
        annotations = {"org.opencontainers.image.ref.name": ref}
        finish_layout(layout, [descriptor(manifest, OCI_MANIFEST, annotations=annotations)])
        rules = (ReferenceRule("base", is_prefix=True, allow_overwrite=True),)
        assert list(await load(world, layout.bytes(), ImportOptions(references=rules))) == [expected]


async def test_a_prefix_filters_full_names_unless_it_may_be_overwritten(world: ImageWorld) -> None:
    layout = Layout()
    one, two = add_image(layout, [LAYER]), add_image(layout, [OTHER])
    entries = [
        descriptor(one, OCI_MANIFEST, annotations={"org.opencontainers.image.ref.name": "a/b:1"}),
        descriptor(two, OCI_MANIFEST, annotations={"org.opencontainers.image.ref.name": "a/bc:1"}),
    ]
    finish_layout(layout, entries)
    rules = (ReferenceRule("a/b", is_prefix=True),)
    assert list(await load(world, layout.bytes(), ImportOptions(references=rules))) == ["a/b:1"]


async def test_digest_names(world: ImageWorld) -> None:
    layout = Layout()
    manifest = add_image(layout, [LAYER])
    finish_layout(layout, [descriptor(manifest, OCI_MANIFEST)])
    rules = (ReferenceRule("base", is_prefix=True, add_digest=True),)
    images = await load(world, layout.bytes(), ImportOptions(references=rules))
    index = sha256(layout.entries["index.json"])
    assert {name: str(image.target.digest) for name, image in images.items()} == {
        f"base@{index}": index,
        f"base@{sha256(manifest)}": sha256(manifest),
    }


async def test_names_beside_that_of_the_index_go_with_it(world: ImageWorld) -> None:
    layout = oci_layout([LAYER], "example.com/a:1")
    images = await load(
        world, layout.bytes(), ImportOptions("whole:1", BY_ARCHIVE.references, {"colour": "blue"})
    )
    assert sorted(images) == ["example.com/a:1", "whole:1"]
    assert dict(images["whole:1"].labels) == {"colour": "blue"}
    labels = images["example.com/a:1"].labels
    assert (labels["colour"], labels["containerd.io/gc.bref.image"]) == ("blue", "whole:1")
    await world.stores.collector.collect()
    assert {image.name for image in await world.images.list(NS)} == {"example.com/a:1", "whole:1"}
    await world.images.delete(NS, "whole:1")
    assert await world.leftovers() == []


async def test_an_archive_without_names_says_that_one_is_needed(world: ImageWorld) -> None:
    layout = Layout()
    finish_layout(layout, [descriptor(add_image(layout, [LAYER]), OCI_MANIFEST)])
    with pytest.raises(NotFoundError, match="no image name found: the archive has none, give one"):
        await load(world, layout.bytes())
    assert await world.leftovers() == []


async def test_a_name_moves_to_the_new_image_and_has_its_labels_only(world: ImageWorld) -> None:
    await load(
        world, oci_layout([LAYER], "a:1").bytes(), ImportOptions("", BY_ARCHIVE.references, {"k": "v"})
    )
    images = await load(world, oci_layout([OTHER], "a:1").bytes())
    assert dict(images["a:1"].labels) == {}
    assert (await manifest_of(world, images["a:1"])).layers[0].size == len(gzip.compress(OTHER, 1, mtime=0))


async def test_a_base_name_takes_only_the_names_that_begin_with_it(world: ImageWorld) -> None:
    rules = (ReferenceRule("example.com/base", is_prefix=True, add_digest=True),)
    layout = oci_layout([LAYER], "docker.io/library/a:1")
    images = await load(world, layout.bytes(), ImportOptions("", rules))
    assert len(images) == 2
    assert all(name.startswith("example.com/base@sha256:") for name in images)


# --- platforms


def several(layout: Layout, *platforms: Platform) -> list[dict[str, Any]]:
    return [
        descriptor(
            add_image(layout, [LAYER], platform=platform),
            OCI_MANIFEST,
            platform={"os": platform.os, "architecture": platform.architecture},
        )
        for platform in platforms
    ]


async def test_only_the_wanted_platform_has_to_be_whole(world: ImageWorld) -> None:
    layout = Layout()
    entries = several(layout, AMD, ARM)
    layout.entries.pop(f"blobs/sha256/{entries[1]['digest'][7:]}")
    inner = layout.add_blob(index(entries))
    finish_layout(layout, [descriptor(inner, OCI_INDEX, annotations={NAME: "multi:1"})])
    images = await load(world, layout.bytes(), platforms=(AMD,))
    await world.stores.collector.collect()
    assert {sha256(inner), entries[0]["digest"]} <= await world.blobs()
    assert await world.importer.serves(NS, images["multi:1"].target, AMD)
    assert not await world.importer.serves(NS, images["multi:1"].target, S390)
    # Without a wish, what the archive holds is taken: it is what exporters of one platform write.
    assert list(await load(world, layout.bytes())) == ["multi:1"]
    with pytest.raises(NotFoundError, match=f"manifest.* {entries[1]['digest']} of .* is missing"):
        await load_directly(world, entries, layout)


async def load_directly(world: ImageWorld, entries: list[dict[str, Any]], layout: Layout) -> None:
    """The same manifests named directly: each of them is an image then, and has to be there."""
    for number, entry in enumerate(entries):
        entry["annotations"] = {NAME: f"direct:{number}"}
    finish_layout(layout, entries)
    await load(world, layout.bytes())


async def test_of_a_platform_the_best_is_kept_whole_and_what_describes_the_others(world: ImageWorld) -> None:
    layout = Layout()
    entries = several(layout, ARM, Platform.parse("linux/arm/v7"), AMD)
    inner = layout.add_blob(index(entries))
    finish_layout(layout, [descriptor(inner, OCI_INDEX, annotations={NAME: "multi:1"})])
    await load(world, layout.bytes(), platforms=(ARM,))
    await world.stores.collector.collect()
    digests = [entry["digest"] for entry in entries]
    labels = {f"containerd.io/gc.ref.content.m.{n}": digest for n, digest in enumerate(digests)}
    assert await world.labels(sha256(inner)) == labels
    assert set(digests) <= await world.blobs()
    has_config = [bool(await world.labels(digest)) for digest in digests]
    assert has_config == [True, False, False]


async def test_a_platform_that_the_archive_has_not_is_told(world: ImageWorld) -> None:
    layout = Layout()
    finish_layout(layout, several(layout, AMD, ARM))
    with pytest.raises(NotFoundError, match="the archive has no image for linux/s390x"):
        await load(world, layout.bytes(), platforms=(S390,))
    assert await world.leftovers() == []


async def test_an_image_without_a_processor_serves_any(world: ImageWorld) -> None:
    layout = oci_layout([LAYER], "data:1", platform=Platform("", ""))
    images = await load(world, layout.bytes())
    assert await world.importer.serves(NS, images["data:1"].target, S390)


# --- what is wrong


def flip(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


def broken(layout: Layout, how: str) -> bytes:
    entries = layout.entries
    blobs = {name: data for name, data in entries.items() if name.startswith("blobs/")}
    largest = max(blobs, key=lambda name: len(blobs[name]))
    match how:
        case "flipped byte":
            entries[largest] = flip(blobs[largest])
        case "missing layer":
            entries.pop(largest)
        case "missing manifest":
            entries.pop(next(name for name in blobs if b'"layers": [' in blobs[name]))
        case "truncated":
            return layout.bytes()[:-20_000]
        case _:
            name, content = REPLACED[how]
            entries[name] = content
            if not content:
                entries.pop(name)
    return layout.bytes()


REPLACED = {
    "missing index": ("index.json", b""),
    "no layout": ("oci-layout", b""),
    "other version": ("oci-layout", b'{"imageLayoutVersion": "2.0.0"}'),
    "layout is a list": ("oci-layout", b"[]"),
    "index is text": ("index.json", b"index"),
    "index is deep": ("index.json", b"[" * 100_000),
    "index is a manifest": ("index.json", b'{"manifests": [], "layers": []}'),
    "empty index": ("index.json", index([])),
    "blob without a digest": ("blobs/sha256/abc", b"x"),
}


@pytest.mark.parametrize(
    ("how", "error", "message"),
    [
        ("flipped byte", InvalidArgumentError, "damaged archive: blobs/sha256/[0-9a-f]+ has digest sha256:"),
        ("missing layer", NotFoundError, "layer.v1.tar sha256:.* of sha256:.* is missing"),
        ("missing manifest", NotFoundError, r"manifest.v1\+json sha256:.* is missing"),
        ("missing index", NotFoundError, "index of the OCI layout 'index.json' is not in the archive"),
        ("no layout", InvalidArgumentError, "unrecognized image format: the archive has neither"),
        ("other version", InvalidArgumentError, "unsupported OCI layout version '2.0.0': expected 1.0.0"),
        ("layout is a list", InvalidArgumentError, "malformed oci-layout: expected a JSON object"),
        ("index is text", InvalidArgumentError, "malformed"),
        ("index is deep", InvalidArgumentError, "malformed"),
        ("index is a manifest", InvalidArgumentError, "ambiguous"),
        ("empty index", NotFoundError, "the archive has no image for any platform"),
        ("blob without a digest", InvalidArgumentError, "blobs/sha256/abc is not named after a digest"),
        ("truncated", InvalidArgumentError, "cut short"),
    ],
)
async def test_a_broken_archive_is_an_error_that_says_what_and_leaves_nothing(
    world: ImageWorld, how: str, error: type[HybridError], message: str
) -> None:
    data = broken(oci_layout([LAYER, OTHER], compressed=False), how)
    with pytest.raises(error, match=message):
        await load(world, data)
    assert await world.leftovers() == []


@pytest.mark.parametrize(
    ("manifest", "message"),
    [
        (b"[", "malformed manifest.json"),
        (b"{}", "no image|empty"),
        (b"[1]", "malformed manifest.json"),
        (b'[{"Config": "x"}]', "malformed manifest.json"),
        (b'[{"Config": "x", "Layers": 1, "RepoTags": []}]', "malformed manifest.json"),
        (b'[{"Config": "x", "Layers": [], "RepoTags": []}]', "image config 'x' is not in the archive"),
    ],
)
async def test_a_broken_docker_manifest_is_an_error(world: ImageWorld, manifest: bytes, message: str) -> None:
    with pytest.raises(HybridError, match=message):
        await load(world, tar_bytes({"manifest.json": manifest}))
    assert await world.leftovers() == []


async def test_a_document_that_no_archive_needs_is_refused_before_it_is_read(world: ImageWorld) -> None:
    for name in ("manifest.json", "index.json", "oci-layout"):
        with pytest.raises(ResourceExhaustedError, match=f"{name} has 9437184 bytes"):
            await load(world, tar_bytes({name: b" " * (9 << 20)}))
    assert await world.leftovers() == []


async def test_a_blob_of_another_size_than_the_one_that_is_here_is_damage(world: ImageWorld) -> None:
    await load(world, oci_layout([LAYER], "a:1").bytes())
    layout = oci_layout([LAYER], "a:1")
    name = next(name for name in layout.entries if name.startswith("blobs/"))
    layout.entries[name] += b"more"  # type: ignore[operator]
    with pytest.raises(InvalidArgumentError, match=f"damaged archive: {name} has"):
        await load(world, layout.bytes())


async def test_indexes_in_indexes_end_somewhere(world: ImageWorld) -> None:
    layout = Layout()
    inner = add_image(layout, [LAYER])
    entry = descriptor(inner, OCI_MANIFEST)
    for _ in range(20):
        entry = descriptor(layout.add_blob(index([entry])), OCI_INDEX)
    entry["annotations"] = {NAME: "deep:1"}
    finish_layout(layout, [entry])
    with pytest.raises(InvalidArgumentError, match="nested more than 8 deep"):
        await load(world, layout.bytes())
    assert await world.leftovers() == []


async def test_a_failing_write_leaves_nothing(world: ImageWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        def __init__(self, ingest: Any) -> None:
            self._ingest = ingest

        def __getattr__(self, name: str) -> Any:
            return getattr(self._ingest, name)

        async def write(self, data: bytes) -> int:
            raise ResourceExhaustedError("no space left on device")

    open_ingest = world.stores.content.open_ingest

    async def full(*args: Any) -> Any:
        return Full(await open_ingest(*args))

    monkeypatch.setattr(world.stores.content, "open_ingest", full)
    with pytest.raises(ResourceExhaustedError, match="no space left"):
        await load(world, oci_layout([LAYER]).bytes())
    monkeypatch.undo()
    assert await world.leftovers() == []


async def test_records_of_a_store_that_is_opened_again_are_there(tmp_path: Path) -> None:
    async with open_image_world(tmp_path / "s") as world:
        await load(world, oci_layout([LAYER], "a:1").bytes())
    async with open_image_world(tmp_path / "s") as world:
        await world.stores.collector.collect()
        assert [image.name for image in await world.images.list(NS)] == ["a:1"]
        assert len(await world.blobs()) == 3
