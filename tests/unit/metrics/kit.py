"""What the tests of metrics share: reading the text format, and an HTTP client that sends what it is told."""

from __future__ import annotations

import asyncio
import re
import socket

from containerd_hybrid.metrics.http import HttpServer

_LINE = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? (\S+)")
_LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\["\\n])*)"(?:,|$)')


def parsed(text: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Samples by name and labels; fails on what is not the format, and on a sample that is there twice."""
    assert text.endswith("\n")
    samples: dict[tuple[str, frozenset[tuple[str, str]]], float] = {}
    for line in text.splitlines():
        if line.startswith("# "):
            continue
        match = _LINE.fullmatch(line)
        assert match, line
        name, labels, value = match.groups()
        found = _LABEL.findall(labels or "")
        assert "".join(f'{key}="{text}",' for key, text in found).rstrip(",") == (labels or ""), line
        key = (name, frozenset(found))
        assert key not in samples, line
        samples[key] = float(value)
    return samples


def listener() -> socket.socket:
    return socket.create_server(("127.0.0.1", 0))


async def exchange(address: tuple[str, int], request: bytes, *, end: bool = False) -> bytes:
    """Send and read until the server closes; with ``end`` nothing more is to come from us."""
    reader, writer = await asyncio.open_connection(*address)
    try:
        writer.write(request)
        if end:
            writer.write_eof()
        return await reader.read()
    finally:
        writer.close()


async def serving(server: HttpServer) -> tuple[str, int]:
    own = listener()
    address: tuple[str, int] = own.getsockname()
    await server.serve(own)
    return address
