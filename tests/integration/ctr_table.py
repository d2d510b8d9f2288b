"""What ``ctr`` is asked on containerd and on our daemon: every sub-command, with the flags that matter.

A row is a command line, what is made equal in its output before it is compared, and marks: ``only`` says
which ctr has it, ``until`` repeats a command until its output has that text, ``but`` is the reason why an
answer of ours is another one on purpose (then both must at least succeed, or fail).

In a command line ``{busybox}``, ``{manifest}``, ``{config}``, ``{layer}``, ``{chain}`` and ``{tar}`` tell of
the image of these tests, ``{docker}`` and ``{multi}`` are archives, one of Docker's and one of several
platforms, ``{registry}`` is a registry without TLS, ``{tls}`` one with (``{hosts}`` knows its authority),
``{tmp}`` a folder of the daemon's own, ``{ns}`` the namespace and ``{id}`` a name that no other row has.
``archive FILE COMMAND`` is no command of ctr's: it lists the file that the command writes. Rows of one
script build upon one another; scripts do not.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Normaliser = Callable[[str], str]


@dataclass(frozen=True, slots=True)
class Row:
    """One command. ``only`` is the major version of ctr that has it, or 0; ``input`` goes to its stdin."""

    command: str
    normalise: Normaliser | None = None
    only: int = 0
    until: str = ""
    input: str = ""
    but: str = ""


# --- normalisers ----------------------------------------------------------------------------------------


def plain(text: str) -> str:
    """Times, durations and column widths."""
    text = re.sub(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?( ?(Z|[+-]\d\d:?\d\d|UTC))*", "TIME", text)
    text = re.sub(
        r"(less than a|about an?|\d+) (second|minute|hour)s?( ago)?", "AGO", text, flags=re.IGNORECASE
    )
    text = re.sub(r"\b\d+(\.\d+)?(ns|µs|ms|s)\b", "DURATION", text)
    text = re.sub(r"\d+(\.\d+)? [KMG]?i?B/s", "RATE", text)
    text = re.sub(r"containerd-mount\d+", "containerd-mount", text)
    # Words of 1.x that 2.x has otherwise.
    text = re.sub(r"label key and value( length \(\d+ bytes\))?", "label key and value", text)
    text = re.sub(r": unknown$", "", text, flags=re.MULTILINE)
    return re.sub(r"[ \t]+", " ", text)


def lines(text: str) -> str:
    """Lines whose order is not told."""
    return "\n".join(sorted(filter(None, plain(text).splitlines())))


def numbers(text: str) -> str:
    """Process ids, sizes of what was written: any number."""
    return re.sub(r"\d+(\.\d+)?", "N", plain(text))


def processes(text: str) -> str:
    """Lines with process ids, in any order."""
    return "\n".join(sorted(numbers(text).splitlines()))


def mounts(text: str) -> str:
    """Mounts whose options may have any order, on a command line or in JSON."""
    words = re.split(
        r'[\s,"]+', re.sub(r"(?<=/snapshots/)\d+", "N", plain(text)).replace("v1.overlayfs", "vN.overlayfs")
    )
    return "\n".join(sorted(words))


def nothing(text: str) -> str:
    """Only whether it succeeds is compared."""
    return ""


def first_line(text: str) -> str:
    return plain(text.partition("\n")[0])


def keys(text: str) -> str:
    """The names in a JSON document, at any depth."""

    def shape(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: shape(one) for key, one in value.items()}
        return [shape(one) for one in value[:1]] if isinstance(value, list) else type(value).__name__

    return json.dumps(shape(json.loads(text)), sort_keys=True) if text[:1] in ("{", "[") else plain(text)


def top_keys(text: str) -> str:
    """The names in a JSON object, not deeper."""
    return json.dumps(sorted(json.loads(text))) if text[:1] == "{" else plain(text)


def without_spec(text: str) -> str:
    """A container's record without its spec, which ctr makes."""
    record = json.loads(text) if text.strip() else {}
    record.pop("Spec", None)
    return plain(json.dumps(record, sort_keys=True, indent=1))


def version_numbers(text: str) -> str:
    return re.sub(r"(Version|Revision|Go version|UUID): .*", r"\1", plain(text))


PLUGINS = (
    *("content.v1 content", "snapshotter.v1 native", "snapshotter.v1 overlayfs", "differ.v1 walking"),
    *("grpc.v1 containers", "grpc.v1 content", "grpc.v1 diff", "grpc.v1 events", "grpc.v1 healthcheck"),
    *("grpc.v1 images", "grpc.v1 introspection", "grpc.v1 leases", "grpc.v1 namespaces", "grpc.v1 snapshots"),
    *("grpc.v1 tasks", "grpc.v1 version", "gc.v1 scheduler", "runtime.v2 task"),
)


