"""Which tasks there are: at most one for each namespace and id."""

from __future__ import annotations

from containerd_hybrid.errors import AlreadyExistsError, NotFoundError
from containerd_hybrid.tasks.shim import Shim

Key = tuple[str, str]


class TaskTable:
    """Tasks by namespace and id.

    A name is taken from before the task's bundle is made until after it was removed, so a second task of
    that name never meets the remains of the first; it can be found only while the task is usable.
    """

    def __init__(self) -> None:
        self._taken: set[Key] = set()
        self._shims: dict[Key, Shim] = {}

    def reserve(self, key: Key) -> None:
        """Take a name.

        Raises:
            AlreadyExistsError: it is taken.
        """
        if key in self._taken:
            raise AlreadyExistsError(f"task {key[1]}: already exists")
        self._taken.add(key)

    def release(self, key: Key) -> None:
        """Give the name back."""
        self._taken.discard(key)
        self._shims.pop(key, None)

    def add(self, shim: Shim) -> None:
        """The reserved name is a usable task from now on."""
        self._shims[shim.key] = shim

    def hide(self, shim: Shim) -> bool:
        """The task is over, though its name stays taken; whether it was to be found until now."""
        if self._shims.get(shim.key) is not shim:
            return False
        del self._shims[shim.key]
        return True

    def get(self, namespace: str, id: str) -> Shim:
        """
        Raises:
            NotFoundError: there is no such task.
        """
        shim = self._shims.get((namespace, id))
        if shim is None:
            raise NotFoundError(f"task {id} not found")
        return shim

    def find(self, namespace: str, id: str) -> Shim | None:
        return self._shims.get((namespace, id))

    def within(self, namespace: str) -> list[Shim]:
        """The tasks of a namespace."""
        return [
            shim for (owner, _), shim in self._shims.items() if owner == namespace and not shim.is_sandbox
        ]

    def all(self) -> list[Shim]:
        return list(self._shims.values())
