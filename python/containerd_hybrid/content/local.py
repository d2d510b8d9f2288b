"""Blobs and ingests in a folder, laid out as containerd lays them out.

::

    <root>/
        blobs/<algorithm>/<hex>     committed: read-only, never changed
        ingest/<sha256 of the key>/ see ingest_folder

A blob is visible only when its bytes were verified, for it gets its name by a rename afterwards. A
folder below ``ingest`` that a crash left half made is removed when the store is opened.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from containerd_hybrid._native import hash_file, read_cached
from containerd_hybrid.content.api import BlobStat, IngestStatus
from containerd_hybrid.content.ingest_folder import IngestRecord, format_time, read_record, write_record
from containerd_hybrid.content.local_ingest import LocalIngest
from containerd_hybrid.errors import (
    DataLossError,
    InvalidArgumentError,
    InvalidDigestError,
    NotFoundError,
    UnavailableError,
    error_for_os,
)
from containerd_hybrid.model import Digest

_ALGORITHMS = ("sha256", "sha384", "sha512")


class LocalBlobStore:
    """The :class:`~containerd_hybrid.content.api.BlobStore` of ``root``
    (``<daemon's root>/io.containerd.content.v1.content``).

    With ``sync`` a committed blob survives a power failure; without it only a crash of the process.
    """

    def __init__(self, root: Path, *, sync: bool = True) -> None:
        self._root = root
        self._blobs = root / "blobs"
        self._ingests = root / "ingest"
        self._sync = sync
        self._guard = threading.Lock()
        self._locked: dict[str, int] = {}  # folder name → since when, for every open ingest; under _guard
        try:
            self._make_folder(self._blobs / "sha256")
            self._make_folder(self._ingests)
            self.cleanup()
        except OSError as error:
            raise error_for_os(error, f"open the content store {root}") from error

    # --- blobs

    def path(self, digest: Digest) -> Path:
        """Where a blob is, or would be."""
        return self._blobs / digest.algorithm / digest.hex

    def _name(self, digest: Digest) -> str:
        """As :meth:`path`, for what is done often."""
        return f"{self._blobs}/{digest.algorithm}/{digest.hex}"

    def stat(self, digest: Digest) -> BlobStat:
        """Raises: NotFoundError."""
        try:
            found = self.path(digest).stat()
        except FileNotFoundError:
            raise NotFoundError(f"content {digest}: not found") from None
        return BlobStat(digest, found.st_size, found.st_mtime_ns)

    def open(self, digest: Digest) -> int:
        """A read-only descriptor; the caller closes it.

        Raises:
            NotFoundError: there is no such blob.
        """
        try:
            return os.open(self.path(digest), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise NotFoundError(f"content {digest}: not found") from None
        except OSError as error:
            raise error_for_os(error, f"open content {digest}") from error

    def read_cached(self, digest: Digest, size: int, offset: int, length: int) -> bytes | None:
        """See :meth:`containerd_hybrid.content.api.BlobStore.read_cached`."""
        return read_cached(self._name(digest), size=size, offset=offset, length=length)

    def remove(self, digest: Digest) -> None:
        """Raises: NotFoundError."""
        try:
            # The collector does this thousands of times, and to make a Path takes half as long again.
            os.unlink(self._name(digest))  # noqa: PTH108
        except FileNotFoundError:
            raise NotFoundError(f"content {digest}: not found") from None
        except OSError as error:
            raise error_for_os(error, f"remove content {digest}") from error

    def walk(self) -> Iterator[BlobStat]:
        """All blobs, in no order. What is not named like a blob is passed over."""
        for algorithm in _ALGORITHMS:
            try:
                entries = os.scandir(self._blobs / algorithm)
            except FileNotFoundError:
                continue
            with entries:
                for entry in entries:
                    try:
                        digest = Digest.parse(f"{algorithm}:{entry.name}")
                        found = entry.stat(follow_symlinks=False)
                    except (InvalidDigestError, FileNotFoundError):
                        continue
                    yield BlobStat(digest, found.st_size, found.st_mtime_ns)

    def verify(self, digest: Digest) -> BlobStat:
        """Read a blob's every byte.

        Raises:
            NotFoundError: there is no such blob.
            DataLossError: its bytes are not what its name says.
        """
        fd = self.open(digest)
        try:
            found = hash_file(fd, digest.algorithm)
        finally:
            os.close(fd)
        if found != str(digest):
            raise DataLossError(
                f"content {digest} is damaged: {self.path(digest)} has the digest {found}; "
                "delete it and fetch it again"
            )
        return self.stat(digest)

    def link(self, source: Path, digest: Digest) -> BlobStat:
        """Take the file ``source`` as a blob: by a hard link, or a copy where that is not possible.

        Its bytes are not looked at. A blob that is here stays.
        """
        target = self.path(digest)
        try:
            self._make_folder(target.parent)
            try:
                os.link(source, target, follow_symlinks=False)
            except FileExistsError:
                return self.stat(digest)
            except OSError as error:
                # Another file system, or one without links, or with too many.
                if error.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP):
                    raise
                self._copy(source, target)
            if self._sync:
                sync_path(target.parent)
        except OSError as error:
            raise error_for_os(error, f"link {source} as content {digest}") from error
        return self.stat(digest)

    def _copy(self, source: Path, target: Path) -> None:
        # A folder without a record is what the next start removes if this is killed.
        folder = self._ingests / f"copy-{os.urandom(8).hex()}"
        folder.mkdir()
        try:
            part = folder / "data"
            shutil.copyfile(source, part, follow_symlinks=False)
            if self._sync:
                sync_path(part)
            part.rename(target)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    # --- ingests

    def open_ingest(self, key: str, total: int = 0, expected: Digest | None = None) -> LocalIngest:
        """Begin the ingest ``key``, or resume it where its bytes end.

        ``expected`` chooses the algorithm that hashes while writing; it is not compared before the
        commit. A ``total`` other than the one the ingest began with makes it begin again.

        Raises:
            UnavailableError: it is open already.
            ResourceExhaustedError: the disk is full.
        """
        if not key:
            raise InvalidArgumentError("ref must not be empty: invalid argument")
        folder = self._folder(key)
        self._lock(folder.name, key)
        try:
            return self._open_locked(folder, key, max(total, 0), expected)
        except OSError as error:
            self._unlock(folder.name)
            raise error_for_os(error, f"open ingest {key}") from error
        except BaseException:
            self._unlock(folder.name)
            raise

    def ingest_status(self, key: str) -> IngestStatus:
        """How far an ingest is that need not be open.

        Raises:
            NotFoundError: there is none, or it is half made.
        """
        try:
            record = read_record(self._folder(key))
        except (OSError, ValueError) as error:
            raise NotFoundError(f"ingest {key}: {error}: not found") from error
        return IngestStatus(key, record.offset, record.total, None, record.started_at, record.updated_at)

    def ingest_keys(self) -> Iterator[str]:
        """The keys of all ingests, in no order."""
        for folder in self._ingests.iterdir():
            try:
                yield (folder / "ref").read_bytes().decode()
            except (OSError, UnicodeDecodeError):
                continue  # being made or removed just now, or the next clean-up's business

    def remove_ingest(self, key: str) -> None:
        """Remove an ingest and its bytes, even while it is open: its commit then fails. None is no error."""
        try:
            shutil.rmtree(self._folder(key))
        except FileNotFoundError:
            return
        except OSError as error:
            raise error_for_os(error, f"remove ingest {key}") from error

    def cleanup(self) -> None:
        """Remove ingest folders that a crash left half made."""
        for folder in self._ingests.iterdir():
            try:
                half_made = folder != self._folder(read_record(folder).key)
            except (OSError, ValueError):
                half_made = True
            if half_made:
                with self._guard:
                    if folder.name not in self._locked:
                        shutil.rmtree(folder, ignore_errors=True)

    def _folder(self, key: str) -> Path:
        return self._ingests / hashlib.sha256(key.encode()).hexdigest()

    def _open_locked(self, folder: Path, key: str, total: int, expected: Digest | None) -> LocalIngest:
        folder.mkdir(exist_ok=True)
        fd = os.open(folder / "data", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            self._lock_file(fd, key)
            record = self._resumable(folder, key, total)
            if record is None:
                record = _begin(folder, fd, key, total)
            return LocalIngest(
                folder,
                fd,
                record,
                expected.algorithm if expected else "sha256",
                publish=self._publish,
                release=lambda: self._unlock(folder.name),
                sync=self._sync,
            )
        except BaseException:
            os.close(fd)
            raise

    def _resumable(self, folder: Path, key: str, total: int) -> IngestRecord | None:
        try:
            record = read_record(folder)
        except (FileNotFoundError, ValueError):
            return None
        if record.key != key or (total > 0 and record.total > 0 and total != record.total):
            return None
        return record

    def _publish(self, folder: Path, blob: BlobStat) -> BlobStat:
        """Give the verified bytes in ``folder`` their name; a blob that is there already is kept."""
        target = self.path(blob.digest)
        self._make_folder(target.parent)
        try:
            existing = self.stat(blob.digest)
        except NotFoundError:
            existing = None
        # One of another size is damaged, and here are the bytes to heal it with.
        if existing is not None and existing.size == blob.size:
            blob = existing
        else:
            (folder / "data").rename(target)
            if self._sync:
                sync_path(target.parent)
        shutil.rmtree(folder, ignore_errors=True)
        return blob

    def _make_folder(self, folder: Path) -> None:
        if folder.is_dir():
            return
        folder.mkdir(parents=True, exist_ok=True)
        if self._sync:
            sync_path(folder.parent)

    def _lock(self, name: str, key: str) -> None:
        with self._guard:
            since = self._locked.get(name)
            if since is None:
                self._locked[name] = time.time_ns()
                return
        seconds = (time.time_ns() - since) / 1e9
        raise UnavailableError(
            f"ref {key} locked for {seconds:.3f}s (since {format_time(since)}): unavailable"
        )

    def _lock_file(self, fd: int, key: str) -> None:
        """Keep out another process on the same root; the kernel unlocks when the descriptor is gone."""
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UnavailableError(f"ref {key} locked by another process: unavailable") from None

    def _unlock(self, name: str) -> None:
        with self._guard:
            self._locked.pop(name, None)


def _begin(folder: Path, fd: int, key: str, total: int) -> IngestRecord:
    """Make a folder one of a new ingest, whatever was in it; on failure nothing stays."""
    now = time.time_ns()
    record = IngestRecord(key, 0, total, now, now)
    try:
        os.ftruncate(fd, 0)
        write_record(folder, record)
    except OSError:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return record


def sync_path(path: Path) -> None:
    """Bring a file, or the names in a folder, to the disk."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