def plugins(text: str) -> str:
    """The plug-ins that clients look for; which others there are is the daemon's own affair."""
    rows = plain(text).replace("io.containerd.", "").splitlines()
    return "\n".join(sorted(row.strip() for row in rows if row.startswith(PLUGINS)))


def without_views(text: str) -> str:
    """Views of ctr, which nothing holds: the collectors may have been there."""
    return "\n".join(row for row in lines(text).splitlines() if "see" not in row)


def without_requirements(text: str) -> str:
    return re.sub(r"Requires:.*?(?=Platforms:)", "", plain(text), flags=re.DOTALL)


def progress(text: str) -> str:
    """What was done in the end, of bars that are drawn anew for every moment; and what is told besides."""
    rows = {row.strip() for row in re.sub(r"\x1b\[\w+|\r", "\n", plain(text)).splitlines()}
    # ctr 2.x draws by a clock, and may end before it has drawn what was saved.
    told = re.compile(r"done$|^ctr:|^sha256|level=(?!.*context canceled)")
    return "\n".join(sorted(row for row in rows if told.search(row)))


def message_lines(text: str) -> str:
    """First lines of HTTP messages; which headers there are is the client's and the log's affair."""
    return "\n".join(row for row in plain(text).splitlines() if re.search(r'"(HEAD|GET) /|"HTTP/', row))


def comma_list(text: str) -> str:
    """Labels, which ctr writes in any order."""
    return ",".join(sorted(plain(text).strip().split(",")))


def runtime_error(text: str) -> str:
    """That it is the OCI runtime which refused; its words are its own."""
    return re.sub(r"(OCI runtime (create|exec) failed).*", r"\1", plain(text), flags=re.DOTALL)


# --- scripts --------------------------------------------------------------------------------------------

DAEMON = (
    Row("version", version_numbers, but="the version names ours too, so ctr tells that they differ"),
    Row("plugins ls", plugins),
    Row("plugins ls -q type==io.containerd.snapshotter.v1,id==overlayfs"),
    Row("plugins ls type==io.containerd.differ.v1,id==walking"),
    Row("plugins ls -d id==overlayfs", but="one more capability"),
    Row("plugins ls -d type==io.containerd.runtime.v2", without_requirements, only=2),
    Row("plugins ls nonsense==", but="the class once"),
    Row("plugins ls bogus==x"),
    Row("plugins inspect-runtime", top_keys, only=2),
    Row("plugins inspect-runtime --runtime io.containerd.none.v1", only=2),
    Row("info", keys, only=2),
    Row("deprecations list", nothing, only=2),
    Row("deprecations list --format json", keys, only=2),
    Row("oci spec", keys),
    Row("oci spec --platform linux/arm64", keys, only=2),
    Row("pprof --debug-socket {tmp}/none.sock goroutines"),
    Row("--timeout 1ns version"),
)

NAMESPACES = (
    Row("namespaces ls -q", nothing),
    Row("namespaces create {ns}-a k=v empty= two=b=c"),
    Row("namespaces create {ns}-a"),
    Row("namespaces create ''"),
    Row("namespaces create 'no spaces'"),
    Row("namespaces create -- -dash"),
    Row("namespaces create " + "n" * 77),
    Row("namespaces label {ns}-a k=w more=here"),
    Row("namespaces label {ns}-a two="),
    Row("namespaces label {ns}-none a=b"),
    Row("namespaces label {ns}-a big=" + "v" * 4096),
    Row("namespaces ls", lambda text: "\n".join(row for row in plain(text).splitlines() if "NS-a" in row)),
    Row("namespaces rm {ns}-none"),
    Row("-n {ns}-a images import --no-unpack {tar}", nothing),
    Row("namespaces rm {ns}-a"),
    Row("-n {ns}-a images rm --sync {busybox}"),
    Row("-n {ns}-a content ls -q"),
    Row("namespaces rm --cgroup {ns}-a"),
    Row("namespaces rm {ns}-a"),
)

