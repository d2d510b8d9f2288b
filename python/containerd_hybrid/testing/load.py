"""A client that costs next to nothing, so that a rate of calls is the server's and not its own.

It sends frames that were made beforehand (HTTP/2 with prior knowledge, RFC 9113; no header table) and
looks at nothing but the frames' heads and the status in the trailers.
"""

from __future__ import annotations

import select
import socket
import struct
from collections.abc import Iterable, Iterator
from itertools import repeat

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _PING, _GOAWAY, _WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
_END_STREAM, _ACK, _END_HEADERS = 1, 1, 4
_WINDOW = (1 << 31) - 1
_INITIAL = 65_535
_FRAME = 16_384


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def _field(name: str, value: str) -> bytes:
    """A literal that is not indexed (RFC 7541, 6.2.2); texts of less than 127 bytes."""
    return b"\0" + b"".join(bytes([len(text)]) + text.encode() for text in (name, value))


class Load:
    """One connection to ``address``, a Unix socket, for calls of one method that ends with its request.

    ``path`` is ``/service/Method``; ``metadata`` goes with each call.
    """

    def __init__(self, address: str, path: str, **metadata: str) -> None:
        headers = {
            ":method": "POST",
            ":scheme": "http",
            ":path": path,
            ":authority": "localhost",
            "content-type": "application/grpc",
            "te": "trailers",
        }
        headers |= {f"containerd-{name}": value for name, value in metadata.items()}
        self._headers = b"".join(_field(name, value) for name, value in headers.items())
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(address)
        self._next = 1
        self._running = 0
        self._ended = 0
        self._input = bytearray()
        self._granted = _WINDOW
        settings = struct.pack(">HIHI", 4, _WINDOW, 5, 1 << 20)
        self._socket.sendall(
            _PREFACE
            + _frame(_SETTINGS, 0, 0, settings)
            + _frame(_WINDOW_UPDATE, 0, 0, struct.pack(">I", _WINDOW - _INITIAL))
        )

    def close(self) -> None:
        self._socket.close()

    def calls(self, count: int, at_once: int = 1, request: bytes = b"") -> int:
        """Make ``count`` calls with ``at_once`` under way at any time; the bytes of all answers.

        Raises:
            AssertionError: one failed, or the server closed the connection.
        """
        return self.send(repeat(request, count), at_once)

    def send(self, requests: Iterable[bytes], at_once: int = 1) -> int:
        """As :meth:`calls`, with a request for each."""
        left = iter(requests)
        self._socket.sendall(self._next_calls(left, at_once))
        received = 0
        while self._running:
            finished, size, answer = self._read()
            self._running -= finished
            received += size
            answer += self._next_calls(left, finished)
            if answer:
                self._socket.sendall(answer)
        return received

    def open(self, request: bytes = b"") -> None:
        """Begin a call that nobody waits for."""
        self._socket.sendall(self._call(request))

    def reset(self, stream: int) -> None:
        """Give a call up; the first has the number 1, the next 3."""
        self._socket.sendall(_frame(_RST_STREAM, 0, stream, struct.pack(">I", 8)))

    def answered(self) -> int:
        """How many calls have ended, as far as it is known by now."""
        while select.select([self._socket], [], [], 0)[0]:
            self._socket.sendall(self._read()[2])
        return self._ended

    def _next_calls(self, requests: Iterator[bytes], count: int) -> bytes:
        frames = []
        for _, request in zip(range(count), requests, strict=False):
            frames.append(self._call(request))
        self._running += len(frames)
        return b"".join(frames)

    def _call(self, request: bytes) -> bytes:
        stream = self._next
        self._next += 2
        message = struct.pack(">BI", 0, len(request)) + request
        assert len(message) <= _FRAME, "a request of one frame"
        return _frame(_HEADERS, _END_HEADERS, stream, self._headers) + _frame(
            _DATA, _END_STREAM, stream, message
        )

    def _read(self) -> tuple[int, int, bytes]:
        """Frames that came: how many calls ended, bytes of data, and what is to be answered."""
        data = self._socket.recv(1 << 20)
        assert data, "the server closed the connection"
        self._input += data
        finished, size, at = 0, 0, 0
        answer = b""
        while at + 9 <= len(self._input):
            length = int.from_bytes(self._input[at : at + 3], "big")
            if at + 9 + length > len(self._input):
                break
            kind, flags = self._input[at + 3], self._input[at + 4]
            payload = memoryview(self._input)[at + 9 : at + 9 + length]
            if kind == _DATA:
                size += length
            elif kind == _HEADERS and flags & _END_STREAM:
                # grpc-status is coded by each server in its own way; success has no grpc-message.
                assert length < 64, bytes(payload)
                finished += 1
            elif kind == _SETTINGS and not flags & _ACK:
                answer += _frame(_SETTINGS, _ACK, 0, b"")
            elif kind == _PING and not flags & _ACK:
                answer += _frame(_PING, _ACK, 0, bytes(payload))
            assert kind != _GOAWAY, bytes(payload)
            payload.release()
            at += 9 + length
        del self._input[:at]
        self._ended += finished
        self._granted -= size
        if self._granted < _WINDOW // 2:
            answer += _frame(_WINDOW_UPDATE, 0, 0, struct.pack(">I", _WINDOW - self._granted))
            self._granted = _WINDOW
        return finished, size, answer
