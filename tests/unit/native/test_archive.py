"""Layers applied and made over the native module: what Python hands in, gets back, and is raised."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import tarfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from containerd_hybrid import _native
from containerd_hybrid.errors import (
    CallCancelledError,
    DigestMismatchError,
    HybridError,
    InvalidArgumentError,
    InvalidDigestError,
    NotFoundError,
    ResourceExhaustedError,
    SizeMismatchError,
    UnimplementedError,
)

WRONG = "sha256:" + "0" * 64


def digest_of(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def archive(**files: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.uid, entry.gid = len(data), os.getuid(), os.getgid()
            tar.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


@contextmanager
def opened(path: Path, data: bytes) -> Iterator[int]:
    path.write_bytes(data)
    fd = os.open(path, os.O_RDONLY)
    try:
        yield fd
    finally:
        os.close(fd)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "root"
    folder.mkdir()
    return folder


def test_one_pass_gives_the_files_and_both_digests(tmp_path: Path, root: Path) -> None:
    plain = archive(a=b"alpha", b=b"beta" * 100_000)
    packed = gzip.compress(plain)
    with opened(tmp_path / "layer", packed) as fd:
        applied = _native.apply_layer(
            fd,
            root,
            compression="gzip",
            whiteouts="remove",
            digest=digest_of(packed),
            size=len(packed),
            diff_id=digest_of(plain),
            sync=True,
        )
    assert (root / "a").read_bytes() == b"alpha"
    assert (root / "b").read_bytes() == b"beta" * 100_000
    assert (applied.digest, applied.size) == (digest_of(packed), len(packed))
    assert (applied.diff_id, applied.unpacked_size) == (digest_of(plain), len(plain))
    assert (applied.entries, applied.compression, applied.warnings) == (2, "gzip", [])
    assert _native.gzip_backend()


def test_a_descriptor_is_read_from_its_offset_and_stays_open(tmp_path: Path, root: Path) -> None:
    plain = archive(a=b"alpha")
    with opened(tmp_path / "layer", b"junk" + plain) as fd:
        os.lseek(fd, 4, os.SEEK_SET)
        applied = _native.apply_layer(fd, str(root), compression="none")
        assert (applied.digest, applied.diff_id) == (digest_of(plain), digest_of(plain))
        os.fstat(fd)


def test_a_layer_can_come_through_a_pipe(root: Path) -> None:
    plain = archive(a=b"x" * 1_000_000)
    reading, writing = os.pipe()

    def feed() -> None:
        with os.fdopen(writing, "wb") as pipe:
            pipe.write(plain)

    feeding = threading.Thread(target=feed)
    feeding.start()
    applied = _native.apply_layer(reading, root)
    feeding.join()
    os.close(reading)
    assert applied.diff_id == digest_of(plain)


@pytest.mark.parametrize(
    ("promise", "error", "message"),
    [
        ({"digest": WRONG}, DigestMismatchError, "digest mismatch: expected sha256:000"),
        ({"diff_id": WRONG}, DigestMismatchError, "diff ID mismatch: expected sha256:000"),
        ({"size": 7}, SizeMismatchError, "expected 7 bytes"),
        ({"digest": "sha256:xyz"}, InvalidDigestError, "sha256:xyz"),
        ({"diff_id": "md5:00"}, InvalidDigestError, "md5"),
        ({"max_entries": 1}, ResourceExhaustedError, "limit of 1"),
        ({"max_unpacked": 1000}, ResourceExhaustedError, "limit of 1000"),
        ({"compression": "lz4"}, InvalidArgumentError, '\'?"lz4": expected one of auto, none, gzip, zstd'),
        ({"whiteouts": "aufs"}, InvalidArgumentError, '"aufs": expected one of overlay, overlay-userxattr'),
        ({"compression": "zstd"}, InvalidArgumentError, "zstd"),
    ],
    ids=lambda value: str(next(iter(value))) if isinstance(value, dict) else None,
)
def test_what_was_promised_and_is_not_so(
    tmp_path: Path, root: Path, promise: dict[str, object], error: type[HybridError], message: str
) -> None:
    with (
        opened(tmp_path / "layer", gzip.compress(archive(a=b"a", b=b"b"))) as fd,
        pytest.raises(error, match=message),
    ):
        _native.apply_layer(fd, root, **promise)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (gzip.compress(archive(a=b"a" * 10_000))[:-20], InvalidArgumentError),
        (b"no archive at all " * 100, InvalidArgumentError),
        (b"\xfd7zXZ\x00" + bytes(1100), UnimplementedError),
    ],
    ids=["truncated", "nonsense", "xz"],
)
def test_a_damaged_or_foreign_archive_names_the_target(
    tmp_path: Path, root: Path, data: bytes, error: type[HybridError]
) -> None:
    with (
        opened(tmp_path / "layer", data) as fd,
        pytest.raises(error, match=f"apply layer to {root}: "),
    ):
        _native.apply_layer(fd, root)


def test_nothing_leaves_the_target(tmp_path: Path, root: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (root / "link").symlink_to(outside)
    with (
        opened(tmp_path / "layer", archive(**{"link/x": b"x", "../y": b"y"})) as fd,
        suppress(InvalidArgumentError),  # refused, or placed inside: both are safe
    ):
        _native.apply_layer(fd, root, whiteouts="remove")
    assert list(outside.iterdir()) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["layer", "outside", "root"]


def test_a_missing_target_and_a_bad_descriptor(tmp_path: Path, root: Path) -> None:
    with opened(tmp_path / "layer", archive()) as fd:
        with pytest.raises(NotFoundError, match=r"open folder .*absent"):
            _native.apply_layer(fd, tmp_path / "absent")
        with pytest.raises(InvalidArgumentError, match="layer"):
            _native.apply_layer(fd, tmp_path / "layer")
    with pytest.raises(InvalidArgumentError, match="descriptor -1"):
        _native.apply_layer(-1, root)


def test_a_token_ends_a_running_call(root: Path) -> None:
    token = _native.CancelToken()
    assert not token.cancelled
    reading, writing = os.pipe()
    raised: list[BaseException] = []

    def apply() -> None:
        try:
            _native.apply_layer(reading, root, cancel=token)
        except HybridError as error:
            raised.append(error)

    applying = threading.Thread(target=apply)
    applying.start()
    os.write(writing, archive(a=b"a" * 100_000)[:50_000])
    token.cancel()
    assert token.cancelled
    # Whoever waits for bytes sees the token with the next of them, or at the end.
    os.close(writing)
    applying.join()
    os.close(reading)
    assert [type(error) for error in raised] == [CallCancelledError]


def test_a_cancelled_token_ends_a_call_before_it_began(tmp_path: Path, root: Path) -> None:
    token = _native.CancelToken()
    token.cancel()
    with (
        opened(tmp_path / "layer", archive(a=b"a")) as fd,
        pytest.raises(CallCancelledError, match="cancelled"),
    ):
        _native.apply_layer(fd, root, cancel=token)
    with (tmp_path / "sink").open("wb") as sink, pytest.raises(CallCancelledError, match=str(root)):
        _native.diff_layers(None, root, sink.fileno(), compression="gzip", cancel=token)


@pytest.mark.parametrize("compression", ["none", "gzip", "zstd"])
def test_a_diff_applied_to_the_lower_tree_gives_the_upper_one(tmp_path: Path, compression: str) -> None:
    lower, upper, again = (tmp_path / name for name in ("lower", "upper", "again"))
    for folder in (lower, upper, again):
        folder.mkdir()
        (folder / "same").write_text("same")
        os.utime(folder / "same", (1, 1))
    for folder in (lower, again):
        (folder / "gone").write_text("gone")
    (upper / "new").write_text("new" * 1000)
    with (tmp_path / "layer").open("w+b") as layer:
        made = _native.diff_layers(lower, upper, layer.fileno(), compression=compression, level=1)
        data = (tmp_path / "layer").read_bytes()
        assert (made.digest, made.size) == (digest_of(data), len(data))
        layer.seek(0)
        applied = _native.apply_layer(
            layer.fileno(), again, whiteouts="remove", digest=made.digest, diff_id=made.diff_id
        )
    assert applied.compression == compression
    assert applied.unpacked_size == made.unpacked_size
    assert sorted(path.name for path in again.iterdir()) == ["new", "same"]


def test_a_diff_without_a_lower_tree_and_with_a_latest_time(tmp_path: Path, root: Path) -> None:
    (root / "file").write_text("x")
    with (tmp_path / "layer").open("w+b") as layer:
        _native.diff_layers(None, root, layer.fileno(), compression="none", source_date_epoch=1_000_000)
    with tarfile.open(tmp_path / "layer") as tar:
        assert [(entry.name, entry.mtime) for entry in tar if entry.isfile()] == [("file", 1_000_000)]


def test_what_cannot_be_made_is_told(tmp_path: Path, root: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        with pytest.raises(InvalidArgumentError, match="expected one of none, gzip, zstd"):
            _native.diff_layers(None, root, writing, compression="auto")
        with pytest.raises(InvalidArgumentError, match="level"):
            _native.diff_layers(None, root, writing, compression="gzip", level=99)
        with pytest.raises(NotFoundError, match="absent"):
            _native.diff_layers(tmp_path / "absent", root, writing, compression="gzip")
        with pytest.raises(HybridError, match="Broken pipe"):
            _native.diff_layers(None, root, writing, compression="none")
    finally:
        os.close(writing)


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="overlay's marks need root")
@pytest.mark.parametrize("userxattr", [False, True])
def test_whiteouts_of_an_overlay_are_marks(tmp_path: Path, root: Path, userxattr: bool) -> None:
    lower = tmp_path / "lower"
    (lower / "dir").mkdir(parents=True)
    (lower / "dir").chmod(0o711)
    (lower / "dir" / "hidden").touch()
    (lower / "gone").touch()  # a mark over nothing would be a name that cannot be opened
    with opened(
        tmp_path / "layer", archive(**{".wh.gone": b"", "dir/.wh..wh..opq": b"", "dir/x": b""})
    ) as fd:
        whiteouts = "overlay-userxattr" if userxattr else "overlay"
        _native.apply_layer(fd, root, whiteouts=whiteouts, parents=[lower])
    assert (root / "gone").is_char_device()
    name = "user.overlay.opaque" if userxattr else "trusted.overlay.opaque"
    assert os.getxattr(root / "dir", name) == b"y"
    assert (root / "dir").stat().st_mode & 0o777 == 0o711
