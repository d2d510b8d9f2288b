"""Where a blob can be fetched from again: its images' repositories, and those that its labels name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from containerd_hybrid.errors import HybridError, InvalidReferenceError, NotFoundError
from containerd_hybrid.model import Descriptor, Reference, Scope
from containerd_hybrid.model.labels import DISTRIBUTION_SOURCE
from containerd_hybrid.registry.api import RegistryClient, RegistryOptions
from containerd_hybrid.transfer.api import BlobFetcher


class BlobSources:
    """Fetches as a pull does."""

    def __init__(self, registries: RegistryClient, fetches: BlobFetcher) -> None:
        self._registries = registries
        self._fetches = fetches

    async def fetch(
        self,
        scope: Scope,
        blob: Descriptor,
        images: Iterable[str],
        labels: Mapping[str, str],
        options: RegistryOptions,
    ) -> None:
        """Make the namespace have the bytes of a blob that it has lost; ``images`` are the names it is in.

        Raises:
            NotFoundError: nothing says where it came from.
            HybridError: none of the places gives it.
        """
        failure: HybridError = NotFoundError("nothing says from which registry it came")
        for reference in _places(images, labels):
            try:
                await self._fetches.fetch(scope, self._registries.repository(reference, options), blob)
            except HybridError as error:
                failure = error
            else:
                return
        raise failure


def _places(images: Iterable[str], labels: Mapping[str, str]) -> list[Reference]:
    """Repositories, once each. A label's host has no port, so the images' names come first."""
    found: list[Reference] = []
    for name in images:
        try:
            reference = Reference.parse(name)
        except InvalidReferenceError:
            continue
        found.append(Reference(reference.host, reference.path))
    prefix = f"{DISTRIBUTION_SOURCE}."
    for key, value in sorted(labels.items()):
        if key.startswith(prefix):
            found += [Reference(key.removeprefix(prefix), path) for path in value.split(",") if path]
    return list(dict.fromkeys(found))
