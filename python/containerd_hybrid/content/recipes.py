"""A local blob store in which a blob may be there as a recipe: how to make it from an unpacked layer.

::

    <root>/recipes/<algorithm>/<hex>    see rust/layer/src/recipe; read-only, never changed

A blob is never gone before its recipe was seen to give it, and a recipe not before its blob is there again:
who is killed in between leaves both, and then the blob counts.

What a recipe gives is made when it is asked for, checked, kept in a file without a name for a while, for
clients read large blobs in many small parts, and then forgotten.
"""

from __future__ import annotations

import logging
import os
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from containerd_hybrid._native import CancelToken, make_recipe, read_recipe, rebuild_blob
from containerd_hybrid.content.api import BlobIngest, BlobStat, IngestStatus
from containerd_hybrid.content.local import LocalBlobStore, sync_path
from containerd_hybrid.errors import (
    DataLossError,
    DigestMismatchError,
    HybridError,
    InvalidArgumentError,
    InvalidDigestError,
    NotFoundError,
    SizeMismatchError,
    error_for_os,
)
from containerd_hybrid.model import Digest

log = logging.getLogger(__name__)

_KEPT_SECONDS = 30.0
_KEPT_BLOBS = 4
_HALF_MADE = (".part", ".blob")


@dataclass(slots=True)
class _Recipe:
    """``place`` is where its files are, as the recipe says it."""

    size: int
    created_at: int
    place: str


@dataclass(slots=True)
class _Made:
    """A blob that a recipe gave, in an open file; ``used_at`` on the monotonic clock."""

    fd: int
    used_at: float


