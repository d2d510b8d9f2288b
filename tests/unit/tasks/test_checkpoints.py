"""Checkpoints between a task and the content store; what is made of them is shown with ``ctr`` elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
from tests.unit.tasks.kit import SCOPE, FakeContainers

from containerd_hybrid.errors import InvalidArgumentError, NotFoundError, UnknownError
from containerd_hybrid.model import Descriptor, Digest
from containerd_hybrid.model.any import AnyValue
from containerd_hybrid.proto.types.runc.options_pb2 import CheckpointOptions
from containerd_hybrid.tasks.api import CreateTask
from containerd_hybrid.tasks.bundle import Bundles
from containerd_hybrid.tasks.checkpoints import CHECKPOINT, Checkpoints

DIGEST = Digest.parse("sha256:" + "0" * 64)


class Tasks:
    """Notes what is checkpointed where, and can fail half-way."""

    def __init__(self) -> None:
        self.paths: list[Path] = []
        self.fails = False

    async def checkpoint(self, scope: object, id: str, path: str, options: AnyValue | None) -> None:
        self.paths.append(Path(path))
        if self.fails:
            (Path(path) / "pages-1.img").write_text("half")
            raise UnknownError("criu gave up")


class Nothing:
    """A content store without content."""

    async def info(self, scope: object, digest: Digest) -> None:
        raise NotFoundError(f"content {digest}: not found")


@pytest.fixture
def tasks() -> Tasks:
    return Tasks()


@pytest.fixture
def checkpoints(tasks: Tasks, tmp_path: Path) -> Checkpoints:
    containers = FakeContainers()
    containers.add("c1")
    bundles = Bundles(tmp_path / "root", tmp_path / "state")
    unused: Any = None
    return Checkpoints(cast(Any, tasks), containers, bundles, cast(Any, Nothing()), unused, unused)


async def test_a_folder_of_the_callers_makes_no_content(
    checkpoints: Checkpoints, tasks: Tasks, tmp_path: Path
) -> None:
    options = CheckpointOptions(image_path=str(tmp_path / "mine")).SerializeToString()
    given = AnyValue("containerd.runc.v1.CheckpointOptions", options)
    assert await checkpoints.take(SCOPE, "c1", given) == ()
    assert tasks.paths == [tmp_path / "mine"]


async def test_a_checkpoint_that_fails_leaves_no_folder(
    checkpoints: Checkpoints, tasks: Tasks, tmp_path: Path
) -> None:
    tasks.fails = True
    with pytest.raises(UnknownError, match="criu gave up"):
        await checkpoints.take(SCOPE, "c1", None)
    assert tasks.paths[0].is_relative_to(tmp_path / "root")
    assert not tasks.paths[0].exists()


async def test_options_of_another_runtime_are_refused(checkpoints: Checkpoints, tasks: Tasks) -> None:
    with pytest.raises(InvalidArgumentError, match=r"invalid task checkpoint option .* some\.Options"):
        await checkpoints.take(SCOPE, "c1", AnyValue("some.Options", b"x"))
    with pytest.raises(InvalidArgumentError, match="invalid task checkpoint option"):
        await checkpoints.take(SCOPE, "c1", AnyValue("containerd.runc.v1.CheckpointOptions", b"\xff\xff"))
    assert tasks.paths == []


async def test_only_a_checkpoint_that_is_here_is_restored(checkpoints: Checkpoints) -> None:
    request = CreateTask("c1")
    with pytest.raises(InvalidArgumentError, match='unsupported checkpoint type "text/plain"'):
        await checkpoints.restoring(SCOPE, request, Descriptor("text/plain", DIGEST, 1))
    with pytest.raises(NotFoundError, match="sha256:0000"):
        await checkpoints.restoring(SCOPE, request, Descriptor(CHECKPOINT, DIGEST, 1))
