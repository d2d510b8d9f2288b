"""Files that a caller names by path or hands over open."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import BinaryIO, Literal, cast


@asynccontextmanager
async def opened(file: str | Path | BinaryIO, mode: Literal["rb", "wb"]) -> AsyncIterator[BinaryIO]:
    """The file, opened and closed here when it was named by path."""
    if not isinstance(file, str | Path):
        yield file
        return
    handle = cast("BinaryIO", await asyncio.to_thread(Path(file).open, mode))
    try:
        yield handle
    finally:
        await asyncio.to_thread(handle.close)


@asynccontextmanager
async def replaced_file(file: str | Path | BinaryIO) -> AsyncIterator[BinaryIO]:
    """A file to write; one named by path appears under its name only when the block ends well."""
    if not isinstance(file, str | Path):
        yield file
        return
    path = Path(file)
    fresh = path.with_name(f".{path.name}.{os.urandom(4).hex()}")
    try:
        async with opened(fresh, "wb") as handle:
            yield handle
        await asyncio.to_thread(fresh.replace, path)
    except BaseException:
        await asyncio.to_thread(fresh.unlink, missing_ok=True)
        raise
