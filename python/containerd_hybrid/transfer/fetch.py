"""Blobs from a registry into the content store: each once, resumable, visible only when it is whole."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

from containerd_hybrid._native import Growing, HttpBody
from containerd_hybrid.content.api import ContentStore, Ingest
from containerd_hybrid.errors import (
    AlreadyExistsError,
    DigestMismatchError,
    HybridError,
    NotFoundError,
    OutOfRangeError,
    SizeMismatchError,
    UnavailableError,
)
from containerd_hybrid.model import Descriptor, Digest, Scope
from containerd_hybrid.registry.api import Fetcher
from containerd_hybrid.transfer.parts import Part
from containerd_hybrid.transfer.progress import ref_key
from containerd_hybrid.workers import together

# A connection that brought so much before it broke is worth being opened again, however often.
_PROGRESS = 1 << 20
# How often a receiving ingest is asked how far it is.
_TICK_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class FetchSettings:
    """``attempts``: failures in a row without progress. ``downloads``: bodies received at once.

    A blob of ``followed_bytes`` may be read while it arrives. One of more than ``part_bytes`` is asked for in
    parts of that size, as many at once as there are ``downloads`` to spare; 0 asks for it whole.
    """

    downloads: int = 3
    attempts: int = 5
    first_seconds: float = 0.5
    most_seconds: float = 10.0
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    followed_bytes: int = 1 << 20
    part_bytes: int = 0


class BlobFetches:
    """All fetches of this daemon; two of one blob wait for each other, and the second finds it there."""

    def __init__(self, content: ContentStore, settings: FetchSettings | None = None) -> None:
        self._content = content
        self._settings = settings or FetchSettings()
        self._slots = asyncio.Semaphore(max(1, self._settings.downloads))
        self._turns: dict[Digest, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._listeners: dict[Digest, list[Callable[[int], None]]] = defaultdict(list)
        self._receiving: dict[Digest, asyncio.Future[Growing | None]] = {}

    async def fetch(
        self,
        scope: Scope,
        source: Fetcher,
        blob: Descriptor,
        progress: Callable[[int], None] | None = None,
    ) -> bool:
        """Make the namespace have the blob; False when it had it.

        Whoever waits for the same blob of another caller is told of its progress, and goes on where
        that one is cancelled.

        Raises:
            DigestMismatchError, SizeMismatchError: the registry has something else; its bytes are removed.
            UnavailableError: it broke off too often; what came is kept.
        """
        async with self._turn(blob.digest, progress or _nobody) as tell:
            ingest = await self._open(scope, blob)
            if ingest is None:
                return False
            try:
                await self._fill(scope, source, blob, ingest, tell)
            finally:
                # Who fetches it next announces its own.
                reception = self._receiving.pop(blob.digest, None)
                if reception is not None and not reception.done():
                    reception.set_result(None)
            return True

    async def begun(self, blob: Descriptor) -> Growing | None:
        """Wait until bytes of the blob come, for whomever; None when they cannot be read meanwhile.

        Without anybody who fetches it, this waits for ever.
        """
        try:
            return await asyncio.shield(self._reception(blob.digest))
        finally:
            if blob.digest not in self._listeners:
                self._receiving.pop(blob.digest, None)

    def _reception(self, digest: Digest) -> asyncio.Future[Growing | None]:
        return self._receiving.setdefault(digest, asyncio.get_running_loop().create_future())

    @asynccontextmanager
    async def _turn(
        self, digest: Digest, progress: Callable[[int], None]
    ) -> AsyncIterator[Callable[[int], None]]:
        """One caller at a time; gives what tells all who want the blob how far it is."""
        listeners = self._listeners[digest]
        listeners.append(progress)

        def tell(count: int) -> None:
            for listener in listeners:
                listener(count)

        try:
            async with self._turns[digest]:
                yield tell
        finally:
            listeners.remove(progress)
            if not listeners:
                del self._listeners[digest], self._turns[digest]

    async def _open(self, scope: Scope, blob: Descriptor) -> Ingest | None:
        """The blob's ingest; a client that writes the same one itself is waited for."""
        seconds = 0.05
        while True:
            try:
                return await self._content.open_ingest(scope, ref_key(blob), blob.size, blob.digest)
            except AlreadyExistsError:
                return None
            except UnavailableError:
                await self._settings.sleep(seconds)
                seconds = min(seconds * 2, 2.0)

    async def _fill(
        self,
        scope: Scope,
        source: Fetcher,
        blob: Descriptor,
        ingest: Ingest,
        progress: Callable[[int], None],
    ) -> None:
        resumed = ingest.status.offset > 0
        try:
            while True:
                await self._receive(source, blob, ingest, progress)
                try:
                    await ingest.commit(blob.size, blob.digest)
                except AlreadyExistsError:
                    return
                except (DigestMismatchError, SizeMismatchError):
                    # What was here before may have been the bad part: once more from the start.
                    if not resumed:
                        raise
                    resumed = False
                    await self._remove(scope, blob)
                    again = await self._open(scope, blob)
                    if again is None:
                        return
                    ingest = again
                else:
                    return
        except BaseException as error:
            useful = isinstance(error, UnavailableError | asyncio.CancelledError) and ingest.status.offset > 0
            await asyncio.shield(asyncio.ensure_future(self._leave(scope, blob, ingest, useful)))
            raise

    async def _leave(self, scope: Scope, blob: Descriptor, ingest: Ingest, useful: bool) -> None:
        """Close what was not finished: kept for a day when the next pull can go on there, else removed."""
        # A clean-up that fails must not hide why it was needed.
        with suppress(HybridError):
            await ingest.close()
            if not useful:
                await self._remove(scope, blob)
                return
            # Opened by nobody's lease it has an end of its own; the pull's lease ends with the pull.
            kept = await self._content.open_ingest(
                Scope(scope.namespace), ref_key(blob), blob.size, blob.digest
            )
            await kept.close()

    async def _receive(
        self, source: Fetcher, blob: Descriptor, ingest: Ingest, progress: Callable[[int], None]
    ) -> None:
        if ingest.status.offset > blob.size:
            await ingest.truncate(0)
        if 0 < self._settings.part_bytes < blob.size - ingest.status.offset:
            with suppress(OutOfRangeError):
                await self._receive_parts(source, blob, ingest, progress)
        sink = _Counted(ingest, progress)
        failures = 0
        while ingest.status.offset < blob.size:
            before = ingest.status.offset
            try:
                async with self._slots, source.fetch(blob, before) as body:
                    await self._announce(blob, ingest)
                    await body.copy_to(sink)
            except UnavailableError:
                failures = 1 if ingest.status.offset - before >= _PROGRESS else failures + 1
                if failures >= self._settings.attempts:
                    raise
                backoff = self._settings.first_seconds * 2.0 ** (failures - 1)
                await self._settings.sleep(min(backoff, self._settings.most_seconds))

    async def _receive_parts(
        self, source: Fetcher, blob: Descriptor, ingest: Ingest, progress: Callable[[int], None]
    ) -> None:
        """What is missing, from several connections; parts wait in memory for those before them.

        Raises:
            OutOfRangeError: the host gives no parts; what came so far is in the ingest.
        """
        size, begin = self._settings.part_bytes, ingest.status.offset
        parts = [Part(start, min(size, blob.size - start)) for start in range(begin, blob.size, size)]
        # Begun and not yet appended: twice as many as are received, so that none of those waits for another.
        room = asyncio.Semaphore(2 * max(1, self._settings.downloads))

        async def receive(part: Part) -> None:
            await room.acquire()
            await self._receive_part(source, blob, part)

        async def append() -> None:
            for part in parts:
                await part.whole.wait()
                await self._announce(blob, ingest)
                progress(await ingest.append_file(part.rewound(), part.length))
                part.close()
                room.release()

        try:
            await together([append(), *(receive(part) for part in parts)])
        finally:
            for part in parts:
                part.close()

    async def _receive_part(self, source: Fetcher, blob: Descriptor, part: Part) -> None:
        failures = 0
        while part.missing:
            before = part.missing
            try:
                async with self._slots, source.fetch(blob, part.position, before) as body:
                    await body.copy_to(part)
            except UnavailableError:
                failures = 1 if before - part.missing >= _PROGRESS else failures + 1
                if failures >= self._settings.attempts:
                    raise
                backoff = self._settings.first_seconds * 2.0 ** (failures - 1)
                await self._settings.sleep(min(backoff, self._settings.most_seconds))
        part.whole.set()

    async def _announce(self, blob: Descriptor, ingest: Ingest) -> None:
        """Bytes come from now on; not said of a blob that is so small that nobody gains by it."""
        reception = self._reception(blob.digest)
        if not reception.done() and blob.size >= self._settings.followed_bytes:
            growing = await ingest.growing(blob.size)
            if not reception.done():
                reception.set_result(growing)

    async def _remove(self, scope: Scope, blob: Descriptor) -> None:
        with suppress(NotFoundError):
            await self._content.abort(scope, ref_key(blob))


class _Counted:
    """An ingest that tells how far it is."""

    def __init__(self, ingest: Ingest, progress: Callable[[int], None]) -> None:
        self._ingest = ingest
        self._progress = progress

    async def write(self, data: bytes) -> int:
        offset = await self._ingest.write(data)
        self._progress(offset)
        return offset

    async def receive(self, body: HttpBody, limit: int) -> int:
        telling = asyncio.ensure_future(self._tell())
        try:
            return await self._ingest.receive(body, limit)
        finally:
            telling.cancel()
            self._progress(self._ingest.status.offset)

    async def _tell(self) -> None:
        while True:
            await asyncio.sleep(_TICK_SECONDS)
            self._progress(self._ingest.status.offset)


def _nobody(count: int) -> None:
    """Nobody listens."""
