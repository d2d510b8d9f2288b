"""Images made to do harm, through the whole way: an archive, the daemon, its snapshots.

Each either gives a right result inside its own root or an error that names the thing. Whatever happens,
nothing outside was touched, nothing is left, and the daemon serves on. Each image comes in by ``ctr``,
which checks diff IDs itself and drives snapshots and diff service, and by the library, for which the
daemon does all of it.
"""

from __future__ import annotations

import ctypes
import gzip
import hashlib
import io
import json
import os
import shutil
import stat
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

import containerd_hybrid
from containerd_hybrid.errors import HybridError
from containerd_hybrid.model import Platform
from containerd_hybrid.model.descriptor import OCI_CONFIG, OCI_INDEX, OCI_LAYER, OCI_LAYER_GZIP, OCI_MANIFEST
from containerd_hybrid.testing.ctr import Ctr
from containerd_hybrid.testing.daemon import DaemonProcess, unmount_below
from containerd_hybrid.testing.images import add_file, add_folder, add_link, busybox_archive, tar_of
from containerd_hybrid.testing.leaks import mounts_below
from containerd_hybrid.testing.waiting import until

pytestmark = pytest.mark.root

NAME = "example.com/hostile:1"
SNAPSHOTTERS = ("overlayfs", "native")
Fill = Callable[[tarfile.TarFile, Path], None]


