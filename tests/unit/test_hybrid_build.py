"""The steps of the build that are our own; `tests/integration/test_package.py` sees the whole of it."""

from __future__ import annotations

import shlex
import subprocess
import tomllib
from pathlib import Path

import pytest

programs = pytest.importorskip("hybrid_build.programs", reason="needs a work tree and the extra `dev`")
requirements = pytest.importorskip("hybrid_build.requirements", reason="needs a work tree")

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A work tree in a folder whose name a shell would take apart, with a file to share."""
    root = tmp_path / "a tree; with $HOME"
    share = root / "share" / "containerd-hybrid"
    share.mkdir(parents=True)
    (share / "config.toml").write_text("version = 3\n")
    return root


@pytest.fixture
def built(tree: Path) -> list[Path]:
    """The programs, as cargo leaves them."""
    folder = tree / "cargo"
    folder.mkdir()
    for name in programs.PROGRAMS:
        (folder / name).write_text(f'#!/bin/sh\necho {name} "$@"\n')
    return [folder / name for name in programs.PROGRAMS]


def test_the_wheels_data_is_laid_anew(tree: Path, built: list[Path]) -> None:
    programs.lay_wheel_data(tree, built)
    stale = tree / "target" / "wheel-data" / "scripts" / "old-shim"
    stale.touch()
    programs.lay_wheel_data(tree, built)
    data = tree / "target" / "wheel-data"
    assert {path.relative_to(data).as_posix(): path.stat().st_mode & 0o777 for path in data.rglob("*.*")} == {
        "data/share/containerd-hybrid/config.toml": 0o644
    }
    assert {path.name: path.stat().st_mode & 0o777 for path in (data / "scripts").iterdir()} == {
        "containerd-shim-hybrid-v2": 0o755,
        "containerd-hybrid-runtime": 0o755,
    }


def test_what_an_editable_install_starts_are_the_programs_of_the_work_tree(
    tree: Path, built: list[Path]
) -> None:
    launchers = programs.write_launchers(tree)
    programs.place_programs(tree, built)
    assert [launcher.name for launcher in launchers] == list(programs.PROGRAMS)
    for launcher in launchers:
        command = ["sh", launcher, "start", "a b"]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        assert said == f"{launcher.name} start a b\n"


def test_a_program_that_runs_is_replaced_not_overwritten(tree: Path, built: list[Path]) -> None:
    """Writing into the file of a running program fails (ETXTBSY), or changes what it executes."""
    programs.place_programs(tree, built)
    placed = tree / "python" / "containerd_hybrid" / "_bin" / programs.SHIM
    before = placed.stat().st_ino
    with placed.open() as running:
        programs.place_programs(tree, built)
        assert running.read() == built[0].read_text()
    assert placed.stat().st_ino != before
    assert {path.name for path in placed.parent.iterdir()} == set(programs.PROGRAMS)


def test_the_requirements_of_an_extra_are_resolved() -> None:
    pyproject = {
        "build-system": {"requires": ["tool>=1"]},
        "project": {
            "name": "us",
            "dependencies": ["lib"],
            "optional-dependencies": {"a": ["x", "lib"], "b": ["y"], "all": ["us[a,b]", "z"], "other": ["q"]},
        },
    }
    assert requirements.requirements(pyproject, ["all"]) == ["tool>=1", "lib", "z", "x", "y"]


def test_the_requirements_for_development_name_the_checkers_and_not_ourselves() -> None:
    found = requirements.requirements(tomllib.loads((ROOT / "pyproject.toml").read_text()), ["dev"])
    names = {shlex.split(line.replace(">", " ").replace("=", " "))[0] for line in found}
    assert {"maturin", "grpcio", "pytest", "pytest-benchmark", "mypy", "ruff"} <= names
    assert not [name for name in names if name.startswith("containerd")]
