"""Stands in for criu where it does not work, and says so: speaks its RPC and saves nothing.

Called as ``criu swrk FD``. Each request is written as a line of JSON to ``requests`` beside this file: the
numbers of the fields (images/rpc.proto) with lists of their values. A dump ends the process it is of, unless
that is to run on; a restore starts ``sleep``. ``fail`` beside this file is a text to fail with.
"""

from __future__ import annotations

import ctypes
import json
import os
import socket
import sys
import time
from pathlib import Path
from typing import Any

NAME = "fake criu, for tests"
DUMP, RESTORE, PRE_DUMP, NOTIFY, VERSION = 1, 2, 4, 6, 10
MESSAGES = {2, 11, 23, 25, 27}
SYS_CLONE, CLONE_PARENT, SIGCHLD = 56, 0x8000, 17


def read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        value |= (data[at] & 0x7F) << shift
        shift += 7
        at += 1
        if not data[at - 1] & 0x80:
            return value, at


def decode(data: bytes, depth: int = 0) -> dict[str, list[Any]]:
    fields: dict[str, list[Any]] = {}
    at = 0
    while at < len(data):
        key, at = read_varint(data, at)
        value: Any
        value, at = read_varint(data, at)
        if key & 7 == 2:
            content, at = data[at : at + value], at + value
            nested = (depth == 0 and key >> 3 == 2) or (depth == 1 and key >> 3 in MESSAGES)
            value = decode(content, depth + 1) if nested else content.decode()
        fields.setdefault(str(key >> 3), []).append(value)
    return fields


def number(field: int, value: int) -> bytes:
    return varint(field << 3) + varint(value)


def content(field: int, data: bytes) -> bytes:
    return varint(field << 3 | 2) + varint(len(data)) + data


def varint(value: int) -> bytes:
    out = b""
    while value >= 0x80:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


def notify(peer: socket.socket, script: str, pid: int, fd: int | None = None) -> None:
    message = number(1, NOTIFY) + number(2, 1)
    message += content(5, content(1, script.encode()) + number(2, pid))
    if fd is None:
        peer.send(message)
    else:
        socket.send_fds(peer, [message], [fd])
    answer = decode(peer.recv(4096))
    if answer.get("1") != [NOTIFY] or answer.get("3") != [1]:
        sys.exit(f"{NAME}: a notice was answered with {answer}")


def restore(peer: socket.socket, options: dict[str, list[Any]]) -> int:
    libc = ctypes.CDLL(None)
    # Closed when the child executes its program.
    reading, writing = os.pipe()
    # As a sibling: the child of whoever called this.
    pid = libc.syscall(SYS_CLONE, CLONE_PARENT | SIGCHLD, 0, 0, 0, 0)
    if pid == 0:
        for fd in range(3, 100):
            try:
                os.set_inheritable(fd, False)
            except OSError:
                continue
        if any(stream["2"] == [1] for stream in options.get("27", [])):
            os.write(1, b"restored\n")
        os.execv("/bin/sleep", ["sleep", "1000"])
    os.close(writing)
    os.read(reading, 1)
    notify(peer, "setup-namespaces", pid)
    if options.get("50"):
        master, slave = os.openpty()
        os.write(slave, f"{NAME}\n".encode())
        notify(peer, "orphan-pts-master", pid, master)
    notify(peer, "post-restore", pid)
    return int(pid)


def main() -> None:
    folder = Path(__file__).parent
    peer = socket.socket(fileno=int(sys.argv[2]))
    request = decode(peer.recv(1 << 20))
    kind = request["1"][0]
    options = request.get("2", [{}])[0]
    if kind == VERSION:
        version = int((folder / "version").read_text()) if (folder / "version").exists() else 3
        details = number(1, version) + number(2, 17) + content(6, NAME.encode())
        peer.send(number(1, VERSION) + number(2, 1) + content(10, details))
        return
    mounts = Path(f"/proc/{os.getpid()}/mountinfo").read_text()
    root = options.get("13", [""])[0]
    request["root is a mount"] = [f" {root} " in mounts]
    request["cgroups"] = Path("/proc/self/cgroup").read_text().splitlines()
    with (folder / "requests").open("a") as out:
        out.write(json.dumps(request) + "\n")
    log = os.open(options["10"][0], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600, dir_fd=options["17"][0])
    os.write(log, f"{NAME}: request {kind}\n".encode())
    response = number(1, kind)
    failure = folder / "fail"
    if failure.exists():
        os.write(log, f"Error ({NAME}): {failure.read_text()}\n".encode())
        peer.send(response + number(2, 0) + content(9, failure.read_text().encode()))
        return
    if kind == RESTORE:
        pid = restore(peer, options)
        response += number(2, 1) + content(4, number(1, pid))
    else:
        image = os.open("inventory.img", os.O_WRONLY | os.O_CREAT, 0o600, dir_fd=options["1"][0])
        os.write(image, NAME.encode())
        response += number(2, 1)
        if kind == DUMP and not options.get("3"):
            process = os.pidfd_open(options["2"][0])
            os.kill(options["2"][0], 9)
            # Until it is gone: whoever looks next finds no process of the container.
            while b"\nState:\tZ" not in status(options["2"][0]):
                time.sleep(0.01)
            os.close(process)
    peer.send(response)


def status(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/status").read_bytes()
    except OSError:
        return b"\nState:\tZ"


if __name__ == "__main__":
    main()