CONTENT = (
    Row("content ls"),
    Row("content ingest one", input="some bytes"),
    Row("content ingest one", input="some bytes"),
    Row(
        "content ingest --expected-size 10 --expected-digest {bytes} two",
        input="some bytes",
    ),
    Row("content ingest --expected-size 11 three", input="some bytes"),
    Row("content ingest --expected-digest sha256:nonsense four", input="some bytes"),
    Row("content ingest ''", input="some bytes"),
    Row("content active"),
    Row("content active --root {tmp} one"),
    Row("content ls", lines),
    Row("content ls -q", lines),
    Row("content ls size==10", lines, but="the size can be asked for"),
    Row("content ls nope==1", lines),
    Row("content ls 'size=='", lines),
    Row("content get {bytes}"),
    Row("content get sha256:" + "0" * 64),
    Row("content get nonsense"),
    Row("content label {bytes} a=b c=", comma_list),
    Row("content label {bytes} a=x d=e", comma_list),
    Row("content label {bytes} a="),
    Row("content label sha256:" + "0" * 64 + " a=b"),
    Row("content label {bytes} k=" + "v" * 4096),
    Row("content ls labels.d==e", lines),
    Row("content edit --editor 'sed -i s/some/other/' {bytes}"),
    Row("content edit --editor 'sed -i s/some/other/' sha256:" + "0" * 64),
    Row("content edit --editor false {bytes}"),
    Row("content ls -q digest=={bytes}"),
    Row("content delete {bytes} sha256:" + "0" * 64),
    Row("content delete nonsense"),
    Row("content delete"),
    Row("content ls -q digest=={bytes}"),
    Row("content prune references --dry", lines),
    Row("images import --no-unpack {tar}", progress),
    Row("content label {layer} containerd.io/gc.root=now"),
    Row("content prune references", lines),
    Row("content prune references --async", nothing),
    Row("images rm --sync {busybox}"),
    Row("content ls -q", lines),
    Row("content rm {layer}"),
    Row("content ls -q", lines),
)

IMAGES = (
    Row("images ls"),
    Row("images import --no-unpack {tar}", progress),
    Row("images check"),
    Row("images check -q"),
    Row("images check --snapshotter native name=={busybox}"),
    Row("run --rm {busybox} x true", nothing),
    Row("images import --digests --base-name example.com/base {tar}", progress),
    Row("images import --digests --skip-digest-for-named --base-name example.com/skip {tar}", progress),
    Row("images import --index-name example.com/index:1 {tar}", progress),
    Row("images import --all-platforms {tar}", progress),
    Row("images import --platform linux/s390x {tar}", progress, but="says what is missing"),
    Row("images import --snapshotter nosuch {tar}", progress, but="says which there are"),
    Row("images import --local {tar}", progress, only=2),
    Row("images import --local --discard-unpacked-layers --label a=b {tar}", progress, only=2),
    Row("images import --label x=y --sync-fs {tar}", progress, only=2),
    Row("images import {tar}.gz", progress),
    Row("images import {tar}.zst", progress),
    Row("images import --no-unpack {docker}", progress),
    Row("images ls -q name~=docker", lines),
    Row("images rm --sync example.com/docker:1 docker.io/library/docker:2", lines),
    Row("images import --compress-blobs {docker}", progress),
    Row("run --rm example.com/docker:1 x true", nothing),
    Row("images check -q name~=docker", lines),
    Row("content ls labels.containerd.io/uncompressed", lambda text: str(len(text.splitlines()))),
    Row("images import --local --compress-blobs {docker}", progress, only=2),
    Row("images rm --sync example.com/docker:1 docker.io/library/docker:2", lines),
    Row("images import --platform linux/arm64 {multi}", progress),
    Row("archive {tmp}/arm.tar images export --platform linux/arm64 {tmp}/arm.tar example.com/multi:1"),
    Row("images import --all-platforms --no-unpack --base-name example.com/multi {multi}", progress),
    Row("images check name~=multi", lines),
    Row(
        "archive {tmp}/all.tar images export --all-platforms --skip-non-distributable {tmp}/all.tar"
        " example.com/multi:1"
    ),
    Row("images rm --sync example.com/multi:1"),
    Row("images import {tmp}/none.tar"),
    Row("images import {garbage}", progress, but="says what was to be read"),
    Row("images ls", lines),
    Row("images ls -q", lines),
    Row("images ls name~=example", lines),
    Row("images ls labels.a==b", lines),
    Row("images ls nope==b", lines),
    Row("images ls 'name=='", lines),
    Row("images check", lines),
    Row("images tag {busybox} example.com/tag:1 example.com/tag:2"),
    Row("images tag {busybox} example.com/tag:1"),
    Row("images tag --force {busybox} example.com/tag:1"),
    Row("images tag example.com/none:1 example.com/tag:3"),
    Row("images tag {busybox} 'not a reference'"),
    Row("images tag --local {busybox} example.com/tag:4", only=2),
    Row("images tag --skip-reference-check {busybox} loose", only=2),
    Row("images label example.com/tag:1 a=b c=d", comma_list),
    Row("images label --replace-all example.com/tag:1 e=f"),
    Row("images label example.com/none:1 e=f"),
    Row("images label example.com/tag:1 k=" + "v" * 4096),
    Row("images ls name==example.com/tag:1"),
    Row("images inspect {busybox}", lines, only=2),
    Row("images inspect --content {busybox}", lines, only=2),
    Row("images inspect example.com/none:1", only=2),
    Row("images usage {busybox}", only=2),
    Row("images usage example.com/none:1", only=2),
    Row("images export {tmp}/out.tar {busybox}", progress),
    Row("archive {tmp}/out.tar images export {tmp}/out.tar {busybox}"),
    Row("images export --skip-manifest-json {tmp}/out2.tar {busybox} example.com/tag:1", progress),
    Row(
        "archive {tmp}/out2.tar images export --skip-manifest-json {tmp}/out2.tar {busybox} example.com/tag:1"
    ),
    Row("images export --all-platforms --skip-non-distributable {tmp}/out3.tar {busybox}", progress),
    Row("images export --platform linux/s390x {tmp}/out4.tar {busybox}", progress),
    Row("images export --local {tmp}/out5.tar {busybox}", progress, only=2),
    Row("images export {tmp}/out6.tar example.com/none:1", progress),
    Row("images import --base-name example.com/again {tmp}/out.tar", progress),
    Row("images import {tmp}/out2.tar", progress),
    Row("images convert --uncompress --oci {busybox} example.com/plain:1"),
    Row("images convert --all-platforms {busybox} example.com/same:1"),
    Row("images convert --platform linux/s390x {busybox} example.com/none:2"),
    Row("images convert example.com/none:1 example.com/none:2"),
    Row("images ls", lines),
    Row("images mount {busybox} {tmp}/target"),
    Row("images mount --rw --label a=b {busybox} {tmp}/rw"),
    Row("images mount example.com/none:1 {tmp}/target"),
    Row("images mount --platform linux/s390x {busybox} {tmp}/none"),
    Row("images unmount {tmp}/rw"),
    Row("images unmount --rm {tmp}/target"),
    Row("images unmount --rm {tmp}/rw"),
    Row("images unmount {tmp}/none"),
    Row("snapshots ls", lines),
    Row("images prune", lines, only=2),
    Row("images prune --all", lines, only=2),
    Row("images import {tar}", nothing),
    Row("images rm example.com/none:1"),
    Row("images rm --sync {all_images}", lines),
    Row("images ls"),
    Row("snapshots ls"),
)

