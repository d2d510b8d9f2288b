"""Tasks: every call in every state of a container and of a process in it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from tests.contract.wire.asking import Ask, Values

SPEC = "types.containerd.io/opencontainers/runtime-spec/1/Spec"
PROCESS = "types.containerd.io/opencontainers/runtime-spec/1/Process"
RESOURCES = "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources"
RUNTIME = r"(OCI runtime|failed to (create|start) shim|unknown error after kill)"
CODE = "FAILED_PRECONDITION instead of UNKNOWN"


def process(*arguments: str) -> Values:
    return {
        "user": {"uid": 0, "gid": 0},
        "args": list(arguments),
        "env": ["PATH=/bin"],
        "cwd": "/",
        "noNewPrivileges": True,
    }


def spec(cgroup: str) -> Values:
    """A container whose only process waits to be killed."""
    return {
        "ociVersion": "1.0.2",
        "process": process("sleep", "1000"),
        "root": {"path": "rootfs"},
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]},
        ],
        "linux": {
            "cgroupsPath": cgroup,
            "namespaces": [{"type": name} for name in ("pid", "ipc", "uts", "mount", "network")],
        },
    }


def every_call(id: str, exec_id: str = "") -> Iterator[Ask]:
    """What can be asked of a task without changing one that runs."""
    yield Ask("Tasks.Get", {"container_id": id, "exec_id": exec_id})
    yield Ask("Tasks.ListPids", {"container_id": id}, roughly=RUNTIME)
    yield Ask(
        "Tasks.ResizePty",
        {"container_id": id, "exec_id": exec_id, "width": 80, "height": 24},
        roughly=RUNTIME,
    )
    yield Ask("Tasks.CloseIO", {"container_id": id, "exec_id": exec_id, "stdin": True})


def task_calls() -> Iterator[Ask]:
    c = {"container_id": "c"}
    mount = {"type": "bind", "source": "{rootfs}", "options": ["rbind", "ro"]}
    create: Values = {"container_id": "c", "rootfs": [mount]}

    def exec_(id: str, *arguments: str, **more: Any) -> Ask:
        document = json.dumps(process(*arguments)).encode()
        return Ask(
            "Tasks.Exec",
            {"container_id": "c", "exec_id": id, "spec": {"type_url": PROCESS, "value": document}, **more},
            roughly=RUNTIME,
        )

    yield Ask("Tasks.List")
    yield Ask("Tasks.Metrics")
    yield from absent_calls()
    yield Ask("Tasks.Create", create)
    yield Ask(
        "Containers.Create",
        {
            "container": {
                "id": "c",
                "runtime": {"name": "{runtime}"},
                "spec": {"type_url": SPEC, "value": "{spec}"},
            }
        },
    )
    yield from absent_calls()
    yield Ask("Tasks.Create", {**create, "container_id": ""})
    yield Ask(
        "Tasks.Create",
        {**create, "checkpoint": {"media_type": "x", "digest": "sha256:" + "0" * 64, "size": 1}},
        but="not offered",
    )
    # created
    yield Ask("Tasks.Create", create)
    yield Ask("Tasks.Create", create)
    yield from every_call("c")
    yield Ask("Tasks.List")
    yield Ask("Tasks.Pause", c, roughly=RUNTIME)
    yield Ask("Tasks.Resume", c, roughly=RUNTIME)
    yield Ask("Tasks.Delete", c)
    yield Ask("Tasks.Create", create)
    # running
    yield Ask("Tasks.Start", c)
    yield Ask("Tasks.Start", c, roughly=RUNTIME)
    yield from every_call("c")
    yield Ask("Tasks.Delete", c, but=CODE)
    yield Ask("Tasks.Resume", c, roughly=RUNTIME)
    yield Ask("Tasks.Kill", {**c, "signal": 0})
    yield Ask("Tasks.Kill", {**c, "signal": 999}, roughly=RUNTIME)
    # Without resources containerd's own shim dies of it.
    resources = {"type_url": RESOURCES, "value": b'{"cpu": {"shares": 512}}'}
    yield Ask("Tasks.Update", {**c, "resources": resources}, roughly=RUNTIME)
    yield Ask("Tasks.Start", {**c, "exec_id": "none"})
    yield Ask("Tasks.Kill", {**c, "exec_id": "none", "signal": 9})
    yield Ask("Tasks.Wait", {**c, "exec_id": "none"})
    yield Ask("Tasks.DeleteProcess", {**c, "exec_id": "none"})
    yield Ask("Tasks.DeleteProcess", {**c, "exec_id": ""}, but="says what is missing")
    yield from every_call("c", "none")
    # processes in it
    yield exec_("", "true")
    yield exec_("a b", "true")
    yield exec_("x" * 77, "true")
    yield exec_("e", "sh", "-c", "exit 4")
    yield exec_("e", "true")
    yield from every_call("c", "e")
    yield Ask("Tasks.Kill", {**c, "exec_id": "e", "signal": 9}, roughly=RUNTIME)
    yield Ask("Tasks.Start", {**c, "exec_id": "e"})
    yield Ask("Tasks.Wait", {**c, "exec_id": "e"})
    yield from every_call("c", "e")
    yield Ask("Tasks.Kill", {**c, "exec_id": "e", "signal": 9})
    yield Ask("Tasks.Start", {**c, "exec_id": "e"}, roughly=RUNTIME)
    yield Ask("Tasks.DeleteProcess", {**c, "exec_id": "e"})
    yield Ask("Tasks.DeleteProcess", {**c, "exec_id": "e"})
    yield exec_("n", "/no/such/program")
    yield Ask("Tasks.Start", {**c, "exec_id": "n"}, roughly=RUNTIME)
    yield Ask("Tasks.DeleteProcess", {**c, "exec_id": "n"}, roughly=RUNTIME)
    yield exec_("r", "sleep", "1000")
    yield Ask("Tasks.Start", {**c, "exec_id": "r"})
    yield from every_call("c", "r")
    yield Ask("Tasks.DeleteProcess", {**c, "exec_id": "r"})
    yield Ask("Tasks.Kill", {**c, "exec_id": "r", "signal": 9})
    yield Ask("Tasks.Wait", {**c, "exec_id": "r"})
    yield Ask("Tasks.DeleteProcess", {**c, "exec_id": "r"})
    # paused
    yield Ask("Tasks.Pause", c)
    yield Ask("Tasks.Pause", c, roughly=RUNTIME)
    yield from every_call("c")
    yield Ask("Tasks.Start", c, roughly=RUNTIME)
    yield Ask("Tasks.Delete", c, but=CODE)
    yield exec_("p", "true")
    yield Ask("Tasks.Start", {**c, "exec_id": "p"}, roughly=RUNTIME)
    yield Ask("Tasks.DeleteProcess", {**c, "exec_id": "p"}, roughly=RUNTIME)
    yield Ask("Tasks.List", {"filter": "id==c"})
    yield Ask("Tasks.Metrics", {"filters": ["id==none"]})
    yield Ask("Tasks.Metrics", {"filters": ["id=="]}, but="INVALID_ARGUMENT instead of UNKNOWN")
    yield Ask("Tasks.Resume", c)
    yield Ask("Tasks.Resume", c, roughly=RUNTIME)
    # stopped
    yield Ask("Tasks.Kill", {**c, "signal": 9, "all": True})
    yield Ask("Tasks.Wait", c)
    yield Ask("Tasks.Wait", c)
    yield from every_call("c")
    yield Ask("Tasks.Pause", c, roughly=RUNTIME)
    yield Ask("Tasks.Resume", c, roughly=RUNTIME)
    yield Ask("Tasks.Start", c, roughly=RUNTIME)
    yield Ask("Tasks.Kill", {**c, "signal": 9}, roughly=RUNTIME)
    yield exec_("s", "true")
    yield Ask("Tasks.Start", {**c, "exec_id": "s"}, roughly=RUNTIME)
    yield Ask("Tasks.DeleteProcess", {**c, "exec_id": "s"}, roughly=RUNTIME)
    yield Ask("Tasks.Update", {**c, "resources": resources}, roughly=RUNTIME)
    yield Ask("Tasks.Delete", c)
    # deleted
    yield from absent_calls()
    yield Ask("Containers.Delete", {"id": "c"})
    yield from broken_calls()


def absent_calls() -> Iterator[Ask]:
    """Of a task that is not there."""
    c = {"container_id": "c"}
    yield from every_call("c")
    yield from every_call("c", "e")
    for method in ("Start", "Delete", "Kill", "Pause", "Resume", "Wait", "Update", "Checkpoint"):
        yield Ask(f"Tasks.{method}", c)
    for method in ("DeleteProcess", "Exec"):
        yield Ask(f"Tasks.{method}", {**c, "exec_id": "e"})


def broken_calls() -> Iterator[Ask]:
    """Containers that cannot become tasks."""
    good = {"name": "{runtime}"}
    for number, (runtime, value) in enumerate(
        (
            *(({"name": "io.containerd.none.v1"}, "{spec}"), ({"name": "nonsense"}, "{spec}")),
            *(({"name": "/no/such/shim"}, "{spec}"), (good, b"nonsense"), (good, b"{}")),
        )
    ):
        name = f"broken{number}"
        made = {"id": name, "runtime": runtime, "spec": {"type_url": SPEC, "value": value}}
        yield Ask("Containers.Create", {"container": made})
        yield Ask("Tasks.Create", {"container_id": name}, but="containerd has no codes for these")
        yield Ask("Tasks.Get", {"container_id": name})
        yield Ask("Containers.Delete", {"id": name})
