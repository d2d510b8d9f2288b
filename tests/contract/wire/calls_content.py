"""Content: writing in pieces, at offsets and again; ranges, filters, labels; sharing between namespaces."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

from tests.contract.wire.asking import Ask, Values
from tests.contract.wire.calls_metadata import FILTER_ERRORS, LABEL_WORDS, SAYS_WHAT_A_DIGEST_IS

STAT, WRITE, COMMIT = 0, 1, 2
DATA = bytes(range(256)) * 8
DIGEST = "sha256:" + hashlib.sha256(DATA).hexdigest()
OTHER = "sha256:" + "0" * 64


def write(*requests: Values, but: str = "", was: str = "", **more: Any) -> Ask:
    return Ask("Content.Write", list(requests), but=but, was=was, **more)


def status(ref: str = "r") -> Ask:
    return Ask("Content.Status", {"ref": ref})


def content_calls() -> Iterator[Ask]:
    yield Ask("Content.List")
    yield Ask("Content.ListStatuses")
    for digest in (DIGEST, "nonsense", "", "sha256:abc", "md5:" + "a" * 32):
        but = "" if digest == DIGEST else SAYS_WHAT_A_DIGEST_IS
        for method in ("Info", "Delete", "Read"):
            yield Ask(f"Content.{method}", {"digest": digest}, but=but)
    yield status()
    yield Ask("Content.Abort", {"ref": "r"})
    yield Ask("Content.Abort", {"ref": ""})
    yield write({"action": STAT, "ref": ""})
    yield write({"action": WRITE, "ref": "r", "data": DATA[:100], "total": len(DATA), "expected": DIGEST})
    yield status()
    yield Ask("Content.ListStatuses")
    for text in ("ref==r", "ref==x", "ref", "nope", *FILTER_ERRORS):
        yield Ask("Content.ListStatuses", {"filters": [text]})
    yield write({"action": STAT, "ref": "r"})
    yield write({"action": STAT, "ref": "r", "total": len(DATA), "expected": OTHER})
    yield write({"action": WRITE, "ref": "r", "offset": 50, "data": DATA[50:100]})
    yield write({"action": WRITE, "ref": "r", "offset": 5000, "data": b"x"})
    yield write({"action": WRITE, "ref": "r", "offset": 100, "data": DATA[100:200]}, {"action": STAT})
    yield write(
        {"action": WRITE, "ref": "r", "offset": 200, "data": DATA[200:]},
        {"action": WRITE, "ref": "q", "data": b"y"},
    )
    yield status("q")
    yield write({"action": STAT, "ref": "r"}, {"action": COMMIT, "offset": 1, "total": 7})
    yield status()
    yield write({"action": WRITE, "ref": "s", "data": DATA})
    yield write({"action": COMMIT, "ref": "s", "offset": len(DATA), "total": len(DATA), "expected": OTHER})
    yield status("s")
    yield Ask("Content.Abort", {"ref": "s"})
    yield status("s")
    for ref in ("r", "t"):
        yield Ask("Content.Abort", {"ref": ref})
    labels = {"a": "b", "empty": ""}
    whole = {"action": COMMIT, "ref": "t", "data": DATA, "total": len(DATA), "expected": DIGEST}
    yield write({"action": STAT, "ref": "t"}, {**whole, "labels": labels})
    yield write({**whole, "ref": "u"})
    yield write({"action": STAT, "ref": "u", "expected": DIGEST})
    yield write({"action": WRITE, "ref": "v", "data": b"v"})
    yield write(
        {"action": COMMIT, "ref": "w", "data": b"small", "labels": {"k": "v" * 4096}}, was=LABEL_WORDS
    )
    yield Ask("Content.Abort", {"ref": "w"})
    yield Ask("Content.Abort", {"ref": "v"})
    yield write({"action": COMMIT, "ref": "empty"})
    yield Ask("Content.ListStatuses")
    yield Ask("Content.Info", {"digest": DIGEST})
    for offset, size in (
        (0, 0),
        (0, 10),
        (2040, 0),
        (2040, 100),
        (2048, 0),
        (3000, 0),
        (-1, 0),
        (0, -1),
        (5, 1),
    ):
        but = "containerd leaves the offset out" if offset else ""
        yield Ask("Content.Read", {"digest": DIGEST, "offset": offset, "size": size}, but=but)
    for text in (
        f"digest=={DIGEST}",
        "labels.a==b",
        "labels.empty",
        "labels.none",
        "nope==1",
        *FILTER_ERRORS,
    ):
        wanted = {"filters": [text, f"digest=={OTHER}"]}
        yield Ask("Content.List", wanted, was="1.x forgets when a blob was updated")
    for paths, given in (
        *((["labels.n"], {"n": "1"}), (["labels"], {"m": "2"}), (["labels.m"], {}), ([], {"z": "3"})),
        *((["digest"], {}), (["bogus"], {}), (["labels.a", "bogus"], {"a": "1"}), (["size"], {})),
        (["labels"], {"k": "v" * 4096}),
    ):
        info = {"digest": DIGEST, "labels": given}
        big = LABEL_WORDS if "k" in given else ""
        yield Ask("Content.Update", {"info": info, "update_mask": {"paths": paths}}, was=big)
        yield Ask("Content.Info", {"digest": DIGEST})
    yield Ask("Content.Update", {"info": {"digest": OTHER, "labels": {"a": "b"}}})
    yield from sharing_calls()
    yield Ask("Content.Delete", {"digest": DIGEST})
    yield Ask("Content.Delete", {"digest": DIGEST})
    yield Ask("Content.Info", {"digest": DIGEST})


def sharing_calls() -> Iterator[Ask]:
    """A blob of one namespace in another: by writing it again, by naming it, by the label that shares it."""
    there = "contract-other"
    yield Ask("Content.Info", {"digest": DIGEST}, namespace=there)
    yield Ask("Content.Read", {"digest": DIGEST}, namespace=there)
    yield Ask("Content.Delete", {"digest": DIGEST}, namespace=there)
    stat = {"action": STAT, "ref": "x", "expected": DIGEST, "total": len(DATA)}
    yield write(stat, namespace=there)
    yield Ask("Content.Status", {"ref": "x"}, namespace=there, but="the name instead of a path")
    yield write(
        stat, {"action": COMMIT, "offset": len(DATA), "total": len(DATA), "expected": DIGEST}, namespace=there
    )
    yield Ask("Content.Info", {"digest": DIGEST}, namespace=there)
    yield Ask("Content.Delete", {"digest": DIGEST}, namespace=there)
    share = {"name": "contract", "labels": {"containerd.io/namespace.shareable": "true"}}
    yield Ask("Namespaces.Update", {"namespace": share, "update_mask": {"paths": ["labels"]}})
    yield Ask("Content.Info", {"digest": DIGEST}, namespace=there)
    yield Ask("Content.ListStatuses", namespace=there)
    yield Ask("Content.List", namespace=there)


def diff_calls() -> Iterator[Ask]:
    nothing = {"media_type": "application/vnd.oci.image.layer.v1.tar", "digest": OTHER, "size": 5}
    yield Ask("Diff.Apply", {"diff": nothing, "mounts": []}, but="containerd says that it wanted a reader")
    nonsense = {**nothing, "media_type": "application/nonsense"}
    yield Ask("Diff.Apply", {"diff": nonsense, "mounts": []}, but="the type is looked at first")
    yield Ask("Diff.Diff", {"media_type": "application/nonsense", "ref": "d"})
    folder = {"type": "bind", "source": "{rootfs}", "options": ["rbind", "ro"]}
    media = "application/vnd.oci.image.layer.v1.tar+nonsense"
    yield Ask("Diff.Diff", {"left": [folder], "right": [folder], "media_type": media, "ref": "d"})
    media = "application/vnd.oci.image.layer.v1.tar"
    yield Ask("Diff.Diff", {"left": [folder], "right": [folder], "media_type": media, "ref": "d"})
