"""``ctr`` cannot tell our daemon from containerd: every row of the table on both, answer by answer.

The ctr and the containerd of one release are compared with: Debian's, and one of containerd 2.x where
``CTR2`` names its ctr or PATH offers it (the containerd of the same folder is taken). It runs when asked for.
"""

from __future__ import annotations

import difflib
import gzip
import hashlib
import json
import os
import shlex
import tarfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.integration.ctr_table import SCRIPTS, Row, plain
from tests.integration.registry_world import Authority, RegistryProcess, need_programs
from tests.unit.images.archives import Layout, add_image, descriptor, finish_layout, index, tar_bytes, zstd

from containerd_hybrid.errors import NotFoundError
from containerd_hybrid.model import Platform
from containerd_hybrid.model.descriptor import OCI_INDEX, OCI_MANIFEST
from containerd_hybrid.testing.ctr import Ctr
from containerd_hybrid.testing.images import (
    BUSYBOX_IMAGE,
    ImageArchive,
    add_file,
    add_folder,
    busybox_archive,
    busybox_layer,
    tar_of,
    write_archive,
)
from containerd_hybrid.testing.pair import DaemonPair

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="containerd needs root"),
    # Two programs of other people race with one another in it, their collectors and progress bars too.
    pytest.mark.skipif(
        "COMPARE_CTR" not in os.environ, reason="asked for by COMPARE_CTR=1 (make like-containerd)"
    ),
]
_HANGS_AFTER = 60.0
_EXPORTS = 10
Answer = tuple[int, str, str]


@dataclass(frozen=True)
class Side:
    """One daemon and what is its own: a namespace and a folder."""

    ctr: Ctr
    folder: Path

    def ask(self, row: Row, words: dict[str, str]) -> Answer:
        own = {**words, "tmp": str(self.folder), "ns": self.ctr.namespace}
        if "{all_images}" in row.command:
            own["all_images"] = " ".join(self.ctr("images", "ls", "-q").split())
        arguments = shlex.split(row.command.format(**own))
        if arguments[0] == "archive":
            return self._archive(Path(arguments[1]), arguments[2:])
        environment = {**os.environ, "TMPDIR": str(self.folder)}  # ctr leaves files there
        give_up = time.monotonic() + _HANGS_AFTER
        while True:
            done = self.ctr.run(
                *arguments, input=row.input, errors="replace", env=environment, timeout=_HANGS_AFTER
            )
            if row.until in done.stdout or time.monotonic() > give_up:
                break
        normalise = row.normalise or plain
        return done.returncode, normalise(self._neutral(done.stdout)), normalise(self._neutral(done.stderr))

    def _archive(self, file: Path, command: list[str]) -> Answer:
        """What the command writes into the file. ctr 2.x may end before it has written all: then, again."""
        for _ in range(_EXPORTS):
            done = self.ctr.run(*command, timeout=_HANGS_AFTER)
            if done.returncode:
                break
            with suppress(tarfile.ReadError):
                return _listed(file)
        return 1, "", self._neutral(done.stderr)

    def clean(self) -> None:
        """End what a failed script left running; all else goes with the daemon's folders."""
        for task in self.ctr("task", "ls", "-q").split():
            self.ctr.run("task", "delete", "--force", task)
        for target in ("target", "rw"):
            self.ctr.run("images", "unmount", str(self.folder / target))
        for cgroups in (Path("/sys/fs/cgroup"), *Path("/sys/fs/cgroup").iterdir()):
            own = cgroups / self.ctr.namespace
            for cgroup in (*own.glob("*"), own):
                if cgroup.is_dir():
                    cgroup.rmdir()

    def _neutral(self, text: str) -> str:
        for own, name in (
            *((str(self.folder), "TMP"), (self.ctr.address, "ADDRESS")),
            *((str(Path(self.ctr.address).parent), "DAEMON"), (self.ctr.namespace, "NS")),
        ):
            text = text.replace(own, name)
        # Each daemon has its own words for it, and which there are depends on the machine.
        return "".join(line for line in text.splitlines(True) if "DEPRECATION:" not in line)


