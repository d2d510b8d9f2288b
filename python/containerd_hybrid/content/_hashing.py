"""Stand-in of the native module's ``Ingest`` and ``hash_file`` until it is built."""

from __future__ import annotations

import hashlib
import os


class Ingest:
    def __init__(self, fd: int, algorithm: str = "sha256", offset: int = 0) -> None:
        self._fd, self._algorithm = fd, algorithm
        self._hash = hashlib.new(algorithm)
        at = 0
        while at < offset:
            data = os.pread(fd, min(1 << 20, offset - at), at)
            if not data:
                raise EOFError
            self._hash.update(data)
            at += len(data)
        self._offset = offset

    def write(self, data: bytes) -> int:
        view = memoryview(data)
        while view:
            n = os.pwrite(self._fd, view, self._offset)
            self._hash.update(view[:n])
            self._offset += n
            view = view[n:]
        return self._offset

    def digest(self) -> str:
        return f"{self._algorithm}:{self._hash.hexdigest()}"

    def truncate(self) -> None:
        os.ftruncate(self._fd, 0)
        self._hash = hashlib.new(self._algorithm)
        self._offset = 0

    def sync(self) -> None:
        os.fsync(self._fd)


def hash_file(fd: int, algorithm: str = "sha256") -> str:
    return Ingest(fd, algorithm, os.fstat(fd).st_size).digest()
