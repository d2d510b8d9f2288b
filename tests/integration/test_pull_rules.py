"""Verifiers that block a pull, encrypted layers, and ``ctr install``: programs of the administrator's."""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.integration.registry_world import RegistryWorld, registry_world
from tests.unit.images.archives import Layout, busybox_layer, descriptor, finish_layout, image_config

import containerd_hybrid
from containerd_hybrid.errors import HybridError, UnknownError
from containerd_hybrid.model import chain_id
from containerd_hybrid.model.descriptor import OCI_CONFIG, OCI_MANIFEST
from containerd_hybrid.registry.api import Credential, RegistryOptions
from containerd_hybrid.testing.ctr import Ctr
from containerd_hybrid.testing.daemon import DaemonProcess
from containerd_hybrid.testing.images import busybox_archive
from containerd_hybrid.testing.leaks import LeakCheck

pytestmark = pytest.mark.root

ENCRYPTED = "application/vnd.oci.image.layer.v1.tar+gzip+encrypted"
GZIP = "application/vnd.oci.image.layer.v1.tar+gzip"
MARK = b"locked by the test\n"
CONFIG = """\
version = 4
[plugins."io.containerd.image-verifier.v1.bindir"]
bin_dir = "{folder}/verifiers"
[plugins."io.containerd.internal.v1.opt"]
path = "{folder}/opt"
[stream_processors."test.decoder"]
accepts = ["{encrypted}"]
returns = "{gzip}"
path = "{folder}/decoder"
args = ["--keys", "here"]
"""


class User:
    async def get(self, host: str, reference: str) -> Credential | None:
        return Credential("user", "secret-of-user")


def program(path: Path, script: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


@pytest.fixture
def ruled(short_folder: Path, leak_check: LeakCheck) -> Iterator[DaemonProcess]:
    config = CONFIG.format(folder=short_folder, encrypted=ENCRYPTED, gzip=GZIP)
    with DaemonProcess(short_folder, config=config).serving(leak_check) as daemon:
        yield daemon


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RegistryWorld]:
    with registry_world(tmp_path_factory.mktemp("registry") / "world") as world:
        archive = busybox_archive(world.folder / "busybox.tar")
        target = f"docker://{world.registry.address}/lib/busybox:1"
        world.skopeo("copy", "--preserve-digests", f"oci-archive:{archive}", target)
        yield world


async def test_a_pull_is_blocked_until_the_verifier_agrees(
    ruled: DaemonProcess, registry: RegistryWorld, token: str
) -> None:
    verifier = ruled.folder / "verifiers" / "policy"
    program(verifier, 'echo "no signature for $2"; exit 1')
    name = f"{registry.proxy.address}/lib/busybox:1"
    options = RegistryOptions(hosts_dir=registry.hosts_dir, credentials=User())
    async with await containerd_hybrid.connect_async(ruled.address, token) as client:
        with pytest.raises(
            UnknownError, match=f"image verifier bindir blocked pull of {name} with digest"
        ) as told:
            await client.images.pull(name, registry=options)
        assert f"(exit code 1): no signature for {name}" in told.value.message
        assert await client.images.list() == []
        program(verifier, "cat >/dev/null; echo signed")
        assert (await client.images.pull(name, registry=options)).name == name


def encrypted_archive(path: Path) -> Path:
    """An image whose layer only the decoder can read."""
    layer = busybox_layer()
    layout = Layout()
    configuration = layout.add_blob(image_config([layer], Env=["PATH=/bin"]))
    secret = layout.add_blob(MARK + gzip.compress(layer, mtime=0))
    manifest = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": descriptor(configuration, OCI_CONFIG),
        "layers": [descriptor(secret, ENCRYPTED)],
    }
    annotations = {"io.containerd.image.name": "docker.io/library/locked:1"}
    listed = descriptor(layout.add_blob(json.dumps(manifest).encode()), OCI_MANIFEST, annotations=annotations)
    return finish_layout(layout, [listed]).write(path)


async def test_an_encrypted_image_is_unpacked_by_its_decoder_and_not_without_it(
    ruled: DaemonProcess, token: str
) -> None:
    archive = encrypted_archive(ruled.folder / "locked.tar")
    decoder = ruled.folder / "decoder"
    async with await containerd_hybrid.connect_async(ruled.address, token) as client:
        with pytest.raises(
            HybridError, match=r"test\.decoder is needed for .*, but its program .* is not installed"
        ):
            await client.images.import_archive(archive)
        program(decoder, "echo fake decoder: no key >&2; exit 4")
        with pytest.raises(
            HybridError, match=r"stream processor test\.decoder .* failed: fake decoder: no key"
        ):
            await client.images.import_archive(archive)
        program(
            decoder,
            f'echo "$* $STREAM_PROCESSOR_MEDIATYPE" > {ruled.folder}/called; tail -c +{len(MARK) + 1}',
        )
        (image,) = await client.images.import_archive(archive)
        assert (ruled.folder / "called").read_text().split() == ["--keys", "here", ENCRYPTED]
        _, config = await client.images.config(image)
        snapshots = await client.garbage.why(str(chain_id(config.diff_ids)))
        assert [finding.node.type for finding in snapshots] == ["snapshots/overlayfs"]


def test_ctr_installs_programs_of_an_image_where_the_daemon_says(ruled: DaemonProcess, token: str) -> None:
    if shutil.which("ctr") is None:
        pytest.skip("ctr is not installed (apt-get install containerd)")
    ctr = Ctr(ruled.address, token)
    archive = busybox_archive(ruled.folder / "busybox.tar")
    ctr("image", "import", str(archive))
    name = ctr("image", "ls", "-q").split()[0]
    ctr("install", name)
    assert (ruled.folder / "opt" / "bin" / "busybox").is_file()
    again = ctr.run("install", name)
    assert again.returncode != 0
    assert "cannot replace" in again.stderr
    ctr("install", "--replace", name)