HOST = "says which host answered what"

REGISTRY = (
    Row("images import {tar}", nothing),
    Row("images push --plain-http {registry}/lib/busybox:1 {busybox}", progress),
    Row("images push --plain-http --platform linux/amd64 {registry}/lib/busybox:2 {busybox}", progress),
    Row("images push --plain-http --manifest {manifest} {registry}/lib/busybox:3", progress, only=1),
    Row("images push --plain-http --local --manifest {manifest} {registry}/lib/busybox:3", progress, only=2),
    Row(
        "images push --plain-http --max-concurrent-uploaded-layers 1 {registry}/lib/busybox:1 {busybox}",
        progress,
    ),
    Row("images push --plain-http --local {registry}/lib/busybox:4 {busybox}", progress, only=2),
    Row("images push --plain-http {registry}/lib/busybox:1 example.com/none:1", progress),
    Row("images push --plain-http --platform linux/s390x {registry}/lib/busybox:9 {busybox}", progress),
    Row("images rm --sync {busybox}"),
    Row("images pull --plain-http {registry}/lib/busybox:1", progress),
    Row("images pull --plain-http --label a=b {registry}/lib/busybox:2", progress),
    Row("images pull --plain-http --all-platforms {registry}/lib/busybox:3", progress, but=HOST),
    Row("images pull --plain-http --print-chainid {registry}/lib/busybox:1", progress),
    Row("images pull --plain-http --local --print-chainid {registry}/lib/busybox:1", progress, only=2),
    Row("images pull --plain-http --max-concurrent-downloads 1 {registry}/lib/busybox:3", progress),
    Row("images pull --plain-http --platform linux/s390x {registry}/lib/busybox:3", progress, but=HOST),
    Row("images pull --plain-http {registry}/lib/none:1", progress, but=HOST),
    Row("images pull --plain-http {registry}/lib/busybox:none", progress, but=HOST),
    Row("images pull --plain-http --http-dump {registry}/lib/busybox:1", message_lines, only=2),
    Row("images pull --plain-http --http-trace {registry}/lib/busybox:1", progress, only=2),
    Row("images pull --plain-http --skip-metadata {registry}/lib/busybox:1", progress, only=2),
    Row("images push --plain-http {registry}/lib/untagged {busybox}", progress),
    Row("images pull --plain-http {registry}/lib/untagged:latest", progress, but=HOST),
    Row("images pull --tlscacert {tmp}/none {registry}/lib/busybox:1", nothing),
    Row("images push --hosts-dir {hosts} {tls}/lib/busybox:1 {registry}/lib/busybox:1", progress),
    Row("images push --skip-verify {tls}/lib/busybox:2 {registry}/lib/busybox:1", progress),
    Row("images push {tls}/lib/busybox:3 {registry}/lib/busybox:1", nothing),
    Row("images pull --hosts-dir {hosts} --user user:password {tls}/lib/busybox:1", progress),
    Row("images pull -k {tls}/lib/busybox:2", progress),
    Row("images pull {tls}/lib/busybox:2", nothing),
    Row("images pull --hosts-dir {tmp}/nohosts --plain-http {registry}/lib/busybox:1", progress),
    Row("images ls", lines),
    Row("content fetch --plain-http {registry}/lib/busybox:3", progress),
    Row("content fetch --plain-http --all-metadata {registry}/lib/busybox:3", progress, only=1),
    Row("content fetch --plain-http --metadata-only {registry}/lib/busybox:3", progress),
    Row("content fetch --plain-http --platform linux/s390x {registry}/lib/busybox:3", progress),
    Row("content fetch --plain-http {registry}/lib/none:3", progress),
    Row("content fetch-object --plain-http {registry}/lib/busybox:1"),
    Row("content fetch-object --plain-http {registry}/lib/none:1"),
    Row("content fetch-blob --plain-http {registry}/lib/busybox:1 {config}", only=2),
    Row("content fetch-blob --plain-http {registry}/lib/busybox:1 sha256:" + "0" * 64, only=2),
    Row("content push-object --plain-http {registry}/lib/{ns}:1 {config} application/octet-stream"),
    Row("content push-object --plain-http {registry}/lib/{ns}:1 sha256:" + "0" * 64 + " a/b"),
    Row("images rm --sync {all_images}", lines),
    Row("images ls"),
)

