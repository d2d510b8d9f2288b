"""``ctr`` on what is stored, namespaces to leases, and on the daemon itself."""

from __future__ import annotations

import hashlib
import json
import tarfile
from pathlib import Path

import pytest

from containerd_hybrid.testing.ctr import Ctr, topics

pytestmark = pytest.mark.root
BUSYBOX = "docker.io/library/busybox:latest"


def test_version_and_plugins(ctr: Ctr) -> None:
    assert "Server:" in ctr("version")
    plugins = ctr("plugins", "ls")
    for line in ("io.containerd.content.v1", "io.containerd.snapshotter.v1", "io.containerd.grpc.v1"):
        assert line in plugins
    states = {tuple(line.split()[:2]): line.split()[-1] for line in plugins.splitlines()[1:]}
    assert states["io.containerd.snapshotter.v1", "overlayfs"] == "ok"


def test_namespaces_have_labels_and_are_removed_when_empty(ctr: Ctr) -> None:
    ctr("namespace", "create", "colours", "sky=blue")
    try:
        assert "sky=blue" in ctr("namespace", "ls")
        ctr("namespace", "label", "colours", "sky=red")
        assert "sky=red" in ctr("namespace", "ls")
        assert "already exists" in ctr.run("namespace", "create", "colours").stderr
    finally:
        ctr("namespace", "rm", "colours")
    assert "colours" not in ctr("namespace", "ls", "-q").split()


def test_a_namespace_with_something_in_it_is_not_removed(ctr: Ctr) -> None:
    done = ctr.run("namespace", "rm", ctr.namespace)
    assert done.returncode != 0
    assert "must be empty" in done.stderr


def test_images_are_listed_tagged_labelled_and_removed(ctr: Ctr) -> None:
    assert ctr("image", "ls", "-q").split() == [BUSYBOX]
    ctr("image", "tag", BUSYBOX, "example.com/mine:1")
    assert sorted(ctr("image", "ls", "-q").split()) == [BUSYBOX, "example.com/mine:1"]
    ctr("image", "label", "example.com/mine:1", "owner=me")
    assert "owner=me" in ctr("image", "ls", "name==example.com/mine:1")
    assert "owner=me" not in ctr("image", "ls", f"name=={BUSYBOX}")
    ctr("image", "rm", "--sync", "example.com/mine:1")
    assert ctr("image", "ls", "-q").split() == [BUSYBOX]
    assert "not found" in ctr.run("image", "rm", "example.com/mine:1").stderr


def test_check_says_that_all_content_is_here_and_unpacked(ctr: Ctr) -> None:
    line = ctr("image", "check").splitlines()[1]
    assert "complete" in line
    assert line.split()[-1] == "true"


def test_an_exported_image_can_be_imported_again(ctr: Ctr, tmp_path: Path) -> None:
    archive = tmp_path / "exported.tar"
    ctr("image", "export", str(archive), BUSYBOX)
    with tarfile.open(archive) as opened:
        assert "index.json" in opened.getnames()
    before = ctr("image", "ls")
    ctr("image", "rm", "--sync", BUSYBOX)
    assert ctr("content", "ls", "-q") == ""
    ctr("image", "import", str(archive))
    assert ctr("image", "ls") == before
    assert ctr("run", "--rm", BUSYBOX, "again", "echo", "ok") == "ok\n"


def test_removing_the_last_name_frees_content_and_snapshots(ctr: Ctr) -> None:
    assert ctr("content", "ls", "-q")
    assert len(ctr("snapshot", "ls").splitlines()) == 2
    ctr("image", "rm", "--sync", BUSYBOX)
    assert ctr("content", "ls", "-q") == ""
    assert len(ctr("snapshot", "ls").splitlines()) == 1


def test_an_image_is_mounted_and_unmounted(ctr: Ctr, tmp_path: Path) -> None:
    target = tmp_path / "rootfs"
    target.mkdir()
    ctr("image", "mount", BUSYBOX, str(target))
    try:
        assert (target / "bin" / "busybox").exists()
    finally:
        ctr("image", "unmount", "--rm", str(target))
    assert not list(target.iterdir())


