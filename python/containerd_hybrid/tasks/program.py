"""A shim program and its three actions: ``start``, ``delete`` and ``-info``.

Arguments, environment and standard input are those that containerd gives (``pkg/shim``). What is on
standard input of ``start`` changed with containerd 2.3: shims before read the runtime options as an
``Any`` and refuse anything else, shims since read ``BootstrapParams`` and refuse anything else. Which
generation a program is cannot be told beforehand, so the older form is tried first; a newer shim
refuses that before it has done anything, and is remembered. Our own takes both.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from google.protobuf.message import DecodeError

from containerd_hybrid.errors import UnknownError
from containerd_hybrid.model.any import AnyValue
from containerd_hybrid.proto.runtime.bootstrap.v1 import bootstrap_pb2
from containerd_hybrid.proto.runtime.task.v3 import shim_pb2
from containerd_hybrid.proto.types import introspection_pb2
from containerd_hybrid.tasks import bootstrap
from containerd_hybrid.tasks.api import Exit
from containerd_hybrid.tasks.bootstrap import Endpoint
from containerd_hybrid.tasks.bundle import Bundle
from containerd_hybrid.tasks.process import Finished, run_program
from containerd_hybrid.tasks.settings import ShimSettings
from containerd_hybrid.tasks.times import from_wire
from containerd_hybrid.wire import any_to_wire

# The one that is known to take the newer form, which has more to say.
_OURS = "containerd-shim-hybrid-v2"

# What the shims of containerd 2.3 and later say about standard input in the older form.
_WANTS_PARAMS = b"shim was started through the deprecated API"


@dataclass(slots=True)
class ShimPrograms:
    """Runs shim programs for bundles."""

    settings: ShimSettings
    _newer: set[Path] = field(default_factory=set)

    async def start(self, program: Path, bundle: Bundle, options: AnyValue | None) -> Endpoint:
        """Start a shim, or be led to the one of its group.

        Raises:
            UnknownError: the program failed; the message has what it said.
            DeadlineExceededError: it did not return in time.
            NotFoundError, FailedPreconditionError, UnimplementedError: see :func:`bootstrap.parse`.
        """
        newer = program.name == _OURS or program in self._newer
        finished = await self._start(program, bundle, options, newer=newer)
        if finished.status and not newer and _WANTS_PARAMS in finished.stderr:
            self._newer.add(program)
            finished = await self._start(program, bundle, options, newer=True)
        if finished.status:
            raise UnknownError(f"start failed: {finished.reason}")
        return bootstrap.parse(finished.stdout)

    async def delete(self, program: Path, bundle: Bundle) -> Exit:
        """Let the program clean up what a dead shim left: its container, mounts and sockets.

        Raises:
            UnknownError: the program failed; the message has what it said.
            DeadlineExceededError: it did not return in time.
        """
        finished = await run_program(
            [*self._arguments(program, bundle), "-bundle", str(bundle.path), *self._debug(), "delete"],
            cwd=bundle.path,
            env=self._environment(bundle),
            timeout=self.settings.timeouts.cleanup,
        )
        if finished.status:
            raise UnknownError(f"delete failed: {finished.reason}")
        try:
            response = shim_pb2.DeleteResponse.FromString(finished.stdout)
        except DecodeError as error:
            raise UnknownError(f"{program} delete printed {finished.stdout[:200]!r}") from error
        return Exit(response.pid, response.exit_status, from_wire(response.exited_at))

    async def info(self, program: Path, options: AnyValue | None) -> introspection_pb2.RuntimeInfo:
        """What the program says about itself and its OCI runtime.

        Raises:
            UnknownError: it cannot (shims of containerd 1.6 do not know ``-info``), or failed.
            DeadlineExceededError: it did not return in time.
        """
        finished = await run_program(
            [str(program), "-info"],
            cwd=Path("/"),
            env=os.environ,
            stdin=_serialized(options),
            timeout=self.settings.timeouts.load,
        )
        if finished.status:
            raise UnknownError(f"failed to run {program} -info: {finished.reason}")
        try:
            return introspection_pb2.RuntimeInfo.FromString(finished.stdout)
        except DecodeError as error:
            raise UnknownError(f"{program} -info printed {finished.stdout[:200]!r}") from error

    async def _start(
        self, program: Path, bundle: Bundle, options: AnyValue | None, *, newer: bool
    ) -> Finished:
        stdin = self._params(bundle, options).SerializeToString() if newer else _serialized(options)
        return await run_program(
            [*self._arguments(program, bundle), *self._debug(), "start"],
            cwd=bundle.path,
            env=self._environment(bundle),
            stdin=stdin,
            timeout=self.settings.timeouts.start,
        )

    def _arguments(self, program: Path, bundle: Bundle) -> list[str]:
        settings = self.settings
        return [
            str(program),
            *("-namespace", bundle.namespace),
            *("-address", settings.address),
            *("-publish-binary", str(settings.publish_binary)),
            *("-id", bundle.id),
        ]

    def _debug(self) -> list[str]:
        return ["-debug"] if self.settings.debug else []

    def _environment(self, bundle: Bundle) -> dict[str, str]:
        added = dict(entry.partition("=")[::2] for entry in self.settings.env)
        return {
            **os.environ,
            "GOMAXPROCS": "2",
            "MAX_SHIM_VERSION": str(bootstrap.CURRENT_VERSION),
            "TTRPC_ADDRESS": self.settings.ttrpc_address,
            "GRPC_ADDRESS": self.settings.address,
            "NAMESPACE": bundle.namespace,
            **added,
        }

    def _params(self, bundle: Bundle, options: AnyValue | None) -> bootstrap_pb2.BootstrapParams:
        settings = self.settings
        params = bootstrap_pb2.BootstrapParams(
            instance_id=bundle.id,
            namespace=bundle.namespace,
            log_level=bootstrap_pb2.LOG_LEVEL_DEBUG if settings.debug else bootstrap_pb2.LOG_LEVEL_INFO,
            containerd_ttrpc_address=settings.ttrpc_address,
            containerd_grpc_address=settings.address,
            containerd_binary=str(settings.publish_binary),
        )
        if settings.socket_dir:
            params.socket_dir = settings.socket_dir
        if options is not None:
            params.extensions.add(value=any_to_wire(options))
        return params


def _serialized(options: AnyValue | None) -> bytes:
    message = any_to_wire(options)
    return message.SerializeToString() if message is not None else b""