SNAPSHOTS = (
    Row("images import {tar}", nothing),
    Row("snapshots ls"),
    Row("snapshots info {chain}"),
    Row("snapshots info none"),
    Row("snapshots usage {chain}", numbers),
    Row("snapshots usage -b {chain}", numbers),
    Row("snapshots usage", numbers),
    Row("snapshots usage none"),
    Row("snapshots prepare work {chain}"),
    Row("snapshots prepare work {chain}"),
    Row("snapshots prepare other none"),
    Row("snapshots prepare '' {chain}", but="says what is missing"),
    Row("snapshots prepare --target {tmp}/t target {chain}", mounts),
    Row("snapshots prepare --mounts mounted {chain}", mounts),
    Row("snapshots view see {chain}"),
    Row("snapshots view --target {tmp}/t see2 {chain}", mounts),
    Row("snapshots view --mounts see3 {chain}", mounts),
    Row("snapshots view see {chain}"),
    Row("snapshots mounts {tmp}/t work", mounts),
    Row("snapshots mounts {tmp}/t see", mounts),
    Row("snapshots mounts {tmp}/t none"),
    Row("snapshots mounts {tmp}/t {chain}", but="without the key of a database"),
    Row("snapshots mounts --temp {tmp}/t work", mounts, only=2),
    Row("snapshots label work a=b c=d", comma_list),
    Row("snapshots label work a=", comma_list),
    Row("snapshots label none a=b"),
    Row("snapshots label work k=" + "v" * 4096),
    Row("snapshots info work"),
    Row("snapshots info see"),
    Row("snapshots commit done work"),
    Row("snapshots commit done work"),
    Row("snapshots commit done2 none"),
    Row("snapshots commit done2 see", but="without the key of a database"),
    Row("snapshots commit {chain} target"),
    Row("snapshots info done"),
    Row("snapshots prepare above done"),
    Row("snapshots rm done"),
    Row("snapshots rm none"),
    Row("snapshots rm"),
    Row("snapshots ls", without_views),
    Row("snapshots tree", without_views),
    Row("snapshots diff above", nothing),
    Row("snapshots diff --keep --ref diff-1 --label l=m above done", nothing),
    Row("snapshots diff --media-type application/vnd.oci.image.layer.v1.tar above done", nothing),
    Row("snapshots diff --media-type application/nonsense above done"),
    Row("snapshots diff none"),
    Row("snapshots diff done {chain}", nothing),
    Row("snapshots unpack {manifest}"),
    Row("snapshots unpack sha256:" + "0" * 64),
    Row("snapshots unpack --snapshotter native {manifest}"),
    Row("snapshots --snapshotter native ls", lines),
    Row("snapshots --snapshotter native tree", lines),
    Row("snapshots --snapshotter none ls"),
    Row("snapshots --snapshotter none prepare x"),
    Row("snapshots rm above done see see2 see3 target mounted"),
    Row("snapshots ls"),
    Row("images rm --sync {busybox}"),
    Row("snapshots ls"),
    Row("snapshots --snapshotter native ls"),
)

