"""Implements :class:`containerd_hybrid.adopt.api.Adopter` on our stores."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import nullcontext
from pathlib import Path

from containerd_hybrid._native import hash_file
from containerd_hybrid.adopt.api import Adopted, Outcome
from containerd_hybrid.adopt.containerd import (
    BLOBS,
    FoundBlob,
    FoundImage,
    FoundLease,
    FoundNamespace,
    read_metadata,
)
from containerd_hybrid.content.api import ContentAdopter, ContentStore
from containerd_hybrid.errors import AlreadyExistsError, NotFoundError
from containerd_hybrid.images.api import Image, ImageStore
from containerd_hybrid.leases.api import EXPIRE_LABEL, LeaseManager, LeaseResource, protected
from containerd_hybrid.metadata.api import NamespaceStore
from containerd_hybrid.model import Scope
from containerd_hybrid.model.labels import parse_rfc3339


class ContainerdAdopter:
    """Takes over blobs, images, leases and namespaces of a containerd."""

    def __init__(
        self,
        namespaces: NamespaceStore,
        content: ContentStore,
        blobs: ContentAdopter,
        images: ImageStore,
        leases: LeaseManager,
    ) -> None:
        self._namespaces = namespaces
        self._content = content
        self._blobs = blobs
        self._images = images
        self._leases = leases

    async def adopt(
        self, folder: Path, *, namespaces: Sequence[str] = (), verify: bool = False, dry_run: bool = False
    ) -> AsyncIterator[Adopted]:
        found = {one.name: one for one in await asyncio.to_thread(read_metadata, folder)}
        for name in namespaces:
            if name not in found:
                raise NotFoundError(f"the containerd of {folder} has no namespace {name}: not found")
        for one in found.values():
            if namespaces and one.name not in namespaces:
                continue
            async for adopted in self._namespace(folder, one, verify=verify, dry_run=dry_run):
                yield adopted

    async def _namespace(
        self, folder: Path, found: FoundNamespace, *, verify: bool, dry_run: bool
    ) -> AsyncIterator[Adopted]:
        scope = Scope(found.name)
        yield Adopted("namespace", found.name, found.name, await self._make_namespace(found, dry_run))
        # Nothing holds a blob before its image is here.
        async with nullcontext(scope) if dry_run else protected(self._leases, scope) as held:
            async for adopted in self._objects(folder, found, held, verify=verify, dry_run=dry_run):
                yield adopted

    async def _objects(
        self, folder: Path, found: FoundNamespace, scope: Scope, *, verify: bool, dry_run: bool
    ) -> AsyncIterator[Adopted]:
        here: set[str] = set()
        for blob in found.blobs:
            outcome = await self._blob(folder / BLOBS, blob, scope, verify=verify, dry_run=dry_run)
            if outcome in (Outcome.ADOPTED, Outcome.PRESENT):
                here.add(str(blob.digest))
            yield Adopted("content", found.name, str(blob.digest), outcome, blob.size)
        for image in found.images:
            outcome = Outcome.MISSING
            if str(image.target.digest) in here:
                outcome = await self._image(image, scope, dry_run)
            yield Adopted("image", found.name, image.name, outcome)
        for lease in found.leases:
            yield Adopted("lease", found.name, lease.id, await self._lease(lease, here, scope, dry_run))

    async def _make_namespace(self, found: FoundNamespace, dry_run: bool) -> Outcome:
        try:
            if dry_run:
                here = any(one.name == found.name for one in await self._namespaces.list())
                return Outcome.PRESENT if here else Outcome.ADOPTED
            await self._namespaces.create(found.name, found.labels)
        except AlreadyExistsError:
            return Outcome.PRESENT
        return Outcome.ADOPTED

    async def _blob(
        self, blobs: Path, blob: FoundBlob, scope: Scope, *, verify: bool, dry_run: bool
    ) -> Outcome:
        try:
            await self._content.info(scope, blob.digest)
            return Outcome.PRESENT
        except NotFoundError:
            pass
        source = blobs / blob.digest.algorithm / blob.digest.hex
        wrong = await asyncio.to_thread(_wrong, source, blob, verify)
        if wrong is not None or dry_run:
            return wrong or Outcome.ADOPTED
        await self._blobs.adopt(scope, source, blob.digest, blob.size, blob.labels)
        return Outcome.ADOPTED

    async def _image(self, image: FoundImage, scope: Scope, dry_run: bool) -> Outcome:
        try:
            if not dry_run:
                await self._images.create(scope, Image(image.name, image.target, image.labels))
                return Outcome.ADOPTED
            there = await self._images.get(scope, image.name)
        except AlreadyExistsError:
            there = await self._images.get(scope, image.name)
        except NotFoundError:
            return Outcome.ADOPTED
        return Outcome.PRESENT if there.target.digest == image.target.digest else Outcome.CONFLICT

    async def _lease(self, lease: FoundLease, here: set[str], scope: Scope, dry_run: bool) -> Outcome:
        if _expired(lease):
            return Outcome.EXPIRED
        if any(there.id == lease.id for there in await self._leases.list(scope)):
            return Outcome.PRESENT
        if dry_run:
            return Outcome.ADOPTED
        await self._leases.create(scope, lease.id, lease.labels)
        resources = [LeaseResource("content", digest) for digest in lease.content if digest in here]
        resources += [LeaseResource("images", name) for name in lease.images]
        for resource in resources:
            await self._leases.add_resource(scope, lease.id, resource)
        return Outcome.ADOPTED


def _wrong(source: Path, blob: FoundBlob, verify: bool) -> Outcome | None:
    """What is wrong with the bytes of a blob; None when nothing is seen to be."""
    try:
        fd = os.open(source, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return Outcome.MISSING
    except OSError:
        return Outcome.DAMAGED
    try:
        if os.fstat(fd).st_size != blob.size:
            return Outcome.DAMAGED
        if verify and hash_file(fd, blob.digest.algorithm) != str(blob.digest):
            return Outcome.DAMAGED
    finally:
        os.close(fd)
    return None


def _expired(lease: FoundLease) -> bool:
    expiry = lease.labels.get(EXPIRE_LABEL)
    if expiry is None:
        return False
    moment = parse_rfc3339(expiry)
    return moment is not None and moment <= time.time_ns()
