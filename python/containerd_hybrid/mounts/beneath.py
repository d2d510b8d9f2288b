"""Files made where a client says, but only beneath folders that are the daemon's own.

The path is walked with descriptors and no link in it is followed, so that nothing that a container wrote
into a mounted file system can lead elsewhere.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePath

from containerd_hybrid.errors import InvalidArgumentError, NotFoundError, UnimplementedError, error_for_os

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


class Roots:
    """Folders beneath which transformers may make something."""

    def __init__(self, roots: Sequence[Path]) -> None:
        self._roots = tuple(roots)

    @contextmanager
    def parent(self, path: str, purpose: str) -> Iterator[tuple[int, str]]:
        """The open folder that ``path`` is (to be) in, and its name there.

        Raises:
            UnimplementedError: it is not beneath any root.
            InvalidArgumentError: it has ``..`` in it, or is a root itself.
            NotFoundError: a folder on the way does not exist, or is a link.
        """
        if ".." in PurePath(path).parts:
            raise InvalidArgumentError(f"{purpose} {path!r}: the path must not contain '..'")
        root = next((root for root in self._roots if PurePath(path).is_relative_to(root)), None)
        if root is None:
            raise UnimplementedError(
                f"no root {path!r} configured for {purpose}: it must be beneath one of"
                f" {', '.join(map(str, self._roots))}: not implemented"
            )
        parts = PurePath(path).relative_to(root).parts
        if not parts:
            raise InvalidArgumentError(f"{purpose} {path!r}: this is a root itself")
        folder = os.open(root, _FOLDER)
        try:
            for part in parts[:-1]:
                try:
                    inner = os.open(part, _FOLDER | os.O_NOFOLLOW, dir_fd=folder)
                except (FileNotFoundError, NotADirectoryError) as error:
                    raise NotFoundError(f"{purpose} {path!r}: {part}: {error.strerror}") from error
                except OSError as error:
                    raise error_for_os(error, f"open {part} of {path} for {purpose}") from error
                os.close(folder)
                folder = inner
            yield folder, parts[-1]
        finally:
            os.close(folder)
