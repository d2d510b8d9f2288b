"""Subscriptions with filters: every field of an envelope and of the events that it carries."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tests.contract.wire.asking import Ask
from tests.contract.wire.calls_content import COMMIT, DATA, DIGEST, write
from tests.contract.wire.calls_metadata import TWO, container, image

FILTERS = (
    *("topic", "topic==/images/create", "topic!=/images/create", "topic~=/images/", "topic~=^/containers"),
    *("topic~=|create$|", "topic==/images/create,topic==/images/create", "topic==a,topic==/images/create"),
    *("namespace", "namespace==contract", "namespace!=contract", "namespace~=contr", "namespace==other"),
    *("timestamp", "event", "bogus", "bogus==1", "topic.more", "namespace.more==contract"),
    # Fields of one event, and of several that have one of the same name.
    *("event.name", "event.name==x", "event.name!=x", "event.name~=x|y", "event.name=='x'", "event.id"),
    *("event.id==c", "event.image", "event.image==img", "event.runtime", "event.runtime.name==runtime"),
    *("event.runtime.options", "event.labels", "event.labels.l", "event.labels.l==1", "event.labels.l!=1"),
    *("event.labels.more.dots==3", 'event.labels."more.dots"==3', "event.key", "event.key==work"),
    *("event.parent", "event.parent==base", "event.snapshotter==native", "event.digest"),
    *(f"event.digest=={DIGEST}", "event.size", "event.size==2048", "event.snapshot_key"),
    *("event.snapshot_key==k", "event.snapshotKey==k", "event.bogus", "event.name.more"),
    *("event.labels.l==1,topic~=containers", "event.id==c,event.image==img"),
)
# What 1.x does not tell in its events.
ONLY_2 = {"event.snapshotter==native"}


def eventful_calls() -> Iterator[Ask]:
    """What makes an event of every kind that needs no runtime."""

    def snapshot(method: str, **request: Any) -> Ask:
        return Ask(f"Snapshots.{method}", {"snapshotter": "native", **request})

    labels = {"l": "1", "more.dots": "3"}
    yield Ask("Images.Create", {"image": image("x", labels)})
    yield Ask("Images.Create", {"image": image("y", {"l": "2"}, digest=TWO)})
    changed = {"image": image("x", {"l": "1"}), "update_mask": {"paths": ["labels"]}}
    yield Ask("Images.Update", changed)
    yield Ask("Containers.Create", {"container": container(labels=labels)})
    yield Ask("Containers.Create", {"container": container(id="d", image="other", labels={})})
    more = {"container": container(labels={"l": "2"}), "update_mask": {"paths": ["labels"]}}
    yield Ask("Containers.Update", more)
    yield snapshot("Prepare", key="base-work")
    yield snapshot("Commit", name="base", key="base-work")
    yield snapshot("Prepare", key="work", parent="base")
    yield write({"action": COMMIT, "ref": "r", "data": DATA, "total": len(DATA), "expected": DIGEST})
    yield Ask("Content.Delete", {"digest": DIGEST})
    for key in ("work", "base"):
        yield snapshot("Remove", key=key)
    named = {"namespace": {"name": "contract", "labels": {"l": "1"}}}
    mask = {"paths": ["labels.l"]}
    yield Ask("Namespaces.Update", {**named, "update_mask": mask}, was="1.x gives an empty namespace")
    for name in ("c", "d"):
        yield Ask("Containers.Delete", {"id": name})
    for name in ("x", "y"):
        yield Ask("Images.Delete", {"name": name})
    event = {"type_url": "containerd.events.ContainerCreate", "value": b"\n\x01c\x12\x03img"}
    yield Ask("Events.Publish", {"topic": "/mine/one", "event": event})
    unknown = {"type_url": "example.com/unknown", "value": b"\n\x01c"}
    yield Ask("Events.Publish", {"topic": "/mine/two", "event": unknown})
    broken = {"type_url": "containerd.events.ContainerCreate", "value": b"\xff"}
    yield Ask("Events.Publish", {"topic": "/mine/three", "event": broken})