class RecipeBlobStore:
    """A :class:`~containerd_hybrid.content.api.RecipeStore` over the local store of ``root``.

    Folders below ``base`` are named relative to it, so that the whole may be moved.
    """

    def __init__(self, root: Path, base: Path, *, sync: bool = True) -> None:
        self._local = LocalBlobStore(root, sync=sync)
        self._folder = root / "recipes"
        self._base = base
        self._sync = sync
        self._guard = threading.Lock()
        self._recipes: dict[Digest, _Recipe] = {}
        self._intended: dict[Digest, str] = {}
        self._made: dict[Digest, _Made] = {}
        self._making: dict[Digest, threading.Lock] = defaultdict(threading.Lock)
        self._timer: threading.Timer | None = None
        try:
            self._folder.mkdir(exist_ok=True)
            self._load()
        except OSError as error:
            raise error_for_os(error, f"open the recipes in {self._folder}") from error

    def close(self) -> None:
        """Forget what was made."""
        with self._guard:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            for made in self._made.values():
                os.close(made.fd)
            self._made.clear()

    # --- BlobStore

    def stat(self, digest: Digest) -> BlobStat:
        try:
            return self._local.stat(digest)
        except NotFoundError:
            recipe = self._recipes.get(digest)
            if recipe is None:
                return self._local.stat(digest)  # it may just have become a blob again
            return BlobStat(digest, recipe.size, recipe.created_at)

    def open(self, digest: Digest) -> int:
        """Raises: DataLossError: a recipe does not give the blob any more."""
        try:
            return self._local.open(digest)
        except NotFoundError:
            try:
                fd = self._open_made(digest)
            except DataLossError:
                # Unless it has become a blob again meanwhile.
                with suppress(NotFoundError):
                    return self._local.open(digest)
                raise
            return self._local.open(digest) if fd is None else fd

    def read_cached(self, digest: Digest, size: int, offset: int, length: int) -> bytes | None:
        return self._local.read_cached(digest, size, offset, length)

    def remove(self, digest: Digest) -> None:
        found = digest in self._recipes and self._drop(digest)
        try:
            self._local.remove(digest)
        except NotFoundError:
            if not found:
                raise

    def walk(self) -> Iterator[BlobStat]:
        seen = set()
        for stat in self._local.walk():
            seen.add(stat.digest)
            yield stat
        for digest, recipe in list(self._recipes.items()):
            if digest not in seen:
                yield BlobStat(digest, recipe.size, recipe.created_at)

    def verify(self, digest: Digest) -> BlobStat:
        """Of a recipe: make the blob once more."""
        if self._is_blob(digest) or not self.is_recipe(digest):
            return self._local.verify(digest)
        self._forget(digest)
        self.ready(digest)
        return self.stat(digest)

    def link(self, source: Path, digest: Digest) -> BlobStat:
        return self._local.link(source, digest)

    def open_ingest(self, key: str, total: int = 0, expected: Digest | None = None) -> BlobIngest:
        return self._local.open_ingest(key, total, expected)

    def ingest_status(self, key: str) -> IngestStatus:
        return self._local.ingest_status(key)

    def ingest_keys(self) -> Iterable[str]:
        return self._local.ingest_keys()

    def remove_ingest(self, key: str) -> None:
        self._local.remove_ingest(key)

    # --- RecipeStore

    def is_recipe(self, digest: Digest) -> bool:
        return digest in self._recipes

    def ready(self, digest: Digest) -> None:
        fd = None if self._is_blob(digest) else self._open_made(digest)
        if fd is not None:
            os.close(fd)

    def recipes_in(self, folder: Path) -> list[Digest]:
        place = self._place(folder)
        with self._guard:
            found = [digest for digest, recipe in self._recipes.items() if recipe.place == place]
            return found + [digest for digest, intended in self._intended.items() if intended == place]

    def intend(self, digest: Digest, folder: Path | None) -> None:
        with self._guard:
            self._intended.pop(digest, None)
            if folder is not None:
                self._intended[digest] = self._place(folder)

    def convert(self, digest: Digest, folder: Path, cancel: CancelToken) -> str:
        path = self._path(digest)
        part = path.with_name(f"{path.name}.part")
        try:
            path.parent.mkdir(exist_ok=True)
            try:
                blob = self._local.open(digest)
            except NotFoundError:
                if self.is_recipe(digest):
                    return ""
                raise
            try:
                found = os.fstat(blob)
                recipe = _Recipe(found.st_size, found.st_mtime_ns, self._place(folder))
                sink = os.open(part, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
                try:
                    made, text = make_recipe(
                        blob,
                        folder,
                        sink,
                        digest=str(digest),
                        size=recipe.size,
                        place=recipe.place,
                        sync=self._sync,
                        cancel=cancel,
                    )
                    if not made:
                        return text
                    os.utime(sink, ns=(recipe.created_at, recipe.created_at))
                    os.fchmod(sink, 0o444)
                finally:
                    os.close(sink)
                part.rename(path)
                if self._sync:
                    sync_path(path.parent)
            finally:
                os.close(blob)
                part.unlink(missing_ok=True)
        except OSError as error:
            raise error_for_os(error, f"make a recipe of content {digest}") from error
        with self._guard:
            self._recipes[digest] = recipe
        self._local.remove(digest)
        return ""

    def restore(self, digest: Digest) -> None:
        recipe = self._recipes.get(digest)
        if recipe is None:
            return
        target = self._local.path(digest)
        draft = self._path(digest).with_name(f"{digest.hex}.blob")
        try:
            if not self._is_blob(digest):
                try:
                    fd = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
                    try:
                        self._rebuild(digest, recipe, fd)
                        os.utime(fd, ns=(recipe.created_at, recipe.created_at))
                        os.fchmod(fd, 0o444)
                        if self._sync:
                            os.fsync(fd)
                    finally:
                        os.close(fd)
                    target.parent.mkdir(exist_ok=True)
                    draft.rename(target)
                    if self._sync:
                        sync_path(target.parent)
                finally:
                    draft.unlink(missing_ok=True)
        except OSError as error:
            raise error_for_os(error, f"make content {digest} of its recipe") from error
        self._drop(digest)

    # --- what recipes give

    def _open_made(self, digest: Digest) -> int | None:
        """A descriptor of its own of what the recipe gives; None when there is no recipe."""
        if digest not in self._recipes:
            return None
        with self._guard:
            making = self._making[digest]
        with making:
            with self._guard:
                made = self._made.get(digest)
                if made is not None:
                    made.used_at = time.monotonic()
                    return _again(made.fd)
            recipe = self._recipes.get(digest)
            if recipe is None:
                return None
            try:
                with tempfile.TemporaryFile(dir=self._folder, buffering=0) as file:
                    self._rebuild(digest, recipe, file.fileno())
                    fd = os.dup(file.fileno())
            except OSError as error:
                raise error_for_os(error, f"make content {digest} of its recipe") from error
            with self._guard:
                self._keep(digest, fd)
                return _again(fd)

    def _rebuild(self, digest: Digest, recipe: _Recipe, fd: int) -> None:
        folder = self._base / recipe.place
        try:
            source = os.open(self._path(digest), os.O_RDONLY | os.O_CLOEXEC)
            try:
                rebuild_blob(source, folder, fd)
            finally:
                os.close(source)
        except (
            DigestMismatchError,
            FileNotFoundError,
            InvalidArgumentError,
            NotFoundError,
            SizeMismatchError,
        ) as error:
            raise DataLossError(
                f"content {digest} is damaged: it cannot be made of the files in {folder} any more "
                f"({error}); delete it and fetch it again"
            ) from error

    def _keep(self, digest: Digest, fd: int) -> None:
        """Under ``_guard``."""
        former = self._made.pop(digest, None)
        if former is not None:
            os.close(former.fd)
        while len(self._made) >= _KEPT_BLOBS:
            oldest = min(self._made, key=lambda one: self._made[one].used_at)
            os.close(self._made.pop(oldest).fd)
        self._made[digest] = _Made(fd, time.monotonic())
        if self._timer is None:
            self._start_timer()

    def _start_timer(self) -> None:
        self._timer = threading.Timer(_KEPT_SECONDS, self._forget_old)
        self._timer.daemon = True
        self._timer.start()

    def _forget_old(self) -> None:
        with self._guard:
            if self._timer is None:
                return  # closed
            limit = time.monotonic() - _KEPT_SECONDS
            for digest in [digest for digest, made in self._made.items() if made.used_at <= limit]:
                os.close(self._made.pop(digest).fd)
            self._timer = None
            if self._made:
                self._start_timer()

    def _forget(self, digest: Digest) -> None:
        with self._guard:
            made = self._made.pop(digest, None)
            if made is not None:
                os.close(made.fd)

    def _drop(self, digest: Digest) -> bool:
        """Remove a recipe; whether there was one."""
        self._forget(digest)
        with self._guard:
            self._recipes.pop(digest, None)
            self._making.pop(digest, None)
        try:
            self._path(digest).unlink()
        except FileNotFoundError:
            return False
        except OSError as error:
            raise error_for_os(error, f"remove the recipe of content {digest}") from error
        return True

    # --- files

    def _is_blob(self, digest: Digest) -> bool:
        return self._local.path(digest).exists()

    def _path(self, digest: Digest) -> Path:
        return self._folder / digest.algorithm / digest.hex

    def _place(self, folder: Path) -> str:
        return str(folder.relative_to(self._base) if folder.is_relative_to(self._base) else folder)

    def _load(self) -> None:
        for path in self._folder.iterdir():
            if path.is_file():  # where the file system has no files without a name
                path.unlink()
        for path in self._folder.glob("*/*"):
            if path.suffix in _HALF_MADE:
                path.unlink()
                continue
            try:
                digest = Digest.parse(f"{path.parent.name}:{path.name}")
                fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
                try:
                    named, size, place = read_recipe(fd)
                    created_at = os.fstat(fd).st_mtime_ns
                finally:
                    os.close(fd)
                if named != str(digest):
                    raise InvalidArgumentError(f"it is one of {named}")
                if self._is_blob(digest):
                    path.unlink()
                    continue
            except (InvalidDigestError, HybridError) as error:
                log.warning("%s is no recipe: %s; hyctl fsck tells what is missing", path, error.message)
            else:
                self._recipes[digest] = _Recipe(size, created_at, place)


def _again(fd: int) -> int:
    """The same file with an offset of its own, for reading."""
    return os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC)
