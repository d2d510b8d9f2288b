"""Names of runtimes become programs as containerd makes them."""

from __future__ import annotations

from pathlib import Path

import pytest

from containerd_hybrid.errors import InvalidArgumentError, NotFoundError
from containerd_hybrid.tasks.runtimes import Runtimes, binary_name

OWN = Path("/opt/own/containerd-shim-hybrid-v2")


def program(folder: Path, name: str) -> Path:
    path = folder / name
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return path


@pytest.mark.parametrize("name", ["io.containerd.runc.v2", "io.containerd.hybrid.v2"])
def test_ours(name: str) -> None:
    assert Runtimes(lambda: OWN).resolve(name) == OWN


def test_gos_shim_can_be_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    go = program(tmp_path, "containerd-shim-runc-v2")
    monkeypatch.setenv("PATH", str(tmp_path))
    runtimes = Runtimes(lambda: OWN, go_runc=True)
    assert runtimes.resolve("io.containerd.runc.v2") == go
    assert runtimes.resolve("io.containerd.hybrid.v2") == OWN


def test_any_other_name_is_looked_for_on_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"/nowhere:{tmp_path}")
    runtimes = Runtimes(lambda: OWN)
    with pytest.raises(NotFoundError):
        runtimes.resolve("io.containerd.kata.v2")
    kata = program(tmp_path, "containerd-shim-kata-v2")
    assert runtimes.resolve("io.containerd.kata.v2") == kata
    assert runtimes.resolve("kata.v2") == kata


def test_or_beside_the_daemons_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kata = program(tmp_path, "containerd-shim-kata-v2")
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr("sys.argv", [str(tmp_path / "containerd-hybrid")])
    assert Runtimes(lambda: OWN).resolve("io.containerd.kata.v2") == kata


def test_a_path(tmp_path: Path) -> None:
    shim = program(tmp_path, "my-shim")
    assert Runtimes(lambda: OWN).resolve(str(shim)) == shim
    with pytest.raises(NotFoundError) as raised:
        Runtimes(lambda: OWN).resolve("/nope/shim")
    assert raised.value.message == (
        "failed to resolve runtime path: invalid custom binary path:"
        " stat /nope/shim: no such file or directory"
    )


def test_what_is_missing_is_named() -> None:
    with pytest.raises(NotFoundError) as raised:
        Runtimes(lambda: OWN).resolve("io.containerd.no-such-thing.v7")
    assert raised.value.message == (
        'failed to resolve runtime path: runtime "io.containerd.no-such-thing.v7" binary not installed'
        ' "containerd-shim-no-such-thing-v7": file does not exist'
    )


@pytest.mark.parametrize("name", ["x", "a/x.v1", "./shim", "../x.y", ".x", "a..b", "x."])
def test_what_cannot_be_a_name(name: str) -> None:
    with pytest.raises(
        InvalidArgumentError, match=f"invalid runtime name {name.replace('.', '[.]')}, correct"
    ):
        Runtimes(lambda: OWN).resolve(name)


def test_no_name() -> None:
    with pytest.raises(InvalidArgumentError, match="no runtime name"):
        Runtimes(lambda: OWN).resolve("")


def test_binary_name() -> None:
    assert binary_name("io.containerd.runsc.v1") == "containerd-shim-runsc-v1"