def test_content_is_fetched_labelled_and_read(ctr: Ctr) -> None:
    digests = ctr("content", "ls", "-q").split()
    assert len(digests) >= 3  # manifest, config, layer; nothing holds the archive's index
    sizes = {line.split()[0]: line.split()[1] for line in ctr("content", "ls").splitlines()[1:]}
    small = [digest for digest, size in sizes.items() if size.lstrip("0123456789.") == "B"]
    # What nothing holds, the archive's index, may be collected at any time.
    answers = [ctr.run("content", "get", digest) for digest in small]
    documents = [json.loads(answer.stdout) for answer in answers if answer.returncode == 0]
    assert {"layers", "rootfs"} <= {key for document in documents for key in document}
    ctr("content", "label", digests[0], "note=here")
    assert "note=here" in ctr("content", "ls")
    assert "not found" in ctr.run("content", "get", "sha256:" + "0" * 64).stderr


def test_content_is_ingested_with_its_digest_checked(ctr: Ctr) -> None:
    digest = "sha256:" + hashlib.sha256(b"some bytes").hexdigest()
    ctr(
        "content", "ingest", "--expected-digest", digest, "--expected-size", "10", "ref-1", input="some bytes"
    )
    wrong = ctr.run(
        "content", "ingest", "--expected-digest", "sha256:" + "1" * 64, "ref-2", input="other bytes"
    )
    assert wrong.returncode != 0
    assert "unexpected commit digest" in wrong.stderr
    assert "sha256:" + "1" * 64 not in ctr("content", "ls", "-q")


def test_snapshots_are_prepared_committed_and_removed(ctr: Ctr, tmp_path: Path) -> None:
    (parent,) = (line.split()[0] for line in ctr("snapshot", "ls").splitlines()[1:])
    ctr("snapshot", "prepare", "work", parent)
    mounts = ctr("snapshot", "mounts", str(tmp_path), "work")
    assert mounts.startswith("mount -t overlay")
    ctr("snapshot", "commit", "done", "work")
    assert "Committed" in ctr("snapshot", "info", "done") or '"Kind": "Committed"' in ctr(
        "snapshot", "info", "done"
    )
    ctr("snapshot", "prepare", "look", "done")
    assert "cannot remove snapshot with child" in ctr.run("snapshot", "rm", "done").stderr
    assert "done" in ctr("snapshot", "tree")
    ctr("snapshot", "usage", "done")
    ctr("snapshot", "rm", "look")
    ctr("snapshot", "rm", "done")
    assert (
        "does not exist" in ctr.run("snapshot", "rm", "done").stderr
        or "not found" in ctr.run("snapshot", "rm", "done").stderr
    )


def test_containers_are_created_labelled_shown_and_removed(ctr: Ctr) -> None:
    ctr("container", "create", "--label", "tier=web", BUSYBOX, "c1", "true")
    try:
        assert ctr("container", "ls", "-q").split() == ["c1"]
        assert ctr("container", "ls", "-q", "labels.tier==web").split() == ["c1"]
        assert ctr("container", "ls", "-q", "labels.tier==db").split() == []
        ctr("container", "label", "c1", "tier=db")
        info = json.loads(ctr("container", "info", "c1"))
        assert info["Labels"]["tier"] == "db"
        assert info["Runtime"]["Name"] == "io.containerd.runc.v2"
        assert "already exists" in ctr.run("container", "create", BUSYBOX, "c1", "true").stderr
    finally:
        ctr("container", "rm", "c1")
    assert "not found" in ctr.run("container", "info", "c1").stderr


def test_leases_are_created_listed_and_deleted(ctr: Ctr) -> None:
    ctr("leases", "create", "--id", "keep", "purpose=test")
    assert "purpose=test" in ctr("leases", "ls")
    assert "already exists" in ctr.run("leases", "create", "--id", "keep").stderr
    ctr("leases", "rm", "keep")
    assert "keep" not in ctr("leases", "ls", "-q").split()


def test_events_tell_a_containers_life_in_order(ctr: Ctr) -> None:
    with ctr.watch() as lines_until:
        ctr("run", "--rm", BUSYBOX, "life", "true")
        told = topics(lines_until("/containers/delete"))
    wanted = [
        "/containers/create",
        "/tasks/create",
        "/tasks/start",
        "/tasks/exit",
        "/tasks/delete",
        "/containers/delete",
    ]
    assert [topic for topic in told if topic in wanted] == wanted