@pytest.fixture(scope="module", params=[1, 2], ids=["ctr1", "ctr2"])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonPair]:
    try:
        made = DaemonPair(tmp_path_factory.mktemp("pair"), request.param)
    except NotFoundError as error:
        pytest.skip(error.message)
    with made:
        yield made


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """What the table's command lines speak of."""
    need_programs("docker-registry", "openssl")
    folder = tmp_path_factory.mktemp("words")
    layer = busybox_layer()
    archive = busybox_archive(folder / "busybox.tar")
    installable = tar_of(_fill_installable)
    write_archive(folder / "install.tar", [ImageArchive("example.com/installable:1", [installable])])
    (folder / "garbage.tar").write_bytes(b"garbage" * 200)
    Path(f"{archive}.gz").write_bytes(gzip.compress(archive.read_bytes()))
    Path(f"{archive}.zst").write_bytes(zstd(archive.read_bytes()))
    (folder / "pod.json").write_text(json.dumps({"metadata": {"name": "s1", "namespace": "n", "uid": "u"}}))
    (folder / "env").write_text("FROM_FILE=yes\nOTHER=no\n")
    manifest, config, blob = _digests(archive)
    authority = Authority(folder / "authority")
    with (
        RegistryProcess(folder / "registry", None) as registry,
        RegistryProcess(folder / "tls", authority) as tls,
    ):
        hosts = folder / "hosts" / tls.address
        hosts.mkdir(parents=True)
        (hosts / "hosts.toml").write_text(
            f'server = "https://{tls.address}"\nca = "{authority.certificate}"\n'
        )
        yield {
            "busybox": BUSYBOX_IMAGE,
            "tar": str(archive),
            "docker": str(_docker_archive(folder / "docker.tar")),
            "multi": str(_multi_archive(folder / "multi.tar")),
            "manifest": manifest,
            "config": config,
            "layer": blob,
            "chain": f"sha256:{hashlib.sha256(layer).hexdigest()}",
            "bytes": f"sha256:{hashlib.sha256(b'some bytes').hexdigest()}",
            "garbage": str(folder / "garbage.tar"),
            "installable": str(folder / "install.tar"),
            "pod": str(folder / "pod.json"),
            "envfile": str(folder / "env"),
            "registry": registry.address,
            "tls": tls.address,
            "hosts": str(folder / "hosts"),
            "ca": str(authority.certificate),
        }


def _listed(archive: Path) -> Answer:
    """Every file of an archive with its mode and what is in it, in any order; documents as they are."""
    found = []
    with tarfile.open(archive) as opened:
        for member in opened:
            file = opened.extractfile(member)
            data = b"" if file is None else file.read()
            shown = hashlib.sha256(data).hexdigest()
            if member.name in ("index.json", "manifest.json", "oci-layout"):
                shown = json.dumps(json.loads(data), sort_keys=True)
            found.append(f"{member.name} {member.mode:o} {shown}")
    return 0, "\n".join(sorted(found)), ""


def _docker_archive(path: Path) -> Path:
    """As ``docker save`` wrote them: layers are plain, and the manifest does not say what they are."""
    layer = busybox_layer()
    config = {
        "architecture": Platform.host().architecture,
        "os": "linux",
        "config": {"Cmd": ["sh"], "Env": ["PATH=/bin"]},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
    }
    tags = ["example.com/docker:1", "docker:2"]
    manifest = [{"Config": "config.json", "RepoTags": tags, "Layers": ["layer/layer.tar"]}]

    def fill(tar: tarfile.TarFile) -> None:
        add_file(tar, "config.json", json.dumps(config).encode())
        add_file(tar, "layer/layer.tar", layer)
        add_file(tar, "manifest.json", json.dumps(manifest).encode())

    path.write_bytes(tar_of(fill))
    return path


