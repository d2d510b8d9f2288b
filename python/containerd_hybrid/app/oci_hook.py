"""``oci-hook``: runs a program with arguments that tell of the container, as an OCI runtime hook.

The container's state comes on standard input (OCI runtime spec, "State"); arguments and environment
are templates over ``id``, ``bundle``, ``rootfs``, ``pid``, ``annotation "NAME"`` and ``status``.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

from containerd_hybrid.app.templates import Function, render
from containerd_hybrid.errors import InvalidArgumentError


def run(arguments: Sequence[str]) -> None:
    """Become the program. Returns only by raising.

    Raises:
        InvalidArgumentError: no program, or a state, specification or template that cannot be read.
        OSError: the program cannot be run.
    """
    if not arguments:
        raise InvalidArgumentError("oci-hook: the program to run is missing")
    functions = template_functions(sys.stdin.buffer)
    command = [render(argument, functions) for argument in arguments]
    environment = {name: render(value, functions) for name, value in os.environ.items()}
    os.execve(command[0], command, environment)  # noqa: S606 (that is what a hook is for)


def template_functions(state_file: BinaryIO) -> dict[str, Function]:
    """What templates can ask of the container whose state is in the file."""
    state = _object(state_file.read(), "the container's state on standard input")
    bundle = str(state.get("bundle", ""))
    config = Path(bundle) / "config.json"
    try:
        spec = _object(config.read_bytes(), str(config))
    except OSError as error:
        raise InvalidArgumentError(f"open {config}: {(error.strerror or str(error)).lower()}") from None
    root = spec.get("root")
    path = str(root.get("path", "")) if isinstance(root, dict) else ""
    annotations = state.get("annotations") or {}
    return {
        "id": lambda: str(state.get("id", "")),
        "bundle": lambda: bundle,
        "rootfs": lambda: os.path.normpath(os.path.join(bundle, path)),  # noqa: PTH118 (as text)
        "pid": lambda: int(state.get("pid", 0)),
        "annotation": lambda key: str(annotations.get(key, "")),
        "status": lambda: str(state.get("status", "")),
    }


def _object(data: bytes, what: str) -> dict[str, Any]:
    try:
        value = json.loads(data)
    except ValueError as error:
        raise InvalidArgumentError(f"{what}: {error}") from None
    if not isinstance(value, dict):
        raise InvalidArgumentError(f"{what}: expected a JSON object")
    return value
