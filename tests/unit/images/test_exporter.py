"""What is exported can be imported again, here and by others, and is the same each time."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest
from tests.unit.images.archives import (
    Layout,
    add_image,
    descriptor,
    finish_layout,
    index,
    oci_layout,
    tar_bytes,
)
from tests.unit.images.test_importer import AMD, ARM, LAYER, NAME, OTHER, load, several
from tests.unit.images.world import NS, ImageWorld, open_image_world

from containerd_hybrid.errors import InvalidArgumentError, NotFoundError
from containerd_hybrid.images.api import Image
from containerd_hybrid.model import Digest, Platform
from containerd_hybrid.model.descriptor import OCI_INDEX, OCI_MANIFEST


async def export(
    world: ImageWorld, *names: str, platforms: tuple[Platform, ...] = (), **choices: bool
) -> bytes:
    pieces = world.exporter.export_archive(NS, names, platforms, **choices)
    return b"".join([piece async for piece in pieces])


def entries(archive: bytes) -> dict[str, bytes]:
    found = {}
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        for member in tar:
            file = tar.extractfile(member)
            if file is not None:
                found[member.name] = file.read()
    return found


async def test_what_is_exported_is_imported_as_the_same_image(world: ImageWorld, tmp_path: Path) -> None:
    await load(world, oci_layout([LAYER, OTHER], "example.com/a:1").bytes())
    archive = await export(world, "example.com/a:1")
    async with open_image_world(tmp_path / "other") as other:
        images = await load(other, archive)
        assert list(images) == ["example.com/a:1"]
        original = await world.images.get(NS, "example.com/a:1")
        assert images["example.com/a:1"].target.digest == original.target.digest
        for stores in (world.stores, other.stores):
            await stores.collector.collect()
        assert await other.blobs() == await world.blobs()
        assert await export(other, "example.com/a:1") == archive


async def test_the_small_files_come_first_and_docker_finds_its_own(world: ImageWorld) -> None:
    await load(world, oci_layout([LAYER], "docker.io/library/a:1").bytes())
    found = entries(await export(world, "docker.io/library/a:1"))
    assert list(found)[:3] == ["oci-layout", "index.json", "manifest.json"]
    (image,) = json.loads(found["manifest.json"])
    assert image["RepoTags"] == ["a:1"]
    assert image["Config"] in found
    assert set(image["Layers"]) <= set(found)
    for name, data in found.items():
        if name.startswith("blobs/sha256/"):
            assert Digest.of(data).hex == name.rpartition("/")[2]


async def test_two_names_of_one_image_share_its_blobs(world: ImageWorld) -> None:
    images = await load(world, oci_layout([LAYER], "a:1").bytes())
    await world.images.create(NS, Image("b:2", images["a:1"].target))
    found = entries(await export(world, "a:1", "b:2"))
    assert json.loads(found["manifest.json"])[0]["RepoTags"] == ["a:1", "b:2"]
    names = [entry["annotations"][NAME] for entry in json.loads(found["index.json"])["manifests"]]
    assert names == ["a:1", "b:2"]


async def multi(world: ImageWorld) -> list[str]:
    layout = Layout()
    manifests = several(layout, AMD, ARM)
    inner = layout.add_blob(index(manifests))
    finish_layout(layout, [descriptor(inner, OCI_INDEX, annotations={NAME: "multi:1"})])
    await load(world, layout.bytes())
    return [f"blobs/sha256/{entry['digest'][7:]}" for entry in manifests]


async def test_only_the_wanted_platforms_are_exported(world: ImageWorld, tmp_path: Path) -> None:
    amd, arm = await multi(world)
    assert {amd, arm} & set(entries(await export(world, "multi:1", platforms=(ARM,)))) == {arm}
    assert {amd, arm} <= set(entries(await export(world, "multi:1", all_platforms=True)))
    async with open_image_world(tmp_path / "other") as other:
        await load(other, await export(world, "multi:1", platforms=(ARM,)))
        assert await other.importer.serves(NS, (await other.images.get(NS, "multi:1")).target, ARM)


async def test_only_what_serves_a_platform_best_is_exported(world: ImageWorld) -> None:
    layout = Layout()
    one, other = several(layout, ARM, Platform.parse("linux/arm/v7"))
    inner = layout.add_blob(index([one, other]))
    finish_layout(layout, [descriptor(inner, OCI_INDEX, annotations={NAME: "multi:1"})])
    await load(world, layout.bytes())
    exact, compatible = (f"blobs/sha256/{entry['digest'][7:]}" for entry in (one, other))
    assert {exact, compatible} & set(entries(await export(world, "multi:1", platforms=(ARM,)))) == {exact}
    # Where there is nothing better, what an ARMv8 can run as well.
    v8 = Platform.parse("linux/arm/v8")
    assert {exact, compatible} & set(entries(await export(world, "multi:1", platforms=(v8,)))) == {compatible}


async def test_an_archive_need_not_be_for_docker(world: ImageWorld, tmp_path: Path) -> None:
    await load(world, oci_layout([LAYER], "a:1").bytes())
    archive = await export(world, "a:1", skip_docker_manifest=True)
    assert "manifest.json" not in entries(archive)
    async with open_image_world(tmp_path / "other") as other:
        assert list(await load(other, archive)) == ["a:1"]


async def test_what_may_not_be_handed_on_can_be_left_out(world: ImageWorld) -> None:
    layout = Layout()
    manifest = json.loads(add_image(layout, [LAYER, OTHER]))
    manifest["layers"][0]["mediaType"] = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"
    data = layout.add_blob(json.dumps(manifest).encode())
    finish_layout(layout, [descriptor(data, OCI_MANIFEST, annotations={NAME: "a:1"})])
    await load(world, layout.bytes())
    kept, handed_on = (f"blobs/sha256/{layer['digest'][7:]}" for layer in manifest["layers"])
    assert {kept, handed_on} <= set(entries(await export(world, "a:1")))
    found = set(entries(await export(world, "a:1", skip_non_distributable=True)))
    assert {kept, handed_on} & found == {handed_on}


async def test_where_an_image_came_from_goes_with_it(world: ImageWorld) -> None:
    images = await load(world, oci_layout([LAYER], "a:1").bytes())
    key = "containerd.io/distribution.source.example.com"
    digest = images["a:1"].target.digest
    await world.stores.content.update(NS, digest, {key: "lib/a"}, (f"labels.{key}",))
    (entry,) = json.loads(entries(await export(world, "a:1"))["index.json"])["manifests"]
    assert entry["annotations"][key] == "lib/a"


async def test_names_that_docker_cannot_have_are_not_told_to_it(world: ImageWorld) -> None:
    images = await load(world, oci_layout([LAYER], "quay.io/x/a:1").bytes())
    await world.images.create(NS, Image("No Name", images["quay.io/x/a:1"].target))
    found = entries(await export(world, "quay.io/x/a:1", "No Name"))
    assert json.loads(found["manifest.json"])[0]["RepoTags"] == ["quay.io/x/a:1"]


async def test_a_platform_or_blob_that_is_not_here_is_named(world: ImageWorld) -> None:
    amd, _ = await multi(world)
    with pytest.raises(NotFoundError, match="image 'multi:1' has no manifest for linux/s390x"):
        await export(world, "multi:1", platforms=(Platform.parse("linux/s390x"),))
    digest = Digest("sha256", amd.rpartition("/")[2])
    await world.stores.content.delete(NS, digest)
    with pytest.raises(NotFoundError, match=str(digest)):
        await export(world, "multi:1", platforms=(AMD,))
    with pytest.raises(NotFoundError, match="nothing:1"):
        await export(world, "nothing:1")
    with pytest.raises(InvalidArgumentError, match="no image to export"):
        await export(world)


async def test_skopeo_reads_what_is_exported(world: ImageWorld, tmp_path: Path) -> None:
    if shutil.which("skopeo") is None:
        pytest.skip("skopeo is not installed (apt-get install skopeo)")
    await load(world, oci_layout([LAYER, OTHER], "docker.io/library/a:1", Env=["A=b"]).bytes())
    archive = tmp_path / "out.tar"
    archive.write_bytes(await export(world, "docker.io/library/a:1"))
    for source in (f"oci-archive:{archive}", f"docker-archive:{archive}"):
        shown = subprocess.run(
            ["skopeo", "inspect", "--config", source], capture_output=True, text=True, check=True
        )
        assert json.loads(shown.stdout)["config"]["Env"] == ["A=b"]
    subprocess.run(
        ["skopeo", "copy", "-q", f"docker-archive:{archive}", f"oci:{tmp_path / 'layout'}:a"], check=True
    )
    assert (tmp_path / "layout" / "index.json").exists()


@pytest.mark.parametrize("kind", ["oci-archive", "docker-archive"])
async def test_what_skopeo_writes_is_imported(world: ImageWorld, tmp_path: Path, kind: str) -> None:
    if shutil.which("skopeo") is None:
        pytest.skip("skopeo is not installed (apt-get install skopeo)")
    source = oci_layout([LAYER, OTHER], "a:1").write(tmp_path / "in.tar")
    target = tmp_path / "out.tar"
    subprocess.run(
        ["skopeo", "copy", "-q", f"oci-archive:{source}", f"{kind}:{target}:example.com/b:2"], check=True
    )
    images = await load(world, target.read_bytes())
    assert list(images) == ["example.com/b:2"]


async def test_what_umoci_makes_is_imported(world: ImageWorld, tmp_path: Path) -> None:
    if shutil.which("umoci") is None:
        pytest.skip("umoci is not installed (apt-get install umoci)")
    layout = tmp_path / "layout"
    subprocess.run(["umoci", "init", "--layout", layout], check=True)
    subprocess.run(["umoci", "new", "--image", f"{layout}:v1"], check=True)
    (tmp_path / "layer.tar").write_bytes(tar_bytes({"x": b"y"}))
    subprocess.run(
        ["umoci", "raw", "add-layer", "--image", f"{layout}:v1", tmp_path / "layer.tar"], check=True
    )
    subprocess.run(["tar", "-C", layout, "-cf", tmp_path / "out.tar", "."], check=True)
    assert list(await load(world, (tmp_path / "out.tar").read_bytes())) == ["import:v1"]


async def test_a_name_by_digest_is_no_tag_for_docker(world: ImageWorld) -> None:
    layout = Layout()
    manifest = add_image(layout, [LAYER])
    name = f"a@{Digest.of(manifest)}"
    finish_layout(layout, [descriptor(manifest, OCI_MANIFEST, annotations={NAME: name})])
    await load(world, layout.bytes())
    found = entries(await export(world, name))
    assert json.loads(found["manifest.json"])[0]["RepoTags"] == []
    annotations = json.loads(found["index.json"])["manifests"][0]["annotations"]
    assert annotations["org.opencontainers.image.ref.name"] == name
