"""One open ingest of the local blob store."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

from containerd_hybrid._native import Growing, HttpBody, Ingest
from containerd_hybrid.content.api import BlobStat
from containerd_hybrid.content.ingest_folder import IngestRecord, write_updated
from containerd_hybrid.errors import (
    AbortedError,
    CallCancelledError,
    DataLossError,
    DigestMismatchError,
    FailedPreconditionError,
    HybridError,
    SizeMismatchError,
    UnavailableError,
    error_for_os,
)
from containerd_hybrid.model import Digest


class LocalIngest:
    """A :class:`~containerd_hybrid.content.api.BlobIngest` in ``folder``; owns the descriptor ``fd``.

    Methods exclude each other: a caller that was cancelled while its write still runs in a thread may
    close at once, and the descriptor's number must not be given to another file before the write ends.
    """

    def __init__(
        self,
        folder: Path,
        fd: int,
        record: IngestRecord,
        algorithm: str,
        *,
        publish: Callable[[Path, BlobStat], BlobStat],
        release: Callable[[], None],
        sync: bool,
    ) -> None:
        self._hasher = Ingest(fd, algorithm, record.offset)
        self._folder = folder
        self._fd: int | None = fd
        self._last_digest: Digest | None = None
        self._publish = publish
        self._release = release
        self._sync = sync
        self._busy = threading.Lock()
        self.key = record.key
        self.total = record.total
        self.started_at = record.started_at
        self.updated_at = record.updated_at

    @property
    def offset(self) -> int:
        return self._hasher.arrived

    def write(self, data: bytes) -> int:
        """Append ``data`` and return the new offset.

        Raises:
            ResourceExhaustedError: the disk is full. The ingest is closed then, as after any failure,
                and may be opened again at what reached the disk.
        """
        with self._busy:
            self._open_fd("write to")
            try:
                self._hasher.write(data)
            except HybridError as error:
                self._keep()
                raise type(error)(f"cannot write to ingest {self.key}: {error.message}") from error
            self.updated_at = time.time_ns()
            return self.offset

    def receive(self, body: HttpBody, limit: int) -> int:
        """Append all of ``body`` and return the new offset.

        Raises:
            UnavailableError, SizeMismatchError, CallCancelledError: the body's fault; the ingest stays open.
            ResourceExhaustedError: the disk is full; the ingest is closed.
        """
        with self._busy:
            self._open_fd("write to")
            try:
                self._hasher.receive(body, limit)
            except (UnavailableError, SizeMismatchError, CallCancelledError):
                raise
            except HybridError as error:
                self._keep()
                raise type(error)(f"cannot write to ingest {self.key}: {error.message}") from error
            finally:
                self.updated_at = time.time_ns()
            return self.offset

    def append_file(self, fd: int, length: int) -> int:
        """Append ``length`` bytes from the offset of ``fd`` and return the new offset.

        Raises:
            UnavailableError: ``fd`` ended before. As after any failure the ingest is closed then.
            ResourceExhaustedError: the disk is full.
        """
        with self._busy:
            self._open_fd("write to")
            try:
                self._hasher.splice_from(fd, length)
            except HybridError as error:
                self._keep()
                raise type(error)(f"cannot write to ingest {self.key}: {error.message}") from error
            self.updated_at = time.time_ns()
            return self.offset

    def growing(self, total: int) -> Growing:
        """Something to read the bytes from while they are written."""
        return self._hasher.growing(self._folder / "data", total)

    def digest(self) -> Digest:
        """The digest of the bytes so far, also when it is closed."""
        with self._busy:
            return self._last_digest or Digest.parse(self._hasher.digest())

    def truncate(self) -> None:
        """Begin again with nothing."""
        with self._busy:
            self._open_fd("truncate")
            try:
                self._hasher.truncate()
            except HybridError as error:
                self._keep()
                raise type(error)(f"cannot truncate ingest {self.key}: {error.message}") from error
            self.updated_at = time.time_ns()

    def commit(self, size: int, expected: Digest | None) -> BlobStat:
        """Make the bytes a blob; the ingest is closed whatever comes out.

        ``size`` 0 and ``expected`` None mean that the caller has no expectation. After a mismatch
        the bytes stay, for the caller may have been wrong about them.

        Raises:
            SizeMismatchError, DigestMismatchError: nothing becomes visible.
            AbortedError: the ingest was removed meanwhile.
            ResourceExhaustedError: the disk is full.
        """
        with self._busy:
            fd = self._open_fd("commit")
            try:
                blob = self._commit(fd, size, expected)
            except FileNotFoundError as error:
                self._let_go()
                raise AbortedError(
                    f"ingest {self.key} was removed before it was committed: aborted"
                ) from error
            except OSError as error:
                self._keep()
                raise error_for_os(error, f"commit ingest {self.key}") from error
            except BaseException:
                self._keep()
                raise
            self._let_go()
            return blob

    def close(self) -> None:
        """Release the ingest for another writer, keeping its bytes."""
        with self._busy:
            self._keep()

    def _commit(self, fd: int, size: int, expected: Digest | None) -> BlobStat:
        found = os.fstat(fd).st_size
        if found != self.offset:
            raise DataLossError(f"ingest {self.key} has {found} bytes on disk, {self.offset} were written")
        if size > 0 and size != found:
            raise SizeMismatchError(f"unexpected commit size {found}, expected {size}: failed precondition")
        digest = Digest.parse(self._hasher.digest())
        if expected is not None and expected.algorithm != digest.algorithm:
            digest = Digest.parse(self._hasher.rehash(expected.algorithm))
        if expected is not None and expected != digest:
            raise DigestMismatchError(
                f"unexpected commit digest {digest}, expected {expected}: failed precondition"
            )
        now = time.time_ns()
        os.utime(fd, ns=(now, now))
        if self._sync:
            self._hasher.sync()
        blob = self._publish(self._folder, BlobStat(digest, found, now))
        os.fchmod(fd, 0o444)  # last, for an ingest that a crash leaves behind has to be writable
        return blob

    def _keep(self) -> None:
        """Close, leaving behind what a later writer needs to resume."""
        if self._fd is None:
            return
        try:
            if self._sync:
                os.fsync(self._fd)
            write_updated(self._folder, self.updated_at)
        except OSError:
            pass  # removed meanwhile, or the disk is full: opening it again hashes what is there
        finally:
            self._let_go()

    def _let_go(self) -> None:
        if self._fd is not None:
            self._last_digest = Digest.parse(self._hasher.digest())
            self._hasher.close()
            os.close(self._fd)
            self._fd = None
            self._release()

    def _open_fd(self, what: str) -> int:
        if self._fd is None:
            raise FailedPreconditionError(f"cannot {what} closed ingest {self.key}: failed precondition")
        return self._fd
