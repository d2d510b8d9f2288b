"""The Rust half of the package (``rust/native``): what touches every byte or makes many system calls.

Every function blocks, so the daemon calls it in a thread, and none holds the GIL while it works; only
those of FrontConnection, which wait for nothing, are for the event loop and hold it. None keeps or
closes a descriptor it is given. Exceptions are those of ``containerd_hybrid.errors``. Beside
those named with a function, each raises by the kernel's answer: NotFoundError, PermissionDeniedError,
ResourceExhaustedError (disk, quota, memory, descriptors), UnavailableError (busy), FailedPreconditionError
(read-only file system), DataLossError (input/output error), UnimplementedError (this kernel cannot),
InvalidArgumentError, and InternalError for a bug of ours. Messages name the operation and the path.

Sizes and offsets are bytes. Digests are text, ``sha256:…``.
"""

# ruff: noqa: PYI021  (this is where the module is documented; there is no other Python source of it)

from collections.abc import Iterable, Sequence
from os import PathLike
from typing import Any, Self, TypeAlias, final

from typing_extensions import Buffer

__all__ = [
    "AppliedLayer",
    "CancelToken",
    "DiffedLayer",
    "FrontConnection",
    "FrontRoutes",
    "Growing",
    "HttpBody",
    "HttpClient",
    "Ingest",
    "MountInfo",
    "Pattern",
    "TlsSettings",
    "WirePlan",
    "apply_layer",
    "create_subvolume",
    "delete_subvolume",
    "diff_layers",
    "disk_usage",
    "gzip_backend",
    "hash_file",
    "keep_memory_low",
    "make_recipe",
    "mount_all",
    "mount_temporary",
    "mounted",
    "mountinfo",
    "project_id",
    "project_usage",
    "read_cached",
    "read_recipe",
    "rebuild_blob",
    "remove_tree",
    "set_project_id",
    "set_project_limit",
    "set_subvolume_read_only",
    "subvolume_id",
    "unmount_all",
    "unmount_each",
    "unmount_temporary",
    "unpack_layer",
]

_Path: TypeAlias = str | PathLike[str]
_Mount: TypeAlias = tuple[str, str, str, Sequence[str]]

@final
class CancelToken:
    """Makes the call it is given to end soon, with CallCancelledError. From any thread, at any time."""

    def __new__(cls) -> CancelToken: ...
    def cancel(self) -> None: ...
    @property
    def cancelled(self) -> bool: ...

@final
class AppliedLayer:
    """What was found while a layer was applied."""

    @property
    def digest(self) -> str | None:
        """Of the bytes as they were read; None when they came from a :class:`Growing`."""

    @property
    def size(self) -> int:
        """Number of the bytes that were read."""

    @property
    def diff_id(self) -> str:
        """Digest of the uncompressed archive."""

    @property
    def unpacked_size(self) -> int:
        """Length of the uncompressed archive."""

    @property
    def entries(self) -> int:
        """Entries of the archive, whiteouts included."""

    @property
    def compression(self) -> str:
        """``none``, ``gzip`` or ``zstd``."""

    @property
    def warnings(self) -> list[str]:
        """What was left out because the file system has no place for it; at most 32 messages."""

def apply_layer(
    source: int | Growing,
    target: _Path,
    *,
    compression: str = "auto",
    whiteouts: str = "overlay",
    parents: Sequence[_Path] = (),
    blind: bool = False,
    digest: str | None = None,
    size: int | None = None,
    diff_id: str | None = None,
    max_unpacked: int | None = None,
    max_entries: int | None = None,
    sync: bool = False,
    cancel: CancelToken | None = None,
) -> AppliedLayer:
    """Apply the layer that is read from ``source``, from its offset to its end, to the folder ``target``.

    One pass decompresses, hashes and writes. Nothing of the archive can reach outside of ``target``.
    After a failure ``target`` holds a part of the layer; the caller removes it.

    Args:
        source: A file, pipe or socket; or an ingest that is being written, whose writer sees to
            ``digest`` and ``size``: the result must not be used before the writer is content.
        compression: ``auto`` (look at the bytes), ``none``, ``gzip``, ``zstd``.
        whiteouts: How a deletion is written: ``overlay`` (overlayfs' own marks, for an ``upperdir``),
            ``overlay-userxattr`` (the same for overlays mounted with ``userxattr``), ``remove`` (delete
            what is there).
        parents: With ``overlay``: the lower folders, nearest first, whose attributes a folder gets that
            the archive does not describe.
        blind: The lower folders are not known yet; an error as soon as they would matter.
        digest, size, diff_id: What the bytes, and the uncompressed archive, must be.
        max_unpacked: Most bytes of the uncompressed archive.
        max_entries: Most entries of the archive.
        sync: Put the result on stable storage.

    Raises:
        DigestMismatchError, SizeMismatchError: the layer is not the one that was asked for.
        InvalidArgumentError: the archive is damaged, ends early, or would leave ``target``.
        InvalidDigestError: ``digest`` or ``diff_id`` cannot be parsed.
        ResourceExhaustedError: a limit, or the disk, is used up.
        UnimplementedError: compressed in a way that nobody reads here.
        FailedPreconditionError: with ``blind``: it cannot be applied without what lies below.
        AbortedError: the ingest that is read was given up, or begins anew.
        CallCancelledError: by ``cancel``.
    """

