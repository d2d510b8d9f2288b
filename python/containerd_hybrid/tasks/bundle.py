"""Bundles: the folder of a task in ``state`` and its working folder in ``root``.

::

    <state>/<namespace>/<id>/           0700; 0710 and the mapped root group with a user namespace
        config.json                     the OCI spec
        rootfs/                         where the shim mounts the root file system
        work -> <root>/<namespace>/<id> survives a reboot, unlike state
        shim-binary-path                the shim program, for a restarted daemon
        bootstrap.json                  how to reach the shim
        sandbox                         whose shim it joined, if it did
        guest                           there if that shim is somebody else's
        log                             FIFO of the shim's log
        address runtime options.json init.pid log.json …   written by the shim

This is containerd's layout, so either daemon and any shim finds what it expects. A bundle is removed
by unmounting ``rootfs``, renaming the folder to ``.<id>`` (no id begins with a dot) and deleting that:
a daemon killed in between finds either a whole bundle or rubbish. Methods block: call them in a thread.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from containerd_hybrid.errors import AlreadyExistsError, FailedPreconditionError, InvalidArgumentError
from containerd_hybrid.model.any import AnyValue
from containerd_hybrid.model.identifiers import validate_identifier

SPEC_TYPE = "types.containerd.io/opencontainers/runtime-spec/1/Spec"

_SHIM_PATH = "shim-binary-path"
_SANDBOX = "sandbox"
_GUEST = "guest"


@dataclass(frozen=True, slots=True)
class Bundle:
    """Where one task lives on disk."""

    namespace: str
    id: str
    path: Path
    work: Path

    @property
    def rootfs(self) -> Path:
        return self.path / "rootfs"

    def shim_path(self) -> Path | None:
        """The shim program that was started for it; None when the record is missing."""
        text = read_record(self.path / _SHIM_PATH).decode(errors="replace").strip()
        return Path(text) if text else None

    def record_shim_path(self, program: Path) -> None:
        write_private(self.path / _SHIM_PATH, str(program).encode())

    def record_sandbox(self, sandbox: str) -> None:
        """Note whose shim the task joined."""
        write_private(self.path / _SANDBOX, sandbox.encode())

    def record_guest(self) -> None:
        """Note that the shim it joined is not ours to shut down."""
        write_private(self.path / _GUEST, b"")

    @property
    def checkpoint(self) -> Path:
        """What the task is restored from, until it has started."""
        return self.path / "checkpoint"

    def is_guest(self) -> bool:
        return (self.path / _GUEST).exists()


class Bundles:
    """All bundles below one ``root`` and one ``state`` folder."""

    def __init__(self, root: Path, state: Path) -> None:
        self._root = root
        self._state = state

    def prepare(self) -> None:
        """Make the two folders; others may pass through them, for containers with user namespaces."""
        for folder in (self._root, self._state):
            folder.mkdir(mode=0o711, parents=True, exist_ok=True)

    def get(self, namespace: str, id: str) -> Bundle:
        """Where the bundle is or would be.

        Raises:
            InvalidArgumentError: namespace or id is not an identifier, so it could leave the folder.
        """
        try:
            validate_identifier(id)
        except InvalidArgumentError as error:
            raise InvalidArgumentError(f"invalid task id {id}: {error.message}") from error
        validate_identifier(namespace)
        return Bundle(namespace, id, self._state / namespace / id, self._root / namespace / id)

    def create(self, namespace: str, id: str, spec: AnyValue | None) -> Bundle:
        """Make the folders and write the spec; nothing is left behind when that fails.

        A sandbox may have no spec.

        Raises:
            AlreadyExistsError: there is such a bundle.
            InvalidArgumentError: the id is not an identifier, or the spec is not JSON.
        """
        bundle = self.get(namespace, id)
        group = _mapped_root_group(id, spec)
        bundle.path.parent.mkdir(mode=0o711, parents=True, exist_ok=True)
        bundle.work.parent.mkdir(mode=0o711, parents=True, exist_ok=True)
        try:
            bundle.path.mkdir(mode=0o700)
        except FileExistsError as error:
            raise AlreadyExistsError(f"task {id}: the bundle {bundle.path} exists already") from error
        try:
            self._fill(bundle, group, spec)
        except BaseException:
            shutil.rmtree(bundle.path, ignore_errors=True)
            shutil.rmtree(bundle.work, ignore_errors=True)
            raise
        return bundle

    def _fill(self, bundle: Bundle, group: int, spec: AnyValue | None) -> None:
        if group:
            os.chown(bundle.path, -1, group)
            bundle.path.chmod(0o710)
        bundle.rootfs.mkdir(mode=0o711)
        if bundle.work.exists():
            # Left by a task of that name before a reboot.
            shutil.rmtree(bundle.work)
        bundle.work.mkdir(mode=0o711)
        (bundle.path / "work").symlink_to(bundle.work)
        if spec is not None:
            (bundle.path / "config.json").write_bytes(spec.value)

    def scratch(self, namespace: str) -> Path:
        """A new folder for something large; one that is left behind is rubbish to the next start."""
        validate_identifier(namespace)
        parent = self._root / namespace
        parent.mkdir(mode=0o711, parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix=".scratch-", dir=parent))

    def remove(self, bundle: Bundle) -> None:
        """Delete the bundle and its working folder; no error when they are gone.

        ``rootfs`` must have been unmounted.

        Raises:
            FailedPreconditionError: something is still mounted below it; nothing was deleted then.
        """
        work = _work_of(bundle)
        _refuse_mounts(bundle.path)
        _delete(bundle.path)
        _delete(work)

    def all(self) -> Iterator[Bundle]:
        """Every bundle on disk, whole or not."""
        for namespace in _folders(self._state):
            for name in _folders(self._state / namespace):
                yield Bundle(namespace, name, self._state / namespace / name, self._root / namespace / name)

    def rubbish(self) -> Iterator[Path]:
        """Folders of removals that were interrupted."""
        for top in (self._state, self._root):
            for namespace in _folders(top):
                yield from (path for path in (top / namespace).glob(".*") if path.is_dir())

    def remove_rubbish(self, path: Path) -> None:
        """Delete one of :meth:`rubbish`.

        Raises:
            FailedPreconditionError: something is mounted below it.
        """
        _refuse_mounts(path)
        shutil.rmtree(path)

    def unused_works(self) -> Iterator[Path]:
        """Working folders without a bundle: a reboot emptied ``state`` but not ``root``."""
        for namespace in _folders(self._root):
            for name in _folders(self._root / namespace):
                if not (self._state / namespace / name).exists():
                    yield self._root / namespace / name


def write_private(path: Path, data: bytes) -> None:
    """Write a file whole or not at all, readable by its owner only."""
    temporary = path.with_name(f".{path.name}.new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
    temporary.rename(path)


def read_record(path: Path) -> bytes:
    """What the file holds; nothing when there is none, or something else of its name.

    A FIFO there would keep a reader, and with it the daemon's start, for ever.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO):
            return b""
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        return b""
    with os.fdopen(descriptor, "rb") as file:
        return file.read()


