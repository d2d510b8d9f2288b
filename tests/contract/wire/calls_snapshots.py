"""Snapshots: every state, every error, on overlayfs and native."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tests.contract.wire.asking import Ask, Values
from tests.contract.wire.calls_metadata import FILTER_ERRORS, LABEL_WORDS

OPTIONS = "1.x has its options in another order"
KEYS = "containerd names the key of its own database"
BUCKETS = "containerd speaks of its buckets"


def snapshot_calls() -> Iterator[Ask]:
    yield from _calls("overlayfs")
    yield from _calls("native")
    for name in ("none", ""):
        yield Ask("Snapshots.List", {"snapshotter": name})
        yield Ask("Snapshots.Prepare", {"snapshotter": name, "key": "x"})
        yield Ask("Snapshots.Stat", {"snapshotter": name, "key": "x"})


def _calls(snapshotter: str) -> Iterator[Ask]:
    def ask(method: str, was: str = "", but: str = "", **request: Any) -> Ask:
        return Ask(f"Snapshots.{method}", {"snapshotter": snapshotter, **request}, was=was, but=but)

    def update(info: Values, *paths: str, was: str = "", but: str = "") -> Ask:
        return ask("Update", was, but, info=info, update_mask={"paths": list(paths)})

    yield ask("List")
    for method in ("Stat", "Mounts", "Usage", "Remove"):
        yield ask(method, key="none", but=KEYS)
        yield ask(method, key="", but=KEYS)
    yield ask("Commit", name="base", key="none", but=BUCKETS)
    yield ask("Prepare", key="", but=BUCKETS)
    yield ask("Prepare", key="work", labels={"l": "1", "containerd.io/snapshot/x": "y"}, was=OPTIONS)
    yield ask("Prepare", key="work", but=KEYS)
    yield ask("View", key="work", but=KEYS)
    yield ask("Prepare", key="child", parent="none", but=KEYS)
    yield ask("Prepare", key="child", parent="work", but=KEYS)
    yield ask("View", key="child", parent="none", but=KEYS)
    yield ask("Prepare", key="big", labels={"k": "v" * 4096}, was=LABEL_WORDS)
    yield ask("Stat", key="work")
    yield ask("Mounts", key="work", was=OPTIONS)
    yield ask("Usage", key="work", but="blocks of an empty folder")
    yield ask("Commit", name="", key="work", but=BUCKETS)
    yield ask("Commit", name="base", key="work", labels={"m": "2"})
    yield ask("Stat", key="base")
    yield ask("Stat", key="work")
    yield ask("Mounts", key="base", but=KEYS)
    yield ask("Commit", name="base2", key="base", but=KEYS)
    yield ask("Prepare", key="base", but=KEYS)
    yield ask("Prepare", key="above", parent="base", was=OPTIONS)
    yield ask("View", key="see", parent="base", was=OPTIONS)
    yield ask("View", key="empty", was=OPTIONS)
    yield ask("Mounts", key="above", was=OPTIONS)
    yield ask("Mounts", key="see", was=OPTIONS)
    yield ask("Commit", name="base", key="above", but=KEYS)
    yield ask("Commit", name="seen", key="see", but=KEYS)
    yield ask("Remove", key="base", but=KEYS)
    yield ask("Prepare", key="later", parent="see", but=KEYS)
    for text in (
        *("name==base", "kind==committed", "kind==Committed", "kind==active", "kind==view", "parent==base"),
        *("labels.m==2", "labels.l", "nope", 'labels."containerd.io/snapshot/x"==y', "parent"),
    ):
        yield ask("List", filters=[text])
    for text in FILTER_ERRORS:
        yield ask("List", filters=[text], but="INVALID_ARGUMENT instead of UNKNOWN")
    yield update({"name": "base", "labels": {"n": "3"}}, "labels.n")
    yield update({"name": "base", "labels": {"o": "4"}}, "labels")
    yield update({"name": "base", "labels": {}}, "labels.o")
    yield update({"name": "base", "labels": {"p": "5"}})
    yield update({"name": "base", "parent": "x"}, "parent")
    yield update({"name": "base", "parent": "x"}, "bogus")
    yield update({"name": "base", "labels": {"k": "v" * 4096}}, "labels", was=LABEL_WORDS)
    yield update({"name": "none", "labels": {"p": "5"}}, "labels")
    yield update({"name": ""}, "labels", but=BUCKETS)
    yield ask("Stat", key="base")
    yield ask("List")
    yield Ask("Namespaces.Delete", {"name": "contract"})
    for key in ("above", "see", "empty", "base", "base"):
        yield ask("Remove", key=key, but=KEYS)
    yield ask("List")