CONTAINERS = (
    Row("images import {tar}", nothing),
    Row("containers ls"),
    Row("containers create {busybox} c1 true"),
    Row("containers create {busybox} c1 true"),
    Row("containers create {busybox} 'no spaces' true"),
    Row("containers create {busybox} ''"),
    Row("containers create example.com/none:1 c2"),
    Row("containers create --label a=b --label c= --snapshotter-label s=t {busybox} c2 true"),
    Row("containers create --snapshotter native {busybox} c3 true"),
    Row("containers create --snapshotter none {busybox} c4 true"),
    Row("containers create --runtime io.containerd.none.v1 {busybox} c4 true"),
    Row("containers create --runtime /no/such/shim {busybox} c5 true"),
    Row("containers create --config {tmp}/none.json c6"),
    Row("containers create --rootfs {tmp}/bundle c7 true"),
    Row(
        "containers create --annotation a=b --env A=B --cwd /tmp --mount type=bind,src=/tmp,dst=/x"
        " {busybox} c8"
    ),
    Row("containers create --label k=" + "v" * 4096 + " {busybox} c11 true"),
    Row("containers create --runc-binary /no/runc --runc-root {tmp}/rr {busybox} c9 true", only=2),
    Row("containers create --sandbox none {busybox} c10 true", only=2),
    Row("containers ls", lines),
    Row("containers ls -q", lines),
    Row("containers ls -q labels.a==b"),
    Row("containers ls -q id~=c[12]", lines),
    Row("containers ls -q runtime.name==io.containerd.none.v1"),
    Row("containers ls -q nope==b"),
    Row("containers ls 'id=='"),
    Row("containers info c1", without_spec),
    Row("containers info c2", without_spec),
    Row("containers info c3", without_spec),
    Row("containers info c8", without_spec),
    Row("containers info --spec c1", keys),
    Row("containers info none"),
    Row("containers info"),
    Row("containers label c1 a=b c=d", comma_list),
    Row("containers label c1 a=", comma_list),
    Row("containers label none a=b"),
    Row("containers label c1 k=" + "v" * 4096),
    Row("containers info c1", without_spec),
    Row("containers checkpoint c1 example.com/checkpoint:1"),
    Row("containers checkpoint --rw --image c1 example.com/checkpoint:2"),
    Row("containers checkpoint none example.com/checkpoint:3"),
    Row("containers restore r1 example.com/checkpoint:2"),
    Row("containers restore --rw r2 example.com/checkpoint:2"),
    Row("containers restore r3 example.com/none:1"),
    Row("images ls -q", lines),
    Row("containers ls", lines),
    Row("snapshots rm c2", nothing),
    Row("containers rm --keep-snapshot c1"),
    Row("containers rm c2"),
    Row("containers rm c3 c4 c5 c6 c7 c8 c9 c10 r1 r2", lines),
    Row("containers rm none"),
    Row("containers rm"),
    Row("images rm --sync {busybox} example.com/checkpoint:1 example.com/checkpoint:2", nothing),
    Row("content ls -q"),
    Row("snapshots ls"),
)

LOOP = "sleep 1000"

TASKS = (
    Row("images import {tar}", nothing),
    Row("tasks ls"),
    Row("tasks start none"),
    Row("tasks kill none"),
    Row("tasks delete none"),
    Row("tasks ps none"),
    Row("tasks metrics none"),
    Row("tasks pause none"),
    Row("tasks resume none"),
    Row("tasks exec --exec-id e none true"),
    Row("tasks attach none"),
    Row("tasks checkpoint none"),
    Row("containers create {busybox} c1 " + LOOP),
    Row("tasks kill c1"),
    Row("tasks delete c1"),
    Row("tasks ps c1"),
    Row("tasks exec --exec-id e c1 true"),
    Row("tasks start -d --pid-file {tmp}/pid c1"),
    Row("tasks start -d c1"),
    Row("tasks ls", numbers),
    Row("tasks ls -q"),
    Row("tasks ps c1", processes),
    Row("tasks metrics c1", nothing),
    Row("tasks metrics --format json c1", top_keys),
    Row("tasks metrics --format nonsense c1", nothing),
    Row("tasks exec --exec-id e1 c1 sh -c 'echo out; echo err >&2; exit 5'"),
    Row("tasks exec --exec-id e1 --cwd /tmp --user 1000 c1 sh -c 'pwd; id -u'"),
    Row("tasks exec --exec-id e1 --user nosuch c1 true"),
    Row("tasks exec --exec-id e1 c1 /no/such/program", runtime_error),
    Row("tasks exec --exec-id 'no spaces' c1 true"),
    Row("tasks exec -d --exec-id e2 c1 sleep 1000"),
    Row("tasks exec -d --exec-id e2 c1 sleep 1000"),
    Row("tasks exec -d --exec-id e3 --log-uri file://{tmp}/e3.log c1 sleep 1000"),
    Row("tasks ps c1", processes),
    Row("tasks delete --exec-id e2 c1"),
    Row("tasks delete --exec-id none c1"),
    Row("tasks kill --exec-id none c1"),
    Row("tasks kill --exec-id e2 --signal 9 c1"),
    Row("tasks delete --exec-id e2 c1", until=""),
    Row("tasks delete --force --exec-id e3 c1"),
    Row("tasks kill --signal nonsense c1"),
    Row("tasks delete c1"),
    Row("containers rm c1"),
    Row("tasks pause c1"),
    Row("tasks pause c1"),
    Row("tasks ls", numbers),
    Row("tasks exec --exec-id e4 c1 true"),
    Row("tasks ps c1", processes),
    Row("tasks delete c1"),
    Row("tasks resume c1"),
    Row("tasks resume c1"),
    Row("tasks ls", numbers),
    Row("tasks checkpoint --image-path {tmp}/cp c1", nothing),
    Row("tasks kill -s KILL c1"),
    Row("tasks ls", numbers, until="STOPPED"),
    Row("tasks kill -s KILL c1"),
    Row("tasks ps c1", processes),
    Row("tasks metrics c1", nothing),
    Row("tasks pause c1"),
    Row("tasks resume c1"),
    Row("tasks exec --exec-id e5 c1 true"),
    Row("tasks start -d c1"),
    Row("tasks delete c1"),
    Row("tasks delete c1"),
    Row("tasks start -d --null-io c1"),
    Row("tasks kill -a -s KILL c1"),
    Row("tasks ls", numbers, until="STOPPED"),
    Row("tasks delete c1"),
    Row("tasks start -d --log-uri file://{tmp}/c1.log c1"),
    Row("tasks delete --force c1"),
    Row("containers rm c1"),
    Row("images rm --sync {busybox}"),
    Row("content ls -q"),
)

