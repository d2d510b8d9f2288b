"""Verifiers that are the programs of a folder: ``io.containerd.image-verifier.v1.bindir``.

Each is run, in the order of their names, as ``PROGRAM -name NAME -digest DIGEST -stdin-media-type
application/vnd.oci.descriptor.v1+json`` with the descriptor as JSON on its standard input. Exit code 0 is a
yes; its standard output is the reason; its standard error goes to the log. All must say yes. A folder that
is missing or empty says yes to everything.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import selectors
import signal
import subprocess
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from containerd_hybrid.errors import CallCancelledError, UnknownError, error_for_os
from containerd_hybrid.model import Descriptor
from containerd_hybrid.model.manifest import descriptor_to_json
from containerd_hybrid.verification.api import Judgement

logger = logging.getLogger(__name__)

DEFAULT_FOLDER = "/opt/containerd/image-verifier/bin"
_MEDIA_TYPE = "application/vnd.oci.descriptor.v1+json"
# More of what a program says is read and thrown away.
_OUTPUT_BYTES = 1 << 15
_CHUNK = 1 << 14
_LOOK_AGAIN_SECONDS = 0.2


class BindirVerifier:
    """Implements :class:`containerd_hybrid.verification.api.ImageVerifier`.

    Of more than ``max_verifiers`` programs the rest is skipped, with a warning; negative: none is.
    ``timeout`` is seconds for each.
    """

    def __init__(self, folder: Path, *, max_verifiers: int = 10, timeout: float = 10.0) -> None:
        self._folder = folder
        self._max_verifiers = max_verifiers
        self._timeout = timeout

    async def verify(self, name: str, image: Descriptor) -> Judgement:
        """See :meth:`containerd_hybrid.verification.api.ImageVerifier.verify`."""
        stop = threading.Event()
        running = asyncio.ensure_future(asyncio.to_thread(self._verify, name, image, stop))
        try:
            return await asyncio.shield(running)
        except asyncio.CancelledError:
            stop.set()
            await asyncio.wait({running})
            raise

    def _verify(self, name: str, image: Descriptor, stop: threading.Event) -> Judgement:
        try:
            programs = sorted(os.listdir(self._folder))  # noqa: PTH208 (names are what is told)
        except FileNotFoundError:
            return Judgement(True, f"image verifier directory {self._folder} does not exist")
        except OSError as error:
            raise error_for_os(error, f"list the image verifiers in {self._folder}") from error
        if not programs:
            return Judgement(True, f"no image verifier binaries found in {self._folder}")
        if 0 <= self._max_verifiers < len(programs):
            logger.warning(
                "image verifiers are skipped: there are more than max_verifiers",
                extra={"folder": str(self._folder), "programs": len(programs), "max": self._max_verifiers},
            )
            programs = programs[: self._max_verifiers]
        reasons = []
        for program in programs:
            code, said = self._run(program, name, image, stop)
            if code:
                return Judgement(False, f"verifier {program} rejected image (exit code {code}): {said}")
            reasons.append(f"{program} => {said}")
        return Judgement(True, ", ".join(reasons))

    def _run(self, program: str, name: str, image: Descriptor, stop: threading.Event) -> tuple[int, str]:
        arguments = ["-name", name, "-digest", str(image.digest), "-stdin-media-type", _MEDIA_TYPE]
        try:
            process = subprocess.Popen(
                [str(self._folder / program), *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                bufsize=0,
                process_group=0,
            )
        except OSError as error:
            raise UnknownError(f"failed to call verifier {program}: {error}") from error
        until = time.monotonic() + self._timeout
        talk = _Talk(process, json.dumps(descriptor_to_json(image)).encode() + b"\n")
        try:
            finished = talk.run(until, stop)
            if finished:
                process.wait(max(until - time.monotonic(), 0))
        except subprocess.TimeoutExpired:
            finished = False
        finally:
            # Its children too; those that outlive it have nothing to say any more.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            talk.close()
        for line in talk.errors.decode(errors="replace").splitlines():
            logger.debug(line, extra={"image_verifier": program, "stream": "stderr"})
        if stop.is_set():
            raise CallCancelledError("the pull was cancelled")
        if not finished or process.returncode < 0:
            why = f"it took longer than {self._timeout:g}s" if not finished else "it was killed by a signal"
            raise UnknownError(f"failed to call verifier {program}: {why}")
        said = talk.output.decode(errors="replace").strip()
        return process.returncode, said + ("(stdout truncated)" if talk.truncated else "")


@dataclass(slots=True)
class _Stream:
    """Bytes of one standard stream, up to the limit."""

    kept: bytearray
    truncated: bool = False

    def take(self, data: bytes) -> None:
        room = _OUTPUT_BYTES - len(self.kept)
        self.kept += data[:room]
        self.truncated |= len(data) > room


class _Talk:
    """Writes what a program is told and reads what it says, without waiting for either alone."""

    def __init__(self, process: subprocess.Popen[bytes], told: bytes) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        self._stdin: IO[bytes] = process.stdin
        self._out: IO[bytes] = process.stdout
        self._err: IO[bytes] = process.stderr
        self._told = told
        self._streams = {self._out: _Stream(bytearray()), self._err: _Stream(bytearray())}
        self._selector = selectors.DefaultSelector()

    @property
    def output(self) -> bytes:
        return bytes(self._streams[self._out].kept)

    @property
    def errors(self) -> bytes:
        return bytes(self._streams[self._err].kept)

    @property
    def truncated(self) -> bool:
        return self._streams[self._out].truncated

    def run(self, until: float, stop: threading.Event) -> bool:
        """Until both outputs end; False when the time is over or it is to stop."""
        os.set_blocking(self._stdin.fileno(), False)
        self._selector.register(self._stdin, selectors.EVENT_WRITE)
        for stream in self._streams:
            self._selector.register(stream, selectors.EVENT_READ)
        while any(stream in self._selector.get_map() for stream in self._streams):
            left = until - time.monotonic()
            if left <= 0 or stop.is_set():
                return False
            for key, _ in self._selector.select(min(left, _LOOK_AGAIN_SECONDS)):
                if key.fileobj is self._stdin:
                    self._tell()
                else:
                    self._hear(key.fileobj)  # type: ignore[arg-type]
        return True

    def _tell(self) -> None:
        try:
            self._told = self._told[os.write(self._stdin.fileno(), self._told) :]
        except BrokenPipeError:
            self._told = b""  # it does not want to know all of it
        if not self._told:
            self._selector.unregister(self._stdin)
            self._stdin.close()

    def _hear(self, stream: IO[bytes]) -> None:
        data = os.read(stream.fileno(), _CHUNK)
        if data:
            self._streams[stream].take(data)
        else:
            self._selector.unregister(stream)

    def close(self) -> None:
        self._selector.close()
        for stream in (self._stdin, self._out, self._err):
            stream.close()