@dataclass(slots=True)
class Forged:
    """An image archive in which each part can be what it should not be.

    ``layers`` are blobs as they are stored, ``diff_ids`` what the config says of them.
    """

    layers: Sequence[bytes]
    diff_ids: Sequence[str]
    media_type: str = OCI_LAYER_GZIP
    stored: Callable[[dict[str, bytes], list[str]], None] = field(default=lambda _blobs, _layers: None)

    def write(self, path: Path) -> Path:
        blobs: dict[str, bytes] = {}
        layers = [_add(blobs, layer, self.media_type) for layer in self.layers]
        platform = {"architecture": Platform.host().architecture, "os": "linux"}
        config = {**platform, "config": {}, "rootfs": {"type": "layers", "diff_ids": list(self.diff_ids)}}
        manifest = {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": _add(blobs, json.dumps(config).encode(), OCI_CONFIG),
            "layers": layers,
        }
        top = _add(blobs, json.dumps(manifest).encode(), OCI_MANIFEST)
        top |= {"platform": platform, "annotations": {"io.containerd.image.name": NAME}}
        self.stored(blobs, [layer["digest"] for layer in layers])
        index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [top]}

        def fill(archive: tarfile.TarFile) -> None:
            add_file(archive, "oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
            add_file(archive, "index.json", json.dumps(index).encode())
            for digest, data in blobs.items():
                add_file(archive, "blobs/" + digest.replace(":", "/"), data)

        path.write_bytes(tar_of(fill))
        return path


def _add(blobs: dict[str, bytes], data: bytes, media_type: str) -> dict[str, Any]:
    digest = digest_of(data)
    blobs[digest] = data
    return {"mediaType": media_type, "digest": digest, "size": len(data)}


def digest_of(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def forged(*tars: bytes) -> Forged:
    return Forged([gzip.compress(tar, 1, mtime=0) for tar in tars], [digest_of(tar) for tar in tars])


@dataclass(frozen=True, slots=True)
class Prey:
    """A daemon, and beside its root what must not be touched."""

    daemon: DaemonProcess
    outside: Path
    way: str
    snapshotter: str
    ctr: Ctr

    def bring_in(self, archive: Path) -> None:
        """Import and unpack.

        Raises:
            RefusedError: what went wrong, as the user sees it.
        """
        if self.way == "ctr":
            command = ("image", "import", "--snapshotter", self.snapshotter, str(archive))
            done = self.ctr.run(*command)
            if done.returncode:
                raise RefusedError(done.stderr)
            return
        try:
            with containerd_hybrid.connect(self.daemon.address, self.ctr.namespace) as client:
                client.images.import_archive(archive, snapshotter=self.snapshotter)
        except HybridError as error:
            raise RefusedError(str(error)) from error

    @contextmanager
    def root(self, folder: Path) -> Iterator[Path]:
        """The unpacked image, mounted."""
        folder.mkdir()
        self.ctr("image", "mount", "--snapshotter", self.snapshotter, NAME, str(folder))
        try:
            yield folder
        finally:
            self.ctr("image", "unmount", "--rm", "--snapshotter", self.snapshotter, str(folder))
            folder.rmdir()

    def remove_all(self) -> None:
        """Take the image away, and see that nothing else was there."""
        images = self.ctr("image", "ls", "-q").split()
        if images:
            self.ctr("image", "rm", "--sync", *images)
        for lease in self.ctr("leases", "ls", "-q").split():
            self.ctr("leases", "rm", "--sync", lease)
        self.ctr("leases", "create", "--id", "collect")
        self.ctr("leases", "rm", "--sync", "collect")
        until(lambda: not leftovers(self.daemon), lambda: leftovers(self.daemon))
        self.ctr("namespace", "rm", self.ctr.namespace)


class RefusedError(Exception):
    """The image was not taken."""


def leftovers(daemon: DaemonProcess) -> list[str]:
    content = daemon.root / "io.containerd.content.v1.content"
    left = [*content.glob("blobs/*/*"), *content.glob("ingest/*")]
    for name in SNAPSHOTTERS:
        left += daemon.root.glob(f"io.containerd.snapshotter.v1.{name}/snapshots/*")
    mounts = [mount for mount in mounts_below(daemon.folder) if mount != str(daemon.folder)]
    return [*map(str, left), *mounts]


def seen(folder: Path) -> dict[str, object]:
    """All that can be told of what is in a folder."""
    found: dict[str, object] = {}
    for path in [folder, *sorted(folder.rglob("*"))]:
        s = path.lstat()
        data = path.read_bytes() if stat.S_ISREG(s.st_mode) else b""
        what = (s.st_mode, s.st_uid, s.st_gid, s.st_nlink, s.st_mtime_ns, s.st_rdev, data)
        found[str(path)] = (*what, sorted(os.listxattr(path, follow_symlinks=False)))
    return found


@pytest.fixture(scope="module")
def module_daemon() -> Iterator[DaemonProcess]:
    folder = Path(tempfile.mkdtemp(prefix="ch-", dir="/tmp"))
    try:
        with DaemonProcess(folder).serving() as daemon:
            yield daemon
    finally:
        if not mounts_below(folder):
            shutil.rmtree(folder)


@pytest.fixture(params=[(way, name) for way in ("ctr", "library") for name in SNAPSHOTTERS], ids="-".join)
def prey(
    request: pytest.FixtureRequest, module_daemon: DaemonProcess, token: str, tmp_path: Path
) -> Iterator[Prey]:
    way, snapshotter = request.param
    # A short path, for the links of 100 bytes that old archives have; each test's own.
    outside = module_daemon.folder / "outside"
    (outside / "folder").mkdir(parents=True)
    (outside / "secret").write_text("secret")
    (outside / "folder" / "file").write_text("file")
    (outside / "folder").chmod(0o750)
    before = seen(outside)
    ctr = Ctr(module_daemon.address, token)
    prey = Prey(module_daemon, outside, way, snapshotter, ctr)
    try:
        yield prey
        assert seen(outside) == before
        prey.remove_all()
        # It still serves.
        good = busybox_archive(tmp_path / "good.tar", NAME)
        prey.bring_in(good)
        with prey.root(tmp_path / "good") as root:
            assert (root / "bin" / "busybox").exists()
        prey.remove_all()
        assert seen(outside) == before
    finally:
        shutil.rmtree(outside)


def entry(archive: tarfile.TarFile, name: str, type: bytes, **fields: Any) -> None:
    info = tarfile.TarInfo(name)
    info.type = type
    for key, value in fields.items():
        setattr(info, key, value)
    archive.addfile(info, io.BytesIO(b"\0" * info.size))


# Ways out of the root that lead back into it: the result is right, and inside.


def dots(archive: tarfile.TarFile, outside: Path) -> None:
    add_file(archive, "../" * 40 + str(outside / "secret")[1:], b"evil")


def absolute(archive: tarfile.TarFile, outside: Path) -> None:
    add_file(archive, str(outside / "secret"), b"evil")


def through_absolute_link(archive: tarfile.TarFile, outside: Path) -> None:
    add_folder(archive, str(outside)[1:])
    add_link(archive, "evil", str(outside))
    add_file(archive, "evil/secret", b"evil")


def through_relative_link(archive: tarfile.TarFile, outside: Path) -> None:
    add_link(archive, "a/b/evil", "../" * 40 + str(outside)[1:])
    add_file(archive, "a/b/evil/secret", b"evil")


def through_links_through_links(archive: tarfile.TarFile, outside: Path) -> None:
    add_link(archive, "one", "two/..")
    add_link(archive, "two", "three/x")
    add_link(archive, "three", "/../../../")
    add_link(archive, "four", "one/../.." + str(outside))
    add_folder(archive, "x")
    add_file(archive, "four/secret", b"evil")


@pytest.mark.parametrize(
    "fill",
    [dots, absolute, through_absolute_link, through_relative_link, through_links_through_links],
    ids=lambda fill: fill.__name__,
)
def test_a_way_out_leads_back_inside(prey: Prey, tmp_path: Path, fill: Fill) -> None:
    prey.bring_in(forged(tar_of(lambda a: fill(a, prey.outside))).write(tmp_path / "i.tar"))
    with prey.root(tmp_path / "root") as root:
        assert (root / str(prey.outside / "secret")[1:]).read_text() == "evil"


def test_links_are_replaced_and_not_followed(prey: Prey, tmp_path: Path) -> None:
    def fill(archive: tarfile.TarFile) -> None:
        add_link(archive, "file", str(prey.outside / "secret"))
        add_file(archive, "file", b"mine", 0o4777)
        add_link(archive, "folder", str(prey.outside / "folder"))
        add_folder(archive, "folder", 0o1777)
        add_link(archive, "node", str(prey.outside / "secret"))
        entry(archive, "node", tarfile.FIFOTYPE, mode=0o666)
        # A link's own mode, owner and times are never those of what it points to.
        entry(
            *(archive, "link", tarfile.SYMTYPE),
            linkname=str(prey.outside / "secret"),
            mode=0o6777,
            uid=1234,
            gid=1234,
            mtime=1,
            pax_headers={"SCHILY.xattr.trusted.evil": "x"},
        )

    prey.bring_in(forged(tar_of(fill)).write(tmp_path / "i.tar"))
    with prey.root(tmp_path / "root") as root:
        assert (root / "file").read_text() == "mine"
        assert stat.S_IMODE((root / "file").lstat().st_mode) == 0o4777
        assert stat.S_ISDIR((root / "folder").lstat().st_mode)
        assert stat.S_ISFIFO((root / "node").lstat().st_mode)
        assert (root / "link").lstat().st_uid == 1234


def test_whiteouts_through_links_take_nothing_outside_away(prey: Prey, tmp_path: Path) -> None:
    def lower(archive: tarfile.TarFile) -> None:
        add_link(archive, "evil", str(prey.outside))
        add_file(archive, "kept", b"kept")

    def upper(archive: tarfile.TarFile) -> None:
        add_file(archive, "evil/.wh.secret", b"")
        add_file(archive, "evil/folder/.wh..wh..opq", b"")
        add_file(archive, "../../.wh.kept", b"")

    prey.bring_in(forged(tar_of(lower), tar_of(upper)).write(tmp_path / "i.tar"))
    with prey.root(tmp_path / "root") as root:
        assert not (root / "kept").exists()


# Hard links to what is not in the image


def hard_link(archive: tarfile.TarFile, outside: Path) -> None:
    entry(archive, "stolen", tarfile.LNKTYPE, linkname=str(outside / "secret"))


def hard_link_by_dots(archive: tarfile.TarFile, outside: Path) -> None:
    entry(archive, "stolen", tarfile.LNKTYPE, linkname="../" * 40 + str(outside / "secret")[1:])


def hard_link_through_link(archive: tarfile.TarFile, outside: Path) -> None:
    add_link(archive, "way", str(outside))
    entry(archive, "stolen", tarfile.LNKTYPE, linkname="way/secret")


@pytest.mark.parametrize(
    "fill", [hard_link, hard_link_by_dots, hard_link_through_link], ids=lambda fill: fill.__name__
)
def test_hard_links_to_outside_are_refused_by_name(prey: Prey, tmp_path: Path, fill: Fill) -> None:
    archive = forged(tar_of(lambda a: fill(a, prey.outside))).write(tmp_path / "i.tar")
    with pytest.raises(RefusedError, match="stolen"):
        prey.bring_in(archive)


def test_a_hard_link_to_a_link_links_the_link(prey: Prey, tmp_path: Path) -> None:
    def fill(archive: tarfile.TarFile) -> None:
        add_link(archive, "way", str(prey.outside / "secret"))
        entry(archive, "same", tarfile.LNKTYPE, linkname="way")

    prey.bring_in(forged(tar_of(fill)).write(tmp_path / "i.tar"))
    with prey.root(tmp_path / "root") as root:
        assert (root / "same").readlink() == prey.outside / "secret"


def test_a_file_below_a_loop_of_links(prey: Prey, tmp_path: Path) -> None:
    def fill(archive: tarfile.TarFile) -> None:
        add_link(archive, "left", "right")
        add_link(archive, "right", "left")
        add_file(archive, "left/file", b"x")

    with pytest.raises(RefusedError, match="left"):
        prey.bring_in(forged(tar_of(fill)).write(tmp_path / "i.tar"))


# Odd, large and long


def test_device_nodes_with_odd_modes(prey: Prey, tmp_path: Path) -> None:
    def fill(archive: tarfile.TarFile) -> None:
        entry(archive, "null", tarfile.CHRTYPE, mode=0o7777, devmajor=1, devminor=3)
        entry(archive, "disk", tarfile.BLKTYPE, mode=0, devmajor=259, devminor=1048575)
        entry(archive, "fifo", tarfile.FIFOTYPE, mode=0o1)
        # Its type in the mode as well, and another one.
        entry(archive, "liar", tarfile.CHRTYPE, mode=0o100644, devmajor=1, devminor=5)
        # A link's mode is its file's.
        entry(archive, "null-link", tarfile.LNKTYPE, linkname="null", mode=0o7777)

    prey.bring_in(forged(tar_of(fill)).write(tmp_path / "i.tar"))
    with prey.root(tmp_path / "root") as root:
        found = {path.name: path.lstat() for path in root.iterdir()}
        assert {name: (oct(s.st_mode), s.st_rdev) for name, s in found.items()} == {
            "null": (oct(stat.S_IFCHR | 0o7777), os.makedev(1, 3)),
            "null-link": (oct(stat.S_IFCHR | 0o7777), os.makedev(1, 3)),
            "disk": (oct(stat.S_IFBLK), os.makedev(259, 1048575)),
            "fifo": (oct(stat.S_IFIFO | 0o1), 0),
            "liar": (oct(stat.S_IFCHR | 0o644), os.makedev(1, 5)),
        }


def test_a_whiteout_device_is_no_way_to_hide(prey: Prey, tmp_path: Path) -> None:
    """A character device 0:0 is overlayfs' own whiteout."""

    def fill(archive: tarfile.TarFile) -> None:
        add_file(archive, "other", b"other")
        entry(archive, "hidden", tarfile.CHRTYPE, mode=0o666, devmajor=0, devminor=0)

    prey.bring_in(forged(tar_of(fill)).write(tmp_path / "i.tar"))
    with prey.root(tmp_path / "root") as root:
        assert (root / "other").read_text() == "other"


def test_100_000_entries(prey: Prey, tmp_path: Path) -> None:
    def fill(archive: tarfile.TarFile) -> None:
        for number in range(100_000):
            if number % 1000 == 0:
                add_folder(archive, f"d{number // 1000}")
            entry(archive, f"d{number // 1000}/{number}", tarfile.REGTYPE, mode=0o644)

    prey.bring_in(forged(tar_of(fill)).write(tmp_path / "i.tar"))
    with prey.root(tmp_path / "root") as root:
        assert sum(len(files) for _, _, files in os.walk(root)) == 100_000


def test_names_of_nearly_4_kib(prey: Prey, tmp_path: Path) -> None:
    name = "/".join(["n" * 254] * 16)[:4095]
    assert len(name) > 4000
    prey.bring_in(forged(tar_of(lambda a: add_file(a, name, b"deep"))).write(tmp_path / "i.tar"))
    with prey.root(tmp_path / "root") as root:
        assert read_deep(root, name) == b"deep"


def read_deep(root: Path, name: str) -> bytes:
    """A file whose path from ``/`` is too long for a system call."""
    *folders, last = name.split("/")
    descriptor = os.open(root, os.O_PATH)
    for folder in folders:
        deeper = os.open(folder, os.O_PATH, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = deeper
    with os.fdopen(os.open(last, os.O_RDONLY, dir_fd=descriptor), "rb") as file:
        os.close(descriptor)
        return file.read()


@pytest.mark.parametrize("name", ["/".join(["n" * 254] * 17), "n" * 256], ids=["path", "component"])
def test_names_that_are_too_long_are_refused(prey: Prey, tmp_path: Path, name: str) -> None:
    archive = forged(tar_of(lambda a: add_file(a, name, b"deep"))).write(tmp_path / "i.tar")
    with pytest.raises(RefusedError, match=r"nnnn|4095 bytes of path|bytes of path"):
        prey.bring_in(archive)


def test_a_link_target_that_is_too_long_is_refused(prey: Prey, tmp_path: Path) -> None:
    archive = forged(tar_of(lambda a: add_link(a, "long", "x/" * 5000))).write(tmp_path / "i.tar")
    with pytest.raises(RefusedError, match="long"):
        prey.bring_in(archive)


# Blobs that are not what they say


def good_tar() -> bytes:
    return tar_of(lambda archive: [add_file(archive, f"f{n}", os.urandom(5000)) for n in range(20)])


def layer_digest(image: Forged) -> str:
    """Without its algorithm: an archive's own folders are named so."""
    return digest_of(image.layers[0]).partition(":")[2]


def test_a_flipped_byte_in_a_blob(prey: Prey, tmp_path: Path) -> None:
    image = forged(good_tar())

    def flip(blobs: dict[str, bytes], layers: list[str]) -> None:
        blobs[layers[0]] = flipped(blobs[layers[0]])

    image.stored = flip
    with pytest.raises(RefusedError, match=layer_digest(image)):
        prey.bring_in(image.write(tmp_path / "i.tar"))


def flipped(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 0x10]) + data[middle + 1 :]


def test_a_flipped_byte_that_the_digest_covers(prey: Prey, tmp_path: Path) -> None:
    tar = good_tar()
    image = Forged([flipped(gzip.compress(tar))], [digest_of(tar)])
    with pytest.raises(RefusedError, match=layer_digest(image)):
        prey.bring_in(image.write(tmp_path / "i.tar"))


def test_a_layer_that_is_not_there(prey: Prey, tmp_path: Path) -> None:
    image = forged(good_tar())
    image.stored = lambda blobs, layers: blobs.pop(layers[0]) and None
    with pytest.raises(RefusedError, match=layer_digest(image)):
        prey.bring_in(image.write(tmp_path / "i.tar"))


def test_a_wrong_diff_id(prey: Prey, tmp_path: Path) -> None:
    image = Forged([gzip.compress(good_tar())], ["sha256:" + "7" * 64])
    with pytest.raises(RefusedError, match=f"wrong diff (id|ID).*|{'7' * 64}"):
        prey.bring_in(image.write(tmp_path / "i.tar"))


def test_fewer_diff_ids_than_layers(prey: Prey, tmp_path: Path) -> None:
    image = forged(good_tar(), good_tar())
    image.diff_ids = image.diff_ids[:1]
    with pytest.raises(
        RefusedError, match=r"mismatched image rootfs and manifest layers|2 layers.*1 diff IDs"
    ):
        prey.bring_in(image.write(tmp_path / "i.tar"))


@pytest.mark.parametrize("cut", [0.5, 0.999], ids=["half", "last-bytes"])
def test_a_truncated_gzip(prey: Prey, tmp_path: Path, cut: float) -> None:
    tar = good_tar()
    whole = gzip.compress(tar)
    image = Forged([whole[: int(len(whole) * cut)]], [digest_of(tar)])
    with pytest.raises(RefusedError, match=layer_digest(image)):
        prey.bring_in(image.write(tmp_path / "i.tar"))


@pytest.mark.parametrize("size", [700, 1024 + 5000], ids=["in-content", "in-header"])
@pytest.mark.parametrize("media_type", [OCI_LAYER_GZIP, OCI_LAYER], ids=["gzip", "plain"])
def test_a_truncated_tar(prey: Prey, tmp_path: Path, size: int, media_type: str) -> None:
    tar = good_tar()[:size]
    stored = gzip.compress(tar) if media_type == OCI_LAYER_GZIP else tar
    image = Forged([stored], [digest_of(tar)], media_type)
    with pytest.raises(RefusedError, match=layer_digest(image)):
        prey.bring_in(image.write(tmp_path / "i.tar"))


def test_what_is_no_tar(prey: Prey, tmp_path: Path) -> None:
    noise = os.urandom(10_000)
    image = Forged([gzip.compress(noise)], [digest_of(noise)])
    with pytest.raises(RefusedError, match=layer_digest(image)):
        prey.bring_in(image.write(tmp_path / "i.tar"))


# A bomb


@pytest.fixture
def small(short_folder: Path) -> Iterator[Path]:
    """48 MiB of room."""
    libc = ctypes.CDLL(None, use_errno=True)
    folder = short_folder / "small"
    folder.mkdir()
    if libc.mount(b"tmpfs", os.fsencode(folder), b"tmpfs", 0, b"size=48m"):
        raise OSError(ctypes.get_errno(), "mount tmpfs")
    yield folder
    unmount_below(folder)


@pytest.mark.parametrize("snapshotter", SNAPSHOTTERS)
@pytest.mark.parametrize("way", ["ctr", "library"])
def test_a_bomb_fills_the_disk_and_the_disk_is_free_again(
    small: Path, token: str, tmp_path: Path, way: str, snapshotter: str
) -> None:
    daemon = DaemonProcess(small)
    daemon.start()
    try:
        prey = Prey(daemon, tmp_path, way, snapshotter, Ctr(daemon.address, token))
        free = shutil.disk_usage(small).free
        # Not zeros, which are holes in a file.
        image = forged(tar_of(lambda archive: add_file(archive, "bomb", b"x" * (256 << 20))))
        assert len(image.layers[0]) < 2 << 20
        with pytest.raises(RefusedError, match=r"(?i)no space left"):
            prey.bring_in(image.write(tmp_path / "bomb.tar"))
        prey.remove_all()
        # Log and database have grown a little.
        assert shutil.disk_usage(small).free > free - (8 << 20)
        prey.bring_in(busybox_archive(tmp_path / "good.tar", NAME))
        prey.remove_all()
        daemon.stop()
    finally:
        daemon.cleanup()


@pytest.mark.parametrize("way", ["ctr", "library"])
def test_a_full_disk_while_an_archive_comes_in(small: Path, token: str, tmp_path: Path, way: str) -> None:
    """The blobs themselves do not fit: no ingest stays."""
    daemon = DaemonProcess(small)
    daemon.start()
    try:
        prey = Prey(daemon, tmp_path, way, "overlayfs", Ctr(daemon.address, token))
        noise = tar_of(lambda archive: add_file(archive, "noise", os.urandom(64 << 20)))
        with pytest.raises(RefusedError, match=r"(?i)no space left"):
            prey.bring_in(forged(noise).write(tmp_path / "large.tar"))
        prey.remove_all()
        daemon.stop()
    finally:
        daemon.cleanup()