def mounts_below(folder: Path, table: Path = Path("/proc/self/mountinfo")) -> list[str]:
    """Mount points at or below ``folder`` (proc_pid_mountinfo(5), field 5)."""
    prefix = os.path.realpath(folder)
    with table.open(encoding="utf-8", errors="surrogateescape") as lines:
        points = [_unescaped(line.split(" ", 5)[4]) for line in lines]
    return [point for point in points if point == prefix or point.startswith(prefix + "/")]


def _unescaped(point: str) -> str:
    for code, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        point = point.replace(code, character)
    return point


def _refuse_mounts(folder: Path) -> None:
    # A recursive delete that walks into a mount deletes somebody's volume, so this is asked every time.
    mounted = mounts_below(folder)
    if mounted:
        raise FailedPreconditionError(f"{folder} is not deleted: {', '.join(mounted)} is still mounted")


def _delete(folder: Path) -> None:
    hidden = folder.with_name(f".{folder.name}")
    try:
        folder.rename(hidden)
    except FileNotFoundError:
        return
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        shutil.rmtree(hidden)
        folder.rename(hidden)
    shutil.rmtree(hidden)


def _work_of(bundle: Bundle) -> Path:
    # The link counts when it agrees in name: the daemon may have been started with another root.
    try:
        target = (bundle.path / "work").readlink()
    except OSError:
        return bundle.work
    return target if target.is_absolute() and target.parts[-2:] == bundle.work.parts[-2:] else bundle.work


def _folders(path: Path) -> list[str]:
    try:
        with os.scandir(path) as entries:
            names = [
                e.name for e in entries if not e.name.startswith(".") and e.is_dir(follow_symlinks=False)
            ]
    except FileNotFoundError:
        return []
    return sorted(names)


def _mapped_root_group(id: str, spec: AnyValue | None) -> int:
    """The host's group id of the container's group 0; 0 without a user namespace."""
    if spec is None or spec.type_url != SPEC_TYPE or not spec.value:
        return 0
    try:
        document: Any = json.loads(spec.value)
        mappings = (document.get("linux") or {}).get("gidMappings") or []
        return next((int(m.get("hostID", 0)) for m in mappings if m.get("containerID", 0) == 0), 0)
    except (ValueError, AttributeError, TypeError) as error:
        raise InvalidArgumentError(f"the spec of container {id} cannot be read: {error}") from error