@final
class DiffedLayer:
    """The layer that was written."""

    @property
    def digest(self) -> str: ...
    @property
    def size(self) -> int: ...
    @property
    def diff_id(self) -> str:
        """Digest of the uncompressed archive."""

    @property
    def unpacked_size(self) -> int:
        """Length of the uncompressed archive."""

def unpack_layer(
    fd: int,
    sink: int,
    *,
    compression: str = "auto",
    digest: str | None = None,
    size: int | None = None,
    cancel: CancelToken | None = None,
) -> tuple[str, int]:
    """Write the uncompressed bytes of the layer in ``fd`` to ``sink``; give their diff ID and number.

    A reader of ``sink`` that has seen enough may close it: the rest is hashed all the same. Compressions
    and errors are those of :func:`apply_layer`.
    """

def make_recipe(
    fd: int,
    folder: _Path,
    sink: int,
    *,
    digest: str,
    size: int,
    place: str,
    sync: bool = False,
    cancel: CancelToken | None = None,
) -> tuple[bool, str]:
    """Write to the empty file ``sink`` a recipe for the blob in ``fd``, whose files are in ``folder``.

    True, and the encoding, when the blob has come out of the recipe byte for byte; False, and why the blob
    has to stay, otherwise.

    Args:
        digest, size: What the blob must be.
        place: What the recipe calls ``folder``; one line.
        sync: Put the recipe, and the file system of ``folder``, on stable storage.

    Raises:
        DigestMismatchError, SizeMismatchError, InvalidArgumentError: the blob is damaged, or no layer.
        CallCancelledError: by ``cancel``.
    """

def rebuild_blob(fd: int, folder: _Path, sink: int, *, cancel: CancelToken | None = None) -> None:
    """Write to ``sink`` the blob that the recipe in ``fd`` makes with the files in ``folder``.

    Raises:
        DigestMismatchError, SizeMismatchError: the files are not what they were.
        InvalidArgumentError: they are shorter or gone, or the recipe is damaged.
        CallCancelledError: by ``cancel``.
    """

def read_recipe(fd: int) -> tuple[str, int, str]:
    """The blob's digest and size, and the ``place`` of its files.

    Raises:
        InvalidArgumentError: it is no recipe.
    """

def diff_layers(
    lower: _Path | None,
    upper: _Path,
    fd: int,
    *,
    compression: str,
    level: int | None = None,
    source_date_epoch: int | None = None,
    cancel: CancelToken | None = None,
) -> DiffedLayer:
    """Write to ``fd`` the layer that makes ``upper`` of ``lower``, or of nothing.

    Both are complete trees (mounted views). Equal trees give equal bytes.

    Args:
        compression: ``none``, ``gzip``, ``zstd``.
        level: In the format's own scale; None is the format's default.
        source_date_epoch: Latest modification time in the layer, seconds since 1970.

    Raises:
        CallCancelledError: by ``cancel``; ``fd`` has a part of the layer then.
    """

def gzip_backend() -> str:
    """The library that decompresses gzip in this build, e.g. ``zlib-rs``."""

