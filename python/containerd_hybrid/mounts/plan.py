"""Which of a list of mounts the manager has to make, and how each is made."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from containerd_hybrid.model import Mount
from containerd_hybrid.mounts.api import ActiveMount, MountHandler
from containerd_hybrid.mounts.transform import Transformer

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Step:
    """One mount: transformers in order, each with the type that is left after it; then how it is made.

    Without a handler that is by mount(2).
    """

    mount: Mount
    transformers: tuple[tuple[Transformer, str], ...] = ()
    handler: MountHandler | None = None

    def transformed(self, active: Sequence[ActiveMount]) -> Mount:
        """The mount as it is to be made after the ``active`` ones. May block."""
        mount = self.mount
        for transformer, rest in self.transformers:
            mount = transformer.transform(replace(mount, type=rest), active)
        return mount


@dataclass(frozen=True, slots=True)
class Plan:
    """``first`` are made by the manager; ``rest`` are the caller's, of which only the first is transformed.

    What comes behind that one is left as it is: a caller that is given types it does not know asks again
    once it has mounted the others.
    """

    first: tuple[Step, ...]
    rest: tuple[Step, ...]


class Planner:
    """Knows the transformers by the names before the slash, and the handlers by types."""

    def __init__(self, transformers: Mapping[str, Transformer], handlers: Mapping[str, MountHandler]) -> None:
        self._transformers = transformers
        self._handlers = handlers

    def plan(
        self, mounts: Sequence[Mount], *, temporary: bool = False, allowed: Sequence[str] = ()
    ) -> Plan | None:
        """None when there is nothing for the manager to do."""
        steps = []
        # The number of mounts to make; zero is a caller's mount that is only to be transformed.
        count: int | None = None
        for index, mount in enumerate(mounts):
            kind = mount.type
            transformers: list[tuple[Transformer, str]] = []
            while (found := self._transformer(kind)) is not None:
                name, transformer, kind = found
                transformers.append((transformer, kind))
                if f"{name}/*" not in allowed and mount.type not in allowed:
                    count = index
            handler = self._handlers.get(kind)
            if temporary or (handler is not None and kind not in allowed):
                count = index + 1
            steps.append(Step(mount, tuple(transformers), handler))
        return None if count is None else Plan(tuple(steps[:count]), tuple(steps[count:]))

    def _transformer(self, kind: str) -> tuple[str, Transformer, str] | None:
        name, slash, rest = kind.partition("/")
        if not slash:
            return None
        transformer = self._transformers.get(name)
        if transformer is None:
            log.warning("unknown transform %r in the mount type %r", name, kind)
            return None
        return name, transformer, rest
