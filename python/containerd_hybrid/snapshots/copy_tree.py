"""A faithful copy of a directory tree: contents, owners, modes, times, xattrs, hard links, devices, holes.

Works with directory descriptors and single names, so that no path is too long for it and no link in
the tree leads out of it. The trees must not change meanwhile.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from pathlib import Path

_FICLONE = 0x40049409  # linux/fs.h
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_CHUNK = 1 << 30
_CANNOT_SHARE = {errno.EOPNOTSUPP, errno.ENOTTY, errno.EXDEV, errno.EINVAL, errno.ENOSYS}


def copy_tree(source: Path, target: Path) -> None:
    """Copy what is in the folder ``source``, and its own attributes, into the empty folder ``target``.

    Contents are shared with the source where the file system can (reflinks). An xattr that may not be
    written (``security.*`` of another policy) is left out.

    Raises:
        OSError: something cannot be copied; ``target`` is incomplete then.
    """
    top = os.open(target, _FOLDER)
    try:
        walk = _Walk(source, target)
        try:
            walk.run(top)
        finally:
            walk.close()
    finally:
        os.close(top)


def copy_file(source: Path, target: Path) -> None:
    """Copy the contents of a file into a new one, mode 0600, and see them on disk.

    Shared with the source where the file system can, and sparse where that is.

    Raises:
        OSError: it cannot be copied; ``target`` may be incomplete then.
    """
    reading = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
    try:
        writing = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.ioctl(writing, _FICLONE, reading)
            except OSError as error:
                if error.errno not in _CANNOT_SHARE:
                    raise
                _copy_contents(reading, writing, os.fstat(reading))
            os.fsync(writing)
        finally:
            os.close(writing)
    finally:
        os.close(reading)


class _Walk:
    """A position in both trees. Two descriptors are open at any depth: the way back is ``..``."""

    def __init__(self, source: Path, target: Path) -> None:
        self._source = os.open(source, _FOLDER)
        self._target = os.open(target, _FOLDER)
        self._path: list[str] = []
        self._copied: dict[tuple[int, int], str] = {}  # files with more links → the first copy, from the top
        self._reflinks = True

    def close(self) -> None:
        os.close(self._source)
        os.close(self._target)

    def run(self, top: int) -> None:
        """Copy everything; ``top`` is the target, which links to first copies are made from."""
        pending = [self._names()]
        while pending:
            if pending[-1]:
                name = pending[-1].pop()
                status = os.stat(name, dir_fd=self._source, follow_symlinks=False)
                if stat.S_ISDIR(status.st_mode):
                    os.mkdir(name, 0o700, dir_fd=self._target)
                    self._step(name)
                    self._path.append(name)
                    pending.append(self._names())
                elif not self._link(top, name, status):
                    self._copy(name, status)
                continue
            # Last, because everything made in a folder changes its times.
            _copy_attributes(self._source, self._target, os.fstat(self._source))
            pending.pop()
            if pending:
                self._step("..")
                self._path.pop()

    def _names(self) -> list[str]:
        with os.scandir(self._source) as entries:
            return [entry.name for entry in entries]

    def _step(self, name: str) -> None:
        source = os.open(name, _FOLDER, dir_fd=self._source)
        os.close(self._source)
        self._source = source
        target = os.open(name, _FOLDER, dir_fd=self._target)
        os.close(self._target)
        self._target = target

    def _link(self, top: int, name: str, status: os.stat_result) -> bool:
        """Whether the file was copied under another name, to which ``name`` now is a link."""
        if status.st_nlink == 1:
            return False
        identity = (status.st_dev, status.st_ino)
        first = self._copied.setdefault(identity, "/".join((*self._path, name)))
        if first == "/".join((*self._path, name)):
            return False
        os.link(first, name, src_dir_fd=top, dst_dir_fd=self._target, follow_symlinks=False)
        return True

    def _copy(self, name: str, status: os.stat_result) -> None:
        if stat.S_ISREG(status.st_mode):
            self._copy_file(name, status)
            return
        if stat.S_ISLNK(status.st_mode):
            os.symlink(os.readlink(name, dir_fd=self._source), name, dir_fd=self._target)
        else:
            os.mknod(name, status.st_mode, status.st_rdev, dir_fd=self._target)
        # These cannot be opened without side effects, and descriptors of O_PATH have no xattrs.
        _copy_attributes(
            f"/proc/self/fd/{self._source}/{name}", f"/proc/self/fd/{self._target}/{name}", status
        )

    def _copy_file(self, name: str, status: os.stat_result) -> None:
        reading = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
        writing = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        source = os.open(name, reading, dir_fd=self._source)
        try:
            target = os.open(name, writing, 0o600, dir_fd=self._target)
            try:
                if status.st_size and not self._share(source, target):
                    _copy_contents(source, target, status)
                _copy_attributes(source, target, status)
            finally:
                os.close(target)
        finally:
            os.close(source)

    def _share(self, source: int, target: int) -> bool:
        if self._reflinks:
            try:
                fcntl.ioctl(target, _FICLONE, source)
            except OSError as error:
                if error.errno not in _CANNOT_SHARE:
                    raise
                self._reflinks = False
        return self._reflinks


def _copy_contents(source: int, target: int, status: os.stat_result) -> None:
    size = status.st_size
    if status.st_blocks * 512 >= size:
        _copy_range(source, target, 0, size)
        return
    end = 0
    while end < size:
        try:
            start = os.lseek(source, end, os.SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            break  # a hole up to the end
        end = os.lseek(source, start, os.SEEK_HOLE)
        _copy_range(source, target, start, end)
    os.ftruncate(target, size)


def _copy_range(source: int, target: int, start: int, end: int) -> None:
    while start < end:
        try:
            copied = os.copy_file_range(source, target, min(end - start, _CHUNK), start, start)
        except OSError as error:
            if error.errno not in _CANNOT_SHARE:
                raise
            copied = os.pwrite(target, os.pread(source, min(end - start, 1 << 20), start), start)
        if copied == 0:
            raise OSError(errno.EIO, "the file became shorter while it was copied")
        start += copied


def _copy_attributes(source: int | str, target: int | str, status: os.stat_result) -> None:
    """Owner first: changing it takes setuid bits and file capabilities away."""
    follow = isinstance(target, int)
    os.chown(target, status.st_uid, status.st_gid, follow_symlinks=follow)
    if not stat.S_ISLNK(status.st_mode):
        os.chmod(target, stat.S_IMODE(status.st_mode))  # noqa: PTH101 - may be a descriptor
    for name in os.listxattr(source, follow_symlinks=follow):
        try:
            os.setxattr(
                target, name, os.getxattr(source, name, follow_symlinks=follow), follow_symlinks=follow
            )
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.EOPNOTSUPP):
                raise
    os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns), follow_symlinks=follow)