@final
class Ingest:
    """The writing end of an ingest: a file and the digest of all that is in it.

    For one thread at a time: a call while another one is running raises UnavailableError. After a failed
    write, ``offset`` says how much of it arrived.
    """

    def __new__(cls, fd: int, algorithm: str = "sha256", offset: int = 0) -> Ingest:
        """Resume at ``offset``: hash what is before it, cut off what is behind it.

        Args:
            fd: A regular file, open for reading and writing. A duplicate is kept until ``close``.
            algorithm: ``sha256``, ``sha384`` or ``sha512``.

        Raises:
            OutOfRangeError: the file ends before ``offset``.
            InvalidDigestError: the algorithm is not known.
        """

    def write(self, data: Buffer) -> int:
        """Append ``data``; the new offset. Only ``bytes`` are written without a copy."""

    def splice_from(self, fd: int, length: int | None = None) -> int:
        """Append what is read from ``fd``, ``length`` bytes or until its end; the number of bytes.

        Raises:
            UnavailableError: ``fd`` ended before ``length``; what came is kept.
        """

    def receive(self, body: HttpBody, limit: int) -> int:
        """Append all of ``body``; the number of bytes. What came before a failure is kept.

        Raises:
            UnavailableError: the connection broke or stalled.
            SizeMismatchError: more than ``limit`` bytes came.
            CallCancelledError: by the token that the body was asked for with.
        """

    def growing(self, path: _Path, total: int) -> Growing:
        """Something to read the ingest from while it is written, which will have ``total`` bytes.

        ``path`` is where its file is as long as it is one; it is opened when it is read.
        """

    @property
    def arrived(self) -> int:
        """How much is there; also while another thread is writing."""

    def rehash(self, algorithm: str | None = None) -> str:
        """Hash anew what is on disk, with another algorithm if one is named; the digest.

        Raises:
            DataLossError: the file is shorter than what was written to it.
        """

    def truncate(self) -> None:
        """Drop everything."""

    def digest(self) -> str:
        """Of everything written so far."""

    def sync(self) -> None:
        """Put everything written on stable storage."""

    def close(self) -> None:
        """Let go of the file; any other call raises FailedPreconditionError from now on."""

    @property
    def offset(self) -> int:
        """Number of bytes in the file."""

    @property
    def algorithm(self) -> str: ...

@final
class Growing:
    """The reading end of an ingest that is still being written; for :func:`apply_layer`."""

@final
class TlsSettings:
    """Whom to trust and who we are, for connections that share it. Contents of PEM files."""

    def __new__(
        cls,
        authorities: Sequence[bytes],
        client: tuple[bytes, bytes] | None = None,
        *,
        verify: bool = True,
    ) -> TlsSettings:
        """``client`` is the certificate chain and its key.

        Raises:
            FailedPreconditionError: one of them cannot be used.
        """

@final
class HttpClient:
    """Connections to HTTP hosts; idle ones are used again. From any thread."""

    def __new__(cls) -> HttpClient: ...
    def request(
        self,
        method: str,
        host: str,
        port: int,
        target: str,
        headers: Sequence[tuple[str, str]],
        *,
        body: bytes | None = None,
        tls: TlsSettings | None = None,
        proxy: tuple[str, int, str] | None = None,
        dial: float,
        idle: float,
        slow: float,
        slow_bytes: int,
        cancel: CancelToken,
    ) -> HttpBody:
        """Send a request and read the head of its answer, whatever the status.

        It may be sent twice, when a connection that was used before ended just then.

        Args:
            method: ``GET`` and so on, in upper case.
            target: Path and query, or the whole URL for a plain request over a proxy.
            headers: All of them, ``Host`` too, but the body's length.
            body: What is sent.
            proxy: Host, port and ``Proxy-Authorization`` (empty for none) of a plain HTTP proxy.
            dial: Seconds for the connection.
            idle: Seconds without a byte.
            slow: Less than ``slow_bytes`` in so many seconds count as nothing.
            slow_bytes: See ``slow``.
            cancel: Ends this call, and the body's.

        Raises:
            UnavailableError: the host cannot be reached, or broke off.
            FailedPreconditionError: no TLS, no trust, or no HTTP/1.1, as far as this client can tell.
            CallCancelledError: by ``cancel``.
        """

    def close(self) -> None:
        """End all idle connections."""

@final
class HttpBody:
    """An answer whose body is still to be received; for one thread at a time."""

    @property
    def status(self) -> int: ...
    @property
    def headers(self) -> list[tuple[str, str]]: ...
    def read(self, size: int) -> bytes:
        """Some bytes, at most ``size``; empty at the end.

        Raises:
            UnavailableError: the connection broke or stalled.
        """

    def close(self) -> None:
        """End a call that is running, and the connection. From any thread, at any time."""

