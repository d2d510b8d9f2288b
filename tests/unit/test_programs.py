"""The package finds its shim, and has one version."""

from __future__ import annotations

import tomllib
from importlib import metadata
from pathlib import Path

import pytest

import containerd_hybrid
from containerd_hybrid import _programs
from containerd_hybrid.errors import NotFoundError

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty package folder in the place of ours."""
    folder = tmp_path / "site-packages" / "containerd_hybrid"
    folder.mkdir(parents=True)
    monkeypatch.setattr(_programs, "__file__", str(folder / "_programs.py"))
    monkeypatch.setattr(_programs, "_found", [])
    return folder


def program(path: Path, mode: int = 0o755) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n")
    path.chmod(mode)
    return path


def record(site_packages: Path, *lines: str) -> metadata.Distribution:
    """A distribution whose record has these lines, as pip leaves it."""
    info = site_packages / "containerd_hybrid-0.dist-info"
    info.mkdir(parents=True)
    (info / "RECORD").write_text("".join(f"{line},,\n" for line in lines))
    return metadata.PathDistribution(info)


def installed(monkeypatch: pytest.MonkeyPatch, distribution: metadata.Distribution | None) -> None:
    def files(name: str) -> list[metadata.PackagePath] | None:
        assert name == "containerd-hybrid"
        if distribution is None:
            raise metadata.PackageNotFoundError(name)
        return distribution.files

    monkeypatch.setattr(metadata, "files", files)


def test_an_installed_wheel_has_the_shim_where_its_record_says(
    package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shim = program(package.parents[1] / "bin" / "containerd-shim-hybrid-v2")
    installed(monkeypatch, record(package.parent, "../bin/hyctl", "../bin/containerd-shim-hybrid-v2"))
    assert _programs.shim_path() == shim


def test_the_record_is_read_once_and_again_when_the_shim_has_gone(
    package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shim = program(package.parents[1] / "bin" / "containerd-shim-hybrid-v2")
    installed(monkeypatch, record(package.parent, "../bin/containerd-shim-hybrid-v2"))
    assert _programs.shim_path() == shim
    installed(monkeypatch, None)
    assert _programs.shim_path() == shim
    shim.unlink()
    with pytest.raises(NotFoundError):
        _programs.shim_path()


def test_a_work_tree_has_the_shim_beside_the_package(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when an editable install once put one into the environment: that one may be older."""
    program(package.parents[1] / "bin" / "containerd-shim-hybrid-v2")
    installed(monkeypatch, record(package.parent, "../bin/containerd-shim-hybrid-v2"))
    shim = program(package / "_bin" / "containerd-shim-hybrid-v2")
    assert _programs.shim_path() == shim


def test_without_a_shim_the_error_says_where_it_looked(
    package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed(monkeypatch, None)
    with pytest.raises(NotFoundError, match=f"containerd-shim-hybrid-v2.*{package}/_bin.*make dev"):
        _programs.shim_path()


def test_a_shim_that_may_not_be_executed_is_none(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(package.parents[1] / "bin" / "containerd-shim-hybrid-v2", mode=0o644)
    installed(monkeypatch, record(package.parent, "../bin/containerd-shim-hybrid-v2"))
    with pytest.raises(NotFoundError):
        _programs.shim_path()


def test_python_and_rust_have_the_same_version() -> None:
    cargo = tomllib.loads((ROOT / "Cargo.toml").read_text())
    assert containerd_hybrid.__version__ == cargo["workspace"]["package"]["version"]
