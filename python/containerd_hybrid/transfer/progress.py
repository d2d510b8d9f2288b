"""Progress of a pull or push as containerd tells it: one line a blob, below what names it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from containerd_hybrid.model import Descriptor, Digest
from containerd_hybrid.model.descriptor import is_config, is_index, is_layer, is_manifest
from containerd_hybrid.transfer.api import Progress, ProgressSink

# Between two messages about one blob; a person sees no more, and each costs a message on a stream.
_EVERY_SECONDS = 0.2
_REF_NAME = "org.opencontainers.image.ref.name"


@dataclass(slots=True)
class _Job:
    name: str
    parents: tuple[str, ...]
    blob: Descriptor
    told_at: float = field(default=0.0)
    is_here: bool = False
    is_extracting: bool = False


class TransferProgress:
    """Tells ``tell`` about blobs. ``verb`` is ``downloading`` or ``uploading``, ``root`` the image's name."""

    def __init__(
        self, tell: ProgressSink, root: str, verb: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._tell = tell
        self._root = root
        self._verb = verb
        self._clock = clock
        self._jobs: dict[Digest, _Job] = {}

    def waiting(self, blob: Descriptor, parent: Descriptor | None = None) -> None:
        """The blob is known to be needed; the first call of each has to be this one."""
        if blob.digest in self._jobs:
            return
        name = self._root if parent is None else ref_key(parent)
        job = self._jobs[blob.digest] = _Job(ref_key(blob), (name,), blob)
        self._say(job, "waiting", 0)

    def moved(self, blob: Descriptor, count: int) -> None:
        """``count`` bytes of it are there."""
        job = self._jobs[blob.digest]
        now = self._clock()
        if now - job.told_at >= _EVERY_SECONDS:
            job.told_at = now
            self._say(job, self._verb, count)

    def complete(self, blob: Descriptor) -> None:
        self._arrived(blob, "complete")

    def exists(self, blob: Descriptor) -> None:
        self._arrived(blob, "already exists")

    def _arrived(self, blob: Descriptor, event: str) -> None:
        job = self._jobs[blob.digest]
        job.is_here = True
        self._say(job, event, blob.size)
        if job.is_extracting:
            self._say(job, "extracting", 0)

    def extracting(self, blob: Descriptor) -> None:
        """It is being unpacked; as long as it is still on its way, that is what a person is told."""
        job = self._jobs.get(blob.digest)
        if job is not None and not job.is_extracting:
            job.is_extracting = True
            if job.is_here:
                self._say(job, "extracting", 0)

    def extracted(self, blob: Descriptor) -> None:
        job = self._jobs.get(blob.digest)
        if job is not None:
            self._say(job, "extracted", blob.size)

    def _say(self, job: _Job, event: str, count: int) -> None:
        self._tell(Progress(event, job.name, job.parents, count, job.blob.size, job.blob))


def ref_key(blob: Descriptor) -> str:
    """What an ingest of the blob is called; containerd's clients call theirs the same."""
    named = blob.annotations.get(_REF_NAME)
    end = f"{named}@{blob.digest}" if named else str(blob.digest)
    media_type = blob.media_type
    if is_manifest(media_type):
        kind = "manifest"
    elif is_index(media_type):
        kind = "index"
    elif is_layer(media_type):
        kind = "layer"
    elif is_config(media_type):
        kind = "config"
    elif media_type == "application/vnd.in-toto+json":
        kind = "attestation"
    else:
        kind = "unknown"
    return f"{kind}-{end}"
