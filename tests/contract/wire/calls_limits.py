"""Limits: identifiers, sizes of labels and of messages; and what a lease in the headers holds."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

from tests.contract.wire.asking import LEASE, Ask, Values, size_of
from tests.contract.wire.calls_content import COMMIT, STAT, WRITE, write
from tests.contract.wire.calls_metadata import LABEL_WORDS, container, image
from tests.contract.wire.calls_snapshots import OPTIONS

NAMES = (
    *("a", "A", "0", "a.b", "a_b", "a-b", "a--b", "a..b", "a._b", ".a", "a.", "_a", "a_", "-a", "a-"),
    *("a/b", "a b", "a\n", "a:b", "é", "a\x00", "x" * 76, "x" * 77, "../a", "a" * 300),
)
MESSAGE_LIMIT = 16 << 20
SAYS_THE_SIZE = "Go's library has its own words, the code is the same"


def id_calls() -> Iterator[Ask]:
    """What may be the name of a container, a sandbox, a process, a namespace."""
    for name in NAMES:
        yield Ask("Containers.Create", {"container": container(id=name)})
        yield Ask("Containers.Delete", {"id": name})
        box = {"sandbox_id": name, "runtime": {"name": "runtime"}, "sandboxer": "shim"}
        yield Ask("Store.Create", {"sandbox": box}, only=2)
        yield Ask("Store.Delete", {"sandbox_id": name}, only=2, but="containerd speaks of its buckets")
        yield Ask("Tasks.Get", {"container_id": name})
        if name.isascii() and "\n" not in name and "\0" not in name:
            yield Ask("Containers.List", namespace=name)
    for name in ("", " ", "a b", "a/b", "x" * 5000, "é"):
        yield Ask("Images.Create", {"image": image(name)})
        yield Ask("Images.Delete", {"name": name})
        yield Ask("Leases.Create", {"id": name} if name else {"id": "given"})
        yield Ask("Leases.Delete", {"id": name or "given"})
        yield Ask("Snapshots.Prepare", {"snapshotter": "native", "key": name or "key"}, was=OPTIONS)
        yield Ask("Snapshots.Remove", {"snapshotter": "native", "key": name or "key"})


def label_calls() -> Iterator[Ask]:
    """The most that a label may be, its key and its value together, and one more."""
    for key, size in (
        *(("k", 4095), ("k", 4096), ("k" * 64, 4032), ("k" * 64, 4033), ("k" * 65, 4032)),
        *(("k" * 4096, 0), ("k" * 4097, 0), ("é" * 40, 4016), ("é" * 40, 4017)),
        *(("", 1), ("", 4096), ("", 4097)),
    ):
        labels = {key: "v" * size}
        yield from _labelled(labels)
    yield from _labelled({f"k{n}": "v" * 4000 for n in range(50)})  # each by itself


def _labelled(labels: dict[str, str]) -> Iterator[Ask]:
    but = "a code for it" if "" in labels else ""

    def ask(method: str, request: Values, **more: Any) -> Ask:
        return Ask(method, request, was=LABEL_WORDS, but=but, **more)

    yield ask("Containers.Create", {"container": container(id="l", labels=labels)})
    yield ask("Containers.Delete", {"id": "l"})
    yield ask("Images.Create", {"image": image("l", labels)})
    yield ask("Images.Delete", {"name": "l"})
    given = {"namespace": {"name": "labelled", "labels": labels}}
    kept = but or ("" if all(labels.values()) else "containerd keeps those without a value")
    yield Ask("Namespaces.Create", given, was=LABEL_WORDS, but=kept)
    yield Ask("Namespaces.Get", {"name": "labelled"}, but=kept)
    yield ask("Namespaces.Delete", {"name": "labelled"})
    yield ask("Snapshots.Prepare", {"snapshotter": "native", "key": "l", "labels": labels})
    yield ask("Snapshots.Commit", {"snapshotter": "native", "name": "m", "key": "l", "labels": labels})
    for key in ("l", "m"):
        yield ask("Snapshots.Remove", {"snapshotter": "native", "key": key})
    data = b"labelled"
    whole = {"action": COMMIT, "ref": "l", "data": data, "total": len(data), "labels": labels}
    yield write(whole, was=LABEL_WORDS, but=but)
    yield ask("Content.Abort", {"ref": "l"})
    yield ask("Content.Delete", {"digest": "sha256:" + hashlib.sha256(data).hexdigest()})
    yield ask("Leases.Create", {"id": "labelled", "labels": labels})
    yield ask("Leases.Delete", {"id": "labelled"})


def lease_header_calls() -> Iterator[Ask]:
    """Everything that makes something, below a lease and below one that is not there."""

    def below(name: str) -> tuple[tuple[str, str], ...]:
        return (("containerd-lease", name),)

    yield Ask("Leases.Create", {"id": "holder"}, headers=())
    for name in ("holder", "nosuch"):
        headers, key = below(name), name
        data = f"below {key}".encode()
        snapshot = {"snapshotter": "native"}
        held = (("containerd-lease", LEASE),)
        for request in (
            {"action": WRITE, "ref": f"open-{key}", "data": data},
            {"action": COMMIT, "ref": f"done-{key}", "data": data, "total": len(data)},
        ):
            yield write(request, headers=headers)
        # Again, by who finds it there.
        digest = "sha256:" + hashlib.sha256(data).hexdigest()
        yield write({"action": STAT, "ref": f"again-{key}", "expected": digest}, headers=headers)
        yield Ask("Snapshots.Prepare", {**snapshot, "key": f"active-{key}"}, headers=headers, was=OPTIONS)
        yield Ask("Snapshots.Prepare", {**snapshot, "key": f"base-{key}"}, headers=held, was=OPTIONS)
        commit = {**snapshot, "name": f"done-{key}", "key": f"base-{key}"}
        yield Ask("Snapshots.Commit", commit, headers=headers)
        view = {**snapshot, "key": f"view-{key}", "parent": f"done-{key}"}
        yield Ask("Snapshots.View", view, headers=headers, was=OPTIONS)
        yield Ask("Images.Create", {"image": image(f"image-{key}")}, headers=headers)
        yield Ask("Containers.Create", {"container": container(id=f"c-{key}")}, headers=headers)
        yield Ask("Namespaces.Create", {"namespace": {"name": f"below-{key}"}}, headers=headers)
        yield Ask("Leases.Create", {"id": f"lease-{key}"}, headers=headers)
        for one in ("holder", "nosuch"):
            yield Ask("Leases.ListResources", {"id": one}, headers=())
        # What a lease held is not in it any more when it is gone.
        yield Ask("Snapshots.Remove", {**snapshot, "key": f"view-{key}"}, headers=())
        yield Ask("Content.Abort", {"ref": f"open-{key}"}, headers=())
        yield Ask("Images.Delete", {"name": f"image-{key}"}, headers=())
        yield Ask("Leases.ListResources", {"id": "holder"}, headers=())
        for method, request in (
            ("Snapshots.Remove", {**snapshot, "key": f"active-{key}"}),
            ("Snapshots.Remove", {**snapshot, "key": f"done-{key}"}),
            ("Snapshots.Remove", {**snapshot, "key": f"base-{key}"}),
            ("Content.Delete", {"digest": digest}),
            ("Containers.Delete", {"id": f"c-{key}"}),
            ("Namespaces.Delete", {"name": f"below-{key}"}),
            ("Leases.Delete", {"id": f"lease-{key}"}),
        ):
            yield Ask(method, request, headers=(), but="containerd names the key of its own database")
    yield Ask("Leases.Delete", {"id": "holder"}, headers=())


def large_calls() -> Iterator[Ask]:
    """Messages of just the size that is taken and one byte more, to the daemon and from it."""
    for method in ("Containers.Create", "Content.Write"):
        for extra in (0, 1):
            yield _of_size(method, MESSAGE_LIMIT + extra)
    # Their records have times besides, and are larger than what made them.
    yield Ask("Containers.Get", {"id": "large"}, but=SAYS_THE_SIZE)
    yield Ask("Containers.List", but=SAYS_THE_SIZE)
    yield Ask("Containers.ListStream", but=SAYS_THE_SIZE)
    yield Ask("Containers.Delete", {"id": "large"})
    yield Ask("Content.Abort", {"ref": "large"})
    for name in ("one", "two", "three"):
        spec = {"type_url": "spec", "value": bytes(6 << 20)}
        yield Ask("Containers.Create", {"container": container(id=name, spec=spec)})
    yield Ask("Containers.List", {"filters": ["id!=three"]})
    yield Ask("Containers.List", but=SAYS_THE_SIZE)
    yield Ask("Containers.ListStream")
    for name in ("one", "two", "three"):
        yield Ask("Containers.Delete", {"id": name})


def _of_size(method: str, size: int) -> Ask:
    """A call whose request has that many bytes on the wire."""

    def request(payload: int) -> Values:
        data = bytes(payload)
        if method == "Content.Write":
            return {"action": WRITE, "ref": "large", "data": data, "total": 64 << 20}
        return {"container": container(id="large", spec={"type_url": "spec", "value": data})}

    payload = size - size_of(method, request(0))
    while size_of(method, request(payload)) > size:
        payload -= 1
    whole = request(payload)
    assert size_of(method, whole) == size
    return Ask(method, [whole] if method == "Content.Write" else whole, but=SAYS_THE_SIZE)