def hash_file(fd: int, algorithm: str = "sha256") -> str:
    """The digest of a whole regular file; the offset of ``fd`` does not matter and stays."""

def keep_memory_low() -> None:
    """Make this process give memory back: two arenas for all threads, large blocks mapped by themselves.

    For a daemon, at its start; a library must not do it to its host. Nothing happens where the C library
    is not glibc (mallopt(3)).
    """

def read_cached(path: _Path, *, size: int, offset: int, length: int) -> bytes | None:
    """Bytes of a file, if the kernel has all that is needed for it in memory. Never waits, and keeps the GIL.

    None when it has not, when the file has not ``size`` bytes or cannot be opened, when it ends before
    ``offset + length``, and where the kernel (before 5.12) or the file system cannot tell.
    """

def disk_usage(path: _Path) -> tuple[int, int]:
    """Allocated bytes and inodes of the folder ``path`` and all below it, hard links counted once."""

def remove_tree(path: _Path) -> bool:
    """Remove ``path`` and all below it, whatever its depth; False when there was nothing.

    Never follows a link and never enters another mount.

    Raises:
        InvalidArgumentError: there is a mount point inside, or ``path`` is ``/`` or ends in ``..``.
    """

def mount_all(mounts: Sequence[_Mount], target: _Path) -> list[str]:
    """Mount all of ``mounts`` (type, source, target below ``target``, options) in order, or nothing.

    The result are the mount points, links resolved; a ``remount`` has none.

    Raises:
        InvalidArgumentError: an option cannot be right, or the kernel says so.
        NotFoundError: a source or a target does not exist.
        UnimplementedError: the kernel has no such file system, or a helper program is not installed.
    """

def unmount_all(target: _Path, *, lazy: bool = True, patience: float = 1.0) -> None:
    """Unmount everything on ``target`` and below it. No error when there is nothing, or no ``target``.

    Args:
        lazy: Detach what is still busy after ``patience``; else raise.
        patience: Seconds to wait for what is busy.

    Raises:
        UnavailableError: busy.
        InvalidArgumentError: ``target`` is ``/``.
    """

def unmount_each(mount_points: Sequence[_Path]) -> None:
    """Take back what :func:`mount_all` made, and nothing else: the topmost mount of each, the last first."""

def mount_temporary(mounts: Sequence[_Mount], base: _Path, prefix: str = "mount-") -> str:
    """Mount on a new folder (mode 0700) in ``base``; its path. ``base`` is made if it does not exist.

    Raises:
        as :func:`mount_all`; the folder is gone then.
    """

def unmount_temporary(path: _Path) -> None:
    """Unmount everything on ``path`` and remove the folder itself, never anything in it.

    Raises:
        FailedPreconditionError: the folder is not empty.
    """

def mounted(path: _Path) -> bool:
    """Whether something is mounted on ``path``, links followed; False when it does not exist."""

@final
class MountInfo:
    """One line of ``/proc/self/mountinfo`` (proc(5)), escapes decoded."""

    @property
    def id(self) -> int: ...
    @property
    def parent(self) -> int: ...
    @property
    def major(self) -> int: ...
    @property
    def minor(self) -> int: ...
    @property
    def root(self) -> str:
        """Folder of the file system that is mounted."""

    @property
    def mount_point(self) -> str: ...
    @property
    def options(self) -> str:
        """Of this mount."""

    @property
    def propagation(self) -> list[str]:
        """``shared:N``, ``master:N``, ``propagate_from:N``, ``unbindable``."""

    @property
    def type(self) -> str: ...
    @property
    def source(self) -> str: ...
    @property
    def super_options(self) -> str:
        """Of the file system."""

def mountinfo() -> list[MountInfo]:
    """All mounts this process sees, in the kernel's order."""

def project_id(path: _Path) -> int:
    """The project of a file or folder, for the quotas of its file system; 0 is none.

    Raises:
        FailedPreconditionError: its file system has no projects.
    """

def set_project_id(path: _Path, project: int) -> None:
    """Put a folder into a project, and with it all that will be made in it. Errors as above."""

def set_project_limit(path: _Path, project: int, bytes: int) -> None:
    """Limit a project of ``path``'s file system to ``bytes`` (rounded up to KiB); 0 takes the limit away.

    Raises:
        FailedPreconditionError: its file system has no project quotas, or they are off.
    """

def project_usage(path: _Path, project: int) -> tuple[int, int, int]:
    """Bytes, inodes and the limit in bytes (0: none) of a project. Errors as above."""

