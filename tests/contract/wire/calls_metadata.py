"""Namespaces, images, containers and leases: names, labels, field masks, filters, what may not change."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tests.contract.wire.asking import Ask, Values

ONE, TWO = "sha256:" + "a" * 64, "sha256:" + "b" * 64
SAYS_WHAT_A_DIGEST_IS = "the message says what a digest looks like"
LABEL_WORDS = "1.x does not tell the length"
FILTER_ERRORS = ("name==", "name=='", "==x", "name~=(", 'name=="a', "a b", "name==x,,", "name!x")
FIRST = "before the first of its kind 1.x and 2.x speak of buckets"


def namespace_calls() -> Iterator[Ask]:
    def create(name: str, **labels: str) -> Ask:
        return Ask("Namespaces.Create", {"namespace": {"name": name, "labels": labels}})

    def update(name: str, labels: dict[str, str], *paths: str) -> Ask:
        request = {"namespace": {"name": name, "labels": labels}, "update_mask": {"paths": list(paths)}}
        return Ask("Namespaces.Update", request, was="1.x gives an empty namespace, 2.x none")

    yield Ask("Namespaces.Get", {"name": "nowhere"})
    yield Ask("Namespaces.Delete", {"name": "nowhere"})
    yield Ask("Namespaces.Get", {})
    yield create("contract", a="1")
    yield create("contract")
    for name in ("", "a b", "-x", "x" * 77, "x" * 76, "a..b", "é", "x.y-z_0", "a/b", "A", "_a", "a-", "a--b"):
        yield create(name)
    yield Ask(
        "Namespaces.Create", {"namespace": {"name": "big", "labels": {"k": "v" * 4096}}}, was=LABEL_WORDS
    )
    yield create("big", k="v" * 4095)
    yield update("contract", {"a": "2"}, "labels.a")
    yield update("contract", {"b": "3"}, "labels")
    yield update("contract", {"b": ""}, "labels.b")
    yield update("contract", {"c": "3"})
    yield update("contract", {"c": "3"}, "name")
    yield update("contract", {"c": "3"}, "bogus")
    yield update("none", {"c": "3"}, "labels")
    yield update("contract", {"k": "v" * 4096}, "labels")
    yield Ask("Namespaces.Get", {"name": "contract"})
    yield Ask("Namespaces.List", {"filter": "name==contract"})
    yield Ask("Namespaces.List", {"filter": "name=="})
    for name in ("x.y-z_0", "x" * 76, "big", "A", "a-"):
        yield Ask("Namespaces.Delete", {"name": name})
    yield Ask("Namespaces.List")
    yield Ask("Images.List", namespace="")
    yield Ask("Images.List", namespace="a b")
    yield Ask("Images.List", namespace="unknown")
    yield Ask("Images.Create", {"image": image("x")}, namespace="unknown")
    yield Ask("Namespaces.Delete", {"name": "unknown"})
    yield Ask("Images.Delete", {"name": "x"}, namespace="unknown")
    yield Ask("Namespaces.Delete", {"name": "unknown"})


def image(name: str, labels: dict[str, str] | None = None, **changes: Any) -> Values:
    target = {"media_type": "application/x", "digest": ONE, "size": 10, **changes}
    return {"name": name, "target": target, "labels": labels or {}}


def image_calls() -> Iterator[Ask]:
    def create(name: str, labels: dict[str, str] | None = None, **changes: Any) -> Ask:
        return Ask("Images.Create", {"image": image(name, labels, **changes)})

    def look(*filters: str, was: str = "") -> Ask:
        return Ask("Images.List", {"filters": list(filters)}, was=was)

    yield Ask("Images.Get", {"name": "x"})
    yield look()
    yield create("x", {"l": "1", "empty": ""}, annotations={"n": "1"})
    yield create("x")
    yield create("y", {"l": "2", "more.dots": "3"}, digest=TWO)
    wrong = ({"size": 0}, {"size": -1}, {"media_type": ""}, {"digest": ""}, {"digest": "sha256:abc"})
    for changes in (*wrong, {"digest": "md5:" + "a" * 32}, {"digest": "nonsense"}):
        made = {"image": image("z", **changes)}
        but = SAYS_WHAT_A_DIGEST_IS if "digest" in changes else ""
        yield Ask("Images.Create", made, but=but, was="1.x has Target for target")
    yield create("")
    yield Ask("Images.Create", {"image": image("z", {"k": "v" * 4096})}, was=LABEL_WORDS)
    yield Ask("Images.Create", {"image": image("z", {"containerd.io/gc.ref.content.0": "v"})})
    for text in (
        *("name==x", "labels.l", "labels.l==2", 'labels."more.dots"==3', "labels.more.dots"),
        *(f"target.digest=={TWO}", "target.digest~=^sha256:a", "target.mediatype", "annotations.n==1"),
        *("name~=/.*/,labels.l==1", "name==x,", "nope==1", "name!=x", "labels.ns/key", "target"),
        *("labels.l!=1", "name~=[xy]", "name=='x'", 'name=="x"', "name==x,labels.l==1", "labels.empty"),
        *("labels.l~=/1|2/", "name~=|x|", "target.mediatype~=x$", ""),
    ):
        yield look(text)
    for text in FILTER_ERRORS:
        yield look(text)
    yield look("name==x", "name==y")
    given = image("x", {"new": "n"}, digest=TWO, annotations={"q": "2"})
    for paths in (
        *(("labels.l",), ("labels",), ("target",), ("annotations",), ("annotations.q",), ("bogus",)),
        *(("labels.new", "labels.l"), ("name",), ("target.digest",), ("target.size",), ()),
    ):
        yield Ask("Images.Update", {"image": given, "update_mask": {"paths": list(paths)}})
        yield Ask("Images.Get", {"name": "x"})
    yield Ask("Images.Update", {"image": image("none")})
    yield Ask("Images.Update", {"image": image("")})
    for digest in (ONE, TWO):
        yield Ask("Images.Delete", {"name": "x", "target": {"digest": digest}, "sync": True}, only=2)
    yield Ask("Images.Delete", {"name": "x"}, only=1)
    yield Ask("Images.Delete", {"name": "none"})
    yield Ask("Images.Delete", {"name": ""})
    yield Ask("Images.Delete", {"name": "z"})
    yield Ask("Images.Delete", {"name": "y", "sync": True})
    yield look()


def lease_calls() -> Iterator[Ask]:
    def create(id: str, was: str = "", **labels: str) -> Ask:
        return Ask("Leases.Create", {"id": id, "labels": labels}, was=was)

    yield create("l", a="b", empty="")
    yield create("l")
    yield create("we ird/../id", k="v" * 5000)
    yield Ask("Leases.Create", {"id": "gone", "labels": {"containerd.io/gc.expire": "2001-01-01T00:00:00Z"}})
    for filters in ((), ("id==l",), ("labels.a==b",), ("id~=l",), ("labels.a",), ("nope",)):
        yield Ask("Leases.List", {"filters": [*filters, "id==nothing"] if filters else []})
    for text in FILTER_ERRORS:
        yield Ask("Leases.List", {"filters": [text]})
    kinds = (
        *(("content", ONE), ("content", "x"), ("content", "sha256:xyz"), ("content/x", ONE)),
        *(("snapshots/overlayfs", "k"), ("snapshots", "k"), ("snapshots/a/b", "k")),
        *(("ingests", "r"), ("ingests/x", "r"), ("bogus", "x"), ("", "x"), ("content", "")),
    )
    for kind, key in kinds:
        wanted = {"id": "l", "resource": {"type": kind, "id": key}}
        for method in ("AddResource", "DeleteResource", "AddResource", "AddResource"):
            but = SAYS_WHAT_A_DIGEST_IS if kind == "content" and key != ONE else ""
            yield Ask(f"Leases.{method}", wanted, but=but)
        yield Ask("Leases.ListResources", {"id": "l"})
    resource = {"type": "content", "id": ONE}
    yield Ask("Leases.AddResource", {"id": "none", "resource": resource})
    yield Ask("Leases.DeleteResource", {"id": "none", "resource": resource})
    yield Ask("Leases.ListResources", {"id": "none"})
    yield Ask("Leases.Delete", {"id": "none"})
    yield Ask("Leases.Delete", {"id": ""})
    lease = (("containerd-lease", "nosuch"),)
    yield Ask("Content.Write", [{"action": 0, "ref": "with-lease"}], headers=lease)
    for name in ("l", "we ird/../id", "gone"):
        yield Ask("Leases.Delete", {"id": name, "sync": name == "l"})
    yield Ask("Leases.List")


def typed(name: str) -> Values:
    return {"type_url": name, "value": b"{}"}


def container(**changes: Any) -> Values:
    return {
        "id": "c",
        "image": "img",
        "runtime": {"name": "runtime", "options": typed("options")},
        "spec": typed("spec"),
        "snapshotter": "overlayfs",
        "snapshot_key": "k",
        "labels": {"l": "1", "empty": ""},
        "extensions": {"x": typed("extension")},
        **changes,
    }


def container_calls() -> Iterator[Ask]:
    def create(was: str = "", **changes: Any) -> Ask:
        values = {k: v for k, v in container(**changes).items() if v is not None}
        return Ask("Containers.Create", {"container": values}, was=was)

    def update(*paths: str, was: str = "", but: str = "", **changes: Any) -> Ask:
        values = {k: v for k, v in container(**changes).items() if v is not None}
        return Ask(
            "Containers.Update",
            {"container": values, "update_mask": {"paths": list(paths)}},
            was=was,
            but=but,
        )

    yield Ask("Containers.Get", {"id": "c"}, but=FIRST)
    yield Ask("Containers.Delete", {"id": "c"}, but=FIRST)
    yield update(but=FIRST)
    yield Ask("Containers.List")
    yield create(id="first")
    yield Ask("Containers.Get", {"id": "c"})
    yield Ask("Containers.Get", {"id": ""})
    yield Ask("Containers.Delete", {"id": "c"})
    yield Ask("Containers.Delete", {"id": ""})
    yield update()
    yield create()
    yield create()
    wrongs: tuple[Values, ...] = (
        *({"id": ""}, {"id": "a b"}, {"id": "x" * 77}, {"snapshotter": ""}, {"snapshot_key": ""}),
        *({"runtime": None}, {"runtime": {}}, {"extensions": {"": typed("x")}}),
    )
    for wrong in wrongs:
        yield create(**{"id": "d", **wrong})
    yield Ask("Containers.Delete", {"id": "d"})
    yield create(was=LABEL_WORDS, id="d", labels={"k": "v" * 4096})
    bare: Values = {"image": "", "snapshotter": "", "snapshot_key": "", "labels": {}, "extensions": {}}
    yield create(id="least", runtime={"name": "runtime"}, **bare)
    yield Ask("Containers.Get", {"id": "least"})
    texts = ("id==c", "runtime.name==runtime", "image", "labels.l==1", "runtime", "image!=img", "nope", "")
    for text in (*texts, "snapshotter==overlayfs", "snapshotkey==k", *FILTER_ERRORS):
        yield Ask("Containers.List", {"filters": [text]})
        yield Ask("Containers.ListStream", {"filters": [text]})
    given: Values = {
        "image": "new",
        "labels": {"n": "2"},
        "snapshot_key": "new",
        "spec": typed("other"),
        "extensions": {"y": typed("other")},
        "sandbox": "box",
    }
    for paths in (
        *(("labels.l",), ("labels",), ("image",), ("snapshotkey",), ("spec",), ("extensions.y",)),
        *(("extensions",), ("runtime",), ("snapshot_key",), ("bogus",), ("labels.n", "image"), ("sandbox",)),
    ):
        # The answer lacks the extensions that stayed; the record has them.
        yield update(*paths, but="the extensions that stayed" if paths == ("extensions",) else "", **given)
        yield Ask("Containers.Get", {"id": "c"})
    yield update(extensions={"x": typed("1"), "y": typed("2")})
    yield Ask("Containers.Get", {"id": "c"})
    yield update(snapshotter="native")
    yield update(runtime={"name": "other"})
    yield update("labels", labels={"k": "v" * 4096}, was=LABEL_WORDS)
    yield Ask("Namespaces.Delete", {"name": "contract"})
    for name in ("first", "c", "least", "c", "d"):
        yield Ask("Containers.Delete", {"id": name})
    yield Ask("Containers.List")
