"""Stands in for systemd's manager on a bus of its own, and says so: as much of D-Bus as a unit's life takes.

Little-endian machines only. The unit is a folder in the hierarchies that systemd manages on a v1 host.
"""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from containerd_hybrid.testing.waiting import GIVE_UP_SECONDS

NAME = "fake systemd, for tests"
CGROUPS = Path("/sys/fs/cgroup")
# The last is the only one where v2 is.
HIERARCHIES = ("systemd", "memory", "pids", "")
CALL, ANSWER, ERROR, SIGNAL = 1, 2, 3, 4


class Reader:
    """Values of D-Bus by their signature."""

    def __init__(self, data: bytes, at: int = 0) -> None:
        self.data, self.at = data, at

    def number(self, code: str, size: int) -> int:
        self.at = -(-self.at // size) * size
        (value,) = struct.unpack_from("<" + code, self.data, self.at)
        self.at += size
        return int(value)

    def text(self, length: int) -> str:
        value = self.data[self.at : self.at + length].decode()
        self.at += length + 1
        return value

    def values(self, signature: str) -> Iterator[Any]:
        while signature:
            one, signature = split(signature)
            yield self.value(one)

    def value(self, kind: str) -> Any:
        match kind[0]:
            case "y":
                return self.number("B", 1)
            case "b" | "u":
                return self.number("I", 4)
            case "t":
                return self.number("Q", 8)
            case "s" | "o":
                return self.text(self.number("I", 4))
            case "g":
                return self.text(self.number("B", 1))
            case "v":
                return self.value(self.text(self.number("B", 1)))
            case "(":
                self.at = -(-self.at // 8) * 8
                return tuple(self.values(kind[1:-1]))
            case "a":
                length = self.number("I", 4)
                if kind[1] in "(t":
                    self.at = -(-self.at // 8) * 8
                end, found = self.at + length, []
                while self.at < end:
                    found.append(self.value(kind[1:]))
                return found
        raise ValueError(f"{NAME}: a value of type {kind}")


def split(signature: str) -> tuple[str, str]:
    """The first complete type and the rest."""
    if signature[0] == "a":
        one, rest = split(signature[1:])
        return "a" + one, rest
    depth = 0
    for index, character in enumerate(signature):
        depth += (character == "(") - (character == ")")
        if depth == 0:
            return signature[: index + 1], signature[index + 1 :]
    raise ValueError(signature)


def text(value: str) -> bytes:
    return struct.pack("<I", len(value)) + value.encode() + b"\0"


def pad(data: bytes, to: int) -> bytes:
    return data + b"\0" * (-len(data) % to)


def message(kind: int, serial: int, fields: list[tuple[int, str, bytes]], body: bytes = b"") -> bytes:
    array = b""
    for number, code, value in fields:
        array = pad(array, 8) + bytes([number, 1]) + code.encode() + b"\0" + value
    head = struct.pack("<cBBBIII", b"l", kind, 0, 1, len(body), serial, len(array))
    return pad(head + array, 8) + body


class FakeSystemd:
    """``calls`` are the manager's methods with their arguments, in order."""

    def __init__(self, path: Path) -> None:
        self.calls: list[tuple[str, list[Any]]] = []
        self.result = "done"
        self._units: set[str] = set()
        self._serial = 0
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join(GIVE_UP_SECONDS)
        self._listener.close()

    def named(self, member: str) -> list[list[Any]]:
        return [arguments for name, arguments in self.calls if name == member]

    def _serve(self) -> None:
        while True:
            try:
                peer, _ = self._listener.accept()
            except OSError:
                return
            with peer, peer.makefile("rb") as stream:
                if not stream.readline().startswith(b"\0AUTH EXTERNAL 30\r\n"):
                    peer.sendall(b"REJECTED EXTERNAL\r\n")
                    continue
                peer.sendall(b"OK 0123456789abcdef\r\n")
                assert stream.readline() == b"BEGIN\r\n"
                while head := stream.read(16):
                    length, serial, fields = struct.unpack_from("<III", head, 4)
                    whole = -(-(16 + fields) // 8) * 8
                    header = head + stream.read(whole - 16)
                    self._hear(peer, serial, Reader(header, 12), stream.read(length))

    def _hear(self, peer: socket.socket, serial: int, header: Reader, body: bytes) -> None:
        fields = dict(header.value("a(yv)"))
        member, signature = fields[3], fields.get(8, "")
        arguments = list(Reader(body).values(signature))
        self.calls.append((member, arguments))
        job = ""
        if member == "StartTransientUnit":
            if arguments[0] in self._units:
                self._refuse(peer, serial, "UnitExists", f"Unit {arguments[0]} already exists.")
                return
            job = self._start(arguments)
        elif member == "StopUnit":
            if arguments[0] not in self._units:
                self._refuse(peer, serial, "NoSuchUnit", f"Unit {arguments[0]} not loaded.")
                return
            self._units.remove(arguments[0])
            job = "/org/freedesktop/systemd1/job/2"
        reply = [(5, "u", struct.pack("<I", serial))]
        if job:
            # The signal may come first.
            self._say_removed(peer, job, arguments[0])
            reply.append((8, "g", b"\x01o\0"))
        peer.sendall(message(ANSWER, self._next(), reply, text(job) if job else b""))

    def _start(self, arguments: list[Any]) -> str:
        unit, mode, properties, others = arguments
        assert (mode, others) == ("replace", [])
        found = dict(properties)
        if self.result == "done":
            self._units.add(unit)
            for name in HIERARCHIES:
                folder = CGROUPS / name / found["Slice"] / unit
                if (CGROUPS / name / "cgroup.procs").exists():
                    folder.mkdir(parents=True)
                    for pid in found["PIDs"]:
                        (folder / "cgroup.procs").write_text(str(pid))
        return "/org/freedesktop/systemd1/job/1"

    def _refuse(self, peer: socket.socket, serial: int, name: str, words: str) -> None:
        error = text(f"org.freedesktop.systemd1.{name}")
        fields = [(4, "s", error), (5, "u", struct.pack("<I", serial)), (8, "g", b"\x01s\0")]
        peer.sendall(message(ERROR, self._next(), fields, text(f"{words} ({NAME})")))

    def _say_removed(self, peer: socket.socket, job: str, unit: str) -> None:
        body = struct.pack("<I", 1)
        for value in (job, unit, self.result):
            body = pad(body, 4) + text(value)
        fields = [
            (1, "o", text("/org/freedesktop/systemd1")),
            (2, "s", text("org.freedesktop.systemd1.Manager")),
            (3, "s", text("JobRemoved")),
            (8, "g", b"\x04uoss\0"),
        ]
        peer.sendall(message(SIGNAL, self._next(), fields, body))

    def _next(self) -> int:
        self._serial += 1
        return self._serial