CODES = "1.x has no codes for these"

RUN = (
    Row("images import {tar}", nothing),
    Row("run --rm {busybox} {id} echo hello"),
    Row("run --rm {busybox} {id} sh -c 'echo out; echo err >&2; exit 7'"),
    Row("run --rm {busybox} {id} /no/such/program", runtime_error),
    Row("run --rm {busybox}"),
    Row("run"),
    Row("run --rm example.com/none:1 {id} true"),
    Row("run --rm {busybox} 'no spaces' true"),
    Row("run --rm --null-io {busybox} {id} echo hello"),
    Row("run --rm --log-uri file://{tmp}/run.log {busybox} {id} echo logged"),
    Row("run --rm --log-uri nonsense://x {busybox} {id} echo logged"),
    Row("run --rm --env A=B --env C --cwd /tmp {busybox} {id} sh -c 'echo $A $C; pwd'"),
    Row("run --rm --env-file {envfile} {busybox} {id} sh -c 'echo $FROM_FILE'"),
    Row("run --rm --env-file {tmp}/none {busybox} {id} true"),
    Row("run --rm --label a=b --annotation c=d {busybox} {id} true"),
    Row("run --rm --mount type=bind,src={tmp},dst=/mnt,options=rbind:ro {busybox} {id} sh -c 'touch /mnt/x'"),
    Row("run --rm --mount type=nonsense,src=/none,dst=/mnt {busybox} {id} true", runtime_error),
    Row("run --rm --net-host {busybox} {id} sh -c 'readlink /proc/self/ns/net'"),
    Row("run --rm --privileged {busybox} {id} sh -c 'grep Cap /proc/self/status'"),
    Row("run --rm --privileged --privileged-without-host-devices {busybox} {id} ls /dev", only=2),
    Row("run --rm --read-only {busybox} {id} touch /x"),
    Row("run --rm --cap-add CAP_SYS_ADMIN --cap-drop CAP_CHOWN {busybox} {id} grep Cap /proc/self/status"),
    Row("run --rm --cap-add CAP_NONSENSE {busybox} {id} true"),
    Row("run --rm --allow-new-privs {busybox} {id} grep NoNewPrivs /proc/self/status"),
    Row("run --rm --seccomp {busybox} {id} grep Seccomp: /proc/self/status"),
    Row("run --rm --seccomp --seccomp-profile {tmp}/none {busybox} {id} true"),
    Row("run --rm --apparmor-profile nosuch {busybox} {id} true", nothing),
    Row("run --rm --memory-limit 33554432 --cpus 0.5 --cpu-shares 512 {busybox} {id} true"),
    Row("run --rm --cpu-quota 50000 --cpu-period 100000 {busybox} {id} true"),
    Row("run --rm --cpuset-cpus 0 --cpuset-mems 0 {busybox} {id} nproc", only=2),
    Row("run --rm --cpuset-cpus 4000 {busybox} {id} nproc", runtime_error, only=2),
    Row("run --rm --rlimit-nofile 64 {busybox} {id} sh -c 'ulimit -n'", only=2),
    Row("run --rm --hostname there {busybox} {id} hostname", only=2),
    Row("run --rm --user 1000:10 {busybox} {id} sh -c 'id -u; id -g'", only=2),
    Row("run --rm --user user {busybox} {id} sh -c 'id -u; id -g'", only=2),
    Row("run --rm --user nosuch {busybox} {id} true", only=2),
    Row("run --rm --device /dev/null {busybox} {id} true"),
    Row("run --rm --with-ns pid:/proc/1/ns/pid {busybox} {id} true", nothing),
    Row("run --rm --with-ns nonsense:/x {busybox} {id} true"),
    Row("run --rm --with-ns network:{tmp}/none {busybox} {id} true", runtime_error),
    Row("run --rm --pid-file {tmp}/run.pid {busybox} {id} true"),
    Row("run --rm --fifo-dir {tmp}/fifos {busybox} {id} echo by fifos"),
    Row("run --rm --cgroup /{ns}/mine {busybox} {id} grep -c mine /proc/self/cgroup", nothing),
    Row("run --rm --platform linux/s390x {busybox} {id} true"),
    Row("run --rm --runc-binary runc --runc-root {tmp}/runc {busybox} {id} echo runc"),
    Row("run --rm --runc-binary /no/runc {busybox} {id} true", runtime_error),
    Row("run --rm --runtime io.containerd.runc.v2 {busybox} {id} echo runtime"),
    Row("run --rm --runtime io.containerd.none.v1 {busybox} {id} true", but=CODES),
    Row("run --rm --runtime /no/such/shim {busybox} {id} true", but=CODES),
    Row("run --rm --runtime nonsense {busybox} {id} true", but=CODES),
    Row("run --rm --snapshotter native {busybox} {id} echo native"),
    Row("run --rm --snapshotter none {busybox} {id} true"),
    Row("run --rm --snapshotter-label a=b {busybox} {id} true"),
    Row("run --rm --no-pivot {busybox} {id} true"),
    Row("run --rm --rootfs-propagation rslave {busybox} {id} true"),
    Row("run --rm --rootfs-propagation nonsense {busybox} {id} true", runtime_error),
    Row("run --rm --rootfs {tmp}/bundle {id} true", runtime_error),
    Row("run --rm --config {tmp}/none.json {id}"),
    Row("run --rm --gpus 0 {busybox} {id} true", nothing),
    Row("run --rm --sandbox none {busybox} {id} true", only=2),
    Row("run --rm --dump-config {tmp}/dump.json {busybox} {id} true", only=2),
    Row("run --rm --sync-fs {busybox} {id} true", only=2),
    Row("run --detach --label kept=yes {busybox} d " + LOOP),
    Row("containers info d", without_spec),
    Row("run -d {busybox} d true"),
    Row("shim --id d state", nothing, only=1),
    Row("tasks delete -f d"),
    Row("containers rm d"),
    Row("images rm --sync {busybox}"),
    Row("content ls -q"),
)

