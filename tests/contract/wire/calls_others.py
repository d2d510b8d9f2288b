"""Sandboxes, transfer, streaming, introspection, version, events: what needs no image and no registry."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tests.contract.wire.asking import Ask, Values
from tests.contract.wire.calls_metadata import FILTER_ERRORS, typed

BUCKETS = "containerd speaks of its buckets"
TYPES = "containerd has no codes for these"


def sandbox_calls() -> Iterator[Ask]:
    def box(**changes: Any) -> Values:
        return {
            "sandbox_id": "s",
            "runtime": {"name": "runtime", "options": typed("options")},
            "spec": typed("spec"),
            "labels": {"l": "1"},
            "extensions": {"x": typed("extension")},
            "sandboxer": "shim",
            **changes,
        }

    def update(*paths: str, but: str = "", **changes: Any) -> Ask:
        return Ask("Store.Update", {"sandbox": box(**changes), "fields": list(paths)}, only=2, but=but)

    yield Ask("Store.Get", {"sandbox_id": "s"}, only=2, but=BUCKETS)
    yield Ask("Store.Delete", {"sandbox_id": "s"}, only=2, but=BUCKETS)
    yield Ask("Store.Create", {"sandbox": box(sandbox_id="first")}, only=2)
    yield Ask("Store.Get", {"sandbox_id": "s"}, only=2, but=BUCKETS)
    yield Ask("Store.Delete", {"sandbox_id": "s"}, only=2, but=BUCKETS)
    yield update(but=BUCKETS)
    yield Ask("Store.Create", {"sandbox": box()}, only=2)
    yield Ask("Store.Create", {"sandbox": box()}, only=2, but=BUCKETS)
    wrongs: tuple[Values, ...] = (
        {"sandbox_id": ""},
        {"sandbox_id": "a b"},
        {"runtime": {}},
        {"labels": {"k": "v" * 4096}},
    )
    for wrong in wrongs:
        yield Ask("Store.Create", {"sandbox": box(**{"sandbox_id": "d", **wrong})}, only=2)
        yield Ask("Store.Delete", {"sandbox_id": "d"}, only=2, but=BUCKETS)
    for text in ("id==s", "labels.l==1", "runtime.name==runtime", "nope", "sandboxer==shim", *FILTER_ERRORS):
        yield Ask("Store.List", {"filters": [text]}, only=2)
    for paths in (
        (),
        ("labels",),
        ("labels.n",),
        ("extensions",),
        ("extensions.y",),
        ("spec",),
        ("runtime",),
        ("bogus",),
        ("sandboxer",),
    ):
        but = "the extensions that stayed" if paths in ((), ("extensions",)) else ""
        yield update(
            *paths,
            but=but,
            labels={"n": "2"},
            extensions={"y": typed("y")},
            spec=typed("new"),
            sandboxer="other",
        )
        yield Ask("Store.Get", {"sandbox_id": "s"}, only=2)
    for sandboxer in ("shim", "none", ""):
        one = {"sandbox_id": "s", "sandboxer": sandboxer}
        for method in ("Start", "Platform", "Stop", "Wait", "Status", "Shutdown", "Metrics"):
            if (method, sandboxer) != ("Platform", "shim"):
                yield Ask(f"Controller.{method}", one, only=2, but="NOT_FOUND, and names what there is")
    yield Ask("Namespaces.Delete", {"name": "contract"}, only=2)
    for name in ("s", "first"):
        yield Ask("Store.Delete", {"sandbox_id": name}, only=2)
    yield Ask("Store.List", only=2)


def transfer_calls() -> Iterator[Ask]:
    def known(name: str, value: bytes = b"") -> Values:
        return {"type_url": f"containerd.types.transfer.{name}", "value": value}

    nothing = {"type_url": "containerd.types.transfer.Nothing", "value": b""}
    for source, target in (
        (nothing, nothing),
        (known("ImageStore"), nothing),
        (known("ImageStore"), known("ImageStore")),
        (known("ImageStore", b"\n\x04none"), known("ImageStore", b"\n\x05other")),
        (known("ImageImportStream"), known("ImageStore")),
        (known("ImageImportStream", b"\n\x04none"), known("ImageStore")),
        (known("ImageStore", b"\n\x04none"), known("ImageExportStream", b"\n\x04none")),
        (known("ImageStore", b"\xff\xff"), known("ImageStore")),
    ):
        yield Ask("Transfer.Transfer", {"source": source, "destination": target}, only=2, but=TYPES)
    yield Ask("Transfer.Transfer", only=2, but=TYPES)


def daemon_calls() -> Iterator[Ask]:
    types = (
        "content.v1",
        "snapshotter.v1,id==overlayfs",
        "snapshotter.v1,id==native",
        "differ.v1,id==walking",
    )
    for one in (*types, "grpc.v1,id==tasks", "grpc.v1,id==images", "gc.v1"):
        yield Ask(
            "Introspection.Plugins",
            {"filters": [f"type==io.containerd.{one}"]},
            but="the plug-ins that each needs",
        )
    for text in ("id==none", "nope==1", *FILTER_ERRORS):
        yield Ask(
            "Introspection.Plugins", {"filters": [text, "id==none"]}, but="containerd says the class twice"
        )
    yield Ask("Introspection.PluginInfo", {"type": "io.containerd.none.v1", "id": "none"}, only=2)
    yield Ask("Introspection.PluginInfo", {"type": "", "id": ""}, only=2)
    yield Ask("Mounts.Info", {"name": "none"}, only=2, but=BUCKETS)
    yield Ask("Mounts.Deactivate", {"name": "none"}, only=2, but=BUCKETS)
    yield Ask("Mounts.List", only=2)
    yield Ask("Mounts.Activate", {"name": ""}, only=2, but="says what is missing")
    yield Ask("Mounts.Update", {"info": {"name": "x"}}, only=2, but="says what to do")
    yield Ask("Streaming.Stream", [{"type_url": "nonsense", "value": b""}], only=2, but=TYPES)
    event = {"type_url": "containerd.events.NamespaceDelete", "value": b""}
    for topic in ("", "no-slash", "/a/b c", "/a//b", "/", "/good/topic"):
        yield Ask("Events.Publish", {"topic": topic, "event": event})
        yield Ask(
            "Events.Forward",
            {
                "envelope": {
                    "topic": topic,
                    "namespace": "contract",
                    "event": event,
                    "timestamp": {"seconds": 1},
                }
            },
        )
    yield Ask(
        "Events.Forward",
        {"envelope": {"topic": "/a", "namespace": "", "event": event, "timestamp": {"seconds": 1}}},
    )
    yield Ask(
        "Events.Publish",
        {"topic": "/a", "event": event},
        namespace="",
        but="containerd says that it was publishing",
    )
    for text in ("topic==", "==x", "topic==x,,"):
        yield Ask("Events.Subscribe", {"filters": [text]}, but="INVALID_ARGUMENT instead of UNKNOWN")