def create_subvolume(path: _Path, source: _Path | None = None, *, read_only: bool = False) -> None:
    """Make a subvolume of btrfs: empty (mode 0755), or with what the subvolume ``source`` has now."""

def delete_subvolume(path: _Path) -> None:
    """Take a subvolume away with all in it.

    Raises:
        FailedPreconditionError: there is another subvolume in it.
    """

def set_subvolume_read_only(path: _Path, read_only: bool) -> None:
    """Let a subvolume be written, or not."""

def subvolume_id(path: _Path) -> int | None:
    """What the mount option ``subvolid`` takes for ``path``; None when it is not a subvolume of btrfs."""

@final
class Pattern:
    """A regular expression in the syntax of Rust's ``regex``, which takes time in proportion to the text.

    Made from what :func:`containerd_hybrid.model.re2.compile_re2` translates.

    Raises:
        ValueError: it is none, or too large when compiled; the message shows where.
    """

    def __new__(cls, pattern: str) -> Pattern: ...
    def matches(self, text: str) -> bool:
        """Whether it matches anywhere; what is no Unicode text (a lone surrogate) has no match."""

@final
class WirePlan:
    """How values of one class are written as a protobuf message.

    Args:
        fields: Number, attribute, kind, and the plan of another message.

    Kinds: ``text`` (``str``, or what ``str()`` makes of it), ``number`` (not negative), ``time`` (Unix
    nanoseconds), ``map`` (text to text), ``any`` (a value with ``type_url`` and ``value``, or None),
    ``anys`` (text to those), ``message`` (the attribute by the plan), ``part`` (this value by the plan; it
    has no attribute). What has its default is left out, but a ``message`` and a ``part`` are always there.
    """

    def __new__(cls, fields: list[tuple[int, str, str, WirePlan | None]]) -> Self: ...
    def list(self, number: int, items: Iterable[object]) -> bytes:
        """A message that has the items in its repeated field ``number``."""

@final
class FrontRoutes:
    """The methods of a gRPC server: path, and whether the caller sends a stream of messages.

    A method's place in the list is its number.
    """

    def __new__(cls, methods: list[tuple[str, bool]]) -> Self: ...

@final
class FrontConnection:
    """The serving side of one HTTP/2 connection with gRPC calls, without I/O (the crate ``front``).

    Events are tuples:

    - ``(0, stream, method, metadata, timeout, message, compressed)``: a call begins; ``message`` is
      None when the caller sends a stream of them; ``timeout`` in seconds or None
    - ``(1, stream, path)``: a call of an unknown path, to be finished
    - ``(2, stream, message, compressed)``: one message of a stream
    - ``(3, stream)``: no more messages will come
    - ``(4, stream)``: the call is over; when its handler has ended, ``forget`` is to be called
    - ``(5, stream)``: more can be sent after ``send`` was True
    - ``(6, reason)``: the connection is over; what ``output`` gives is still to be sent
    """

    def __new__(cls, routes: FrontRoutes, max_receive: int) -> Self: ...
    def feed(self, buffer: bytearray, length: int, now: float) -> list[tuple[Any, ...]]:
        """Take the first ``length`` bytes of ``buffer``, which arrived at ``now`` (monotonic seconds)."""

    def respond(
        self,
        stream: int,
        message: bytes,
        initial: list[tuple[str, str]] | None = None,
        trailing: list[tuple[str, str]] | None = None,
    ) -> None:
        """Finish a call with one message and the status OK."""

    def send(self, stream: int, message: bytes, initial: list[tuple[str, str]] | None = None) -> bool:
        """Queue a message; True when the next should wait for the event 5."""

    def finish(
        self,
        stream: int,
        code: int,
        message: str,
        initial: list[tuple[str, str]] | None = None,
        trailing: list[tuple[str, str]] | None = None,
    ) -> None:
        """End a call with a status, after what was sent."""

    def consumed(self, stream: int, length: int) -> None:
        """Grant the peer ``length`` bytes more of messages."""

    def forget(self) -> None:
        """The handler of a call that was over has ended."""

    def drain(self) -> None:
        """Take no new calls, and tell the peer."""

    def output(self, limit: int) -> tuple[bytes, list[tuple[Any, ...]]]:
        """About ``limit`` bytes to write, none when nothing can be sent now; and events."""

    @property
    def closed(self) -> bool: ...
    @property
    def idle(self) -> bool:
        """Whether no call is under way."""