LEASES = (
    Row("leases ls"),
    Row("leases create --id one a=b"),
    Row("leases create --id one"),
    Row("leases create --id two --expires 0s"),
    Row("leases create", lambda text: re.sub(r"[\w-]+", "ID", text)),
    Row("leases create --id bad k=" + "v" * 4096),
    Row("leases ls labels.a==b", plain),
    Row("leases ls -q id~=one"),
    Row("leases ls 'id=='"),
    Row("leases rm one two none"),
    Row("leases rm --sync none"),
    Row("leases ls -q id~=one"),
)

SANDBOXES = (
    Row("sandboxes ls", only=2),
    Row("sandboxes ls -f id==none", only=2),
    Row("sandboxes ls -f id==", only=2),
    Row("sandboxes info none", only=2),
    Row("sandboxes rm none", only=2, but="the name instead of buckets"),
    Row("sandboxes rm --force none", only=2, but="the name instead of buckets"),
    Row("sandboxes run --runtime io.containerd.none.v1 {pod} s1", only=2),
    Row("sandboxes run {tmp}/none.json s1", only=2),
    Row("sandboxes ls", only=2),
)

INSTALL = (
    Row("images import {installable}", progress),
    Row("install --path {tmp}/opt example.com/installable:1"),
    Row("install --path {tmp}/opt example.com/installable:1"),
    Row("install --path {tmp}/opt --replace --libs example.com/installable:1"),
    Row("install --path {tmp}/opt example.com/none:1"),
    Row("images rm --sync example.com/installable:1"),
)

SCRIPTS = {
    "daemon": DAEMON,
    "namespaces": NAMESPACES,
    "content": CONTENT,
    "images": IMAGES,
    "registry": REGISTRY,
    "snapshots": SNAPSHOTS,
    "containers": CONTAINERS,
    "tasks": TASKS,
    "run": RUN,
    "leases": LEASES,
    "sandboxes": SANDBOXES,
    "install": INSTALL,
}