def _multi_archive(path: Path) -> Path:
    """An image of three platforms, each with a layer that may not be handed on."""
    layout = Layout()
    entries = []
    for name in ("linux/amd64", "linux/arm64", "linux/arm/v7"):
        platform = Platform.parse(name)
        layers = [tar_bytes({"platform": name.encode()}), tar_bytes({"foreign": name.encode()})]
        manifest = json.loads(add_image(layout, layers, platform=platform))
        manifest["layers"][1]["mediaType"] = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"
        data = layout.add_blob(json.dumps(manifest).encode())
        told = {"os": "linux", "architecture": platform.architecture}
        told |= {"variant": platform.variant} if platform.variant else {}
        entries.append(descriptor(data, OCI_MANIFEST, platform=told))
    whole = layout.add_blob(index(entries))
    named = {
        "io.containerd.image.name": "example.com/multi:1",
        "org.opencontainers.image.ref.name": "1",
    }
    return finish_layout(layout, [descriptor(whole, OCI_INDEX, annotations=named)]).write(path)


def _fill_installable(tar: tarfile.TarFile) -> None:
    add_folder(tar, "bin")
    add_file(tar, "bin/tool", b"#!/bin/sh\n", 0o755)
    add_folder(tar, "lib")
    add_file(tar, "lib/library.so", b"library")


def _digests(archive: Path) -> tuple[str, str, str]:
    """Of manifest, configuration and layer of the one image in an archive."""
    with tarfile.open(archive) as opened:

        def read(name: str) -> Any:
            file = opened.extractfile(name)
            assert file is not None
            return json.load(file)

        manifest = read("index.json")["manifests"][0]["digest"]
        document = read("blobs/" + manifest.replace(":", "/"))
    return manifest, document["config"]["digest"], document["layers"][0]["digest"]


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_answer_is_containerds(
    pair: DaemonPair, words: dict[str, str], script: str, token: str, tmp_path: Path
) -> None:
    sides = []
    for name, address in (("c", pair.theirs.address), ("o", pair.ours.address)):
        folder = tmp_path / name
        for one in ("target", "rw", "t", "bundle", "opt", "fifos"):
            (folder / one).mkdir(parents=True)
        sides.append(Side(Ctr(address, f"{token}-{name}", pair.program), folder))
    different = []
    try:
        with ThreadPoolExecutor(2) as threads:
            for number, row in enumerate(SCRIPTS[script]):
                if row.only in (0, pair.major):
                    different += _ask_both(threads, sides, row, words, number)
    finally:
        for side in sides:
            side.clean()
    if different:
        pytest.fail("\n".join(different), pytrace=False)


def _ask_both(
    threads: ThreadPoolExecutor, sides: list[Side], row: Row, words: dict[str, str], number: int
) -> list[str]:
    """What differs. ctr 1.x may lose the output of what ends at once, on any daemon: then, again."""
    found: list[str] = []
    for attempt in range(4 if "{id}" in row.command or " exec " in row.command else 1):
        known = {**words, "id": f"id-{number}-{attempt}"}
        theirs, ours = threads.map(lambda side, known=known: side.ask(row, known), sides)
        found = _compare(row, theirs, ours)
        if not found:
            break
    return found


def _compare(row: Row, theirs: Answer, ours: Answer) -> list[str]:
    if row.but and bool(theirs[0]) == bool(ours[0]) and theirs != ours:
        return []
    if theirs == ours:
        return []
    told = [f"ctr {row.command}"]
    if theirs[0] != ours[0]:
        told.append(f"    exit code {theirs[0]}, here {ours[0]}: {ours[2]}")
    for one, other in zip(theirs[1:], ours[1:], strict=True):
        lines = difflib.ndiff(one.splitlines(), other.splitlines())
        told += [f"    {line}" for line in lines if line[0] in "+-"]
    return ["\n".join(told)]
