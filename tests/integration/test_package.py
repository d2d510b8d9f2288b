"""The wheel, built once and installed where there is neither Rust nor a work tree."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest

import containerd_hybrid

pytestmark = [pytest.mark.package, pytest.mark.slow]
pytest.importorskip("maturin", reason="building the wheel needs the extra `dev`")

ROOT = Path(__file__).resolve().parents[2]
SHIM = "containerd-shim-hybrid-v2"
RUNTIME = "containerd-hybrid-runtime"
PROGRAMS = {"containerd-hybrid", "hyctl", SHIM, RUNTIME}


def run(*command: str | Path, env: Mapping[str, str] | None = None, cwd: Path | None = None) -> str:
    """The command's output; its failure shows everything that it wrote."""
    done = subprocess.run(command, env=env, cwd=cwd, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert done.returncode == 0, f"{command} exited with {done.returncode}:\n{done.stdout}\n{done.stderr}"
    return done.stdout


def build_wheel(source: Path, folder: Path) -> Path:
    """With cargo's own target folder of the work tree, where the dependencies are compiled already."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    env = os.environ | {"PATH": path, "CARGO_TARGET_DIR": str(ROOT / "target")}
    run(
        *(sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation"),
        *("--wheel-dir", folder, source),
        env=env,
    )
    (wheel,) = folder.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_wheel(ROOT, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def prefix(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh environment with the wheel and its dependencies, nothing else."""
    folder = tmp_path_factory.mktemp("fresh") / "env"
    run(sys.executable, "-m", "venv", folder)
    run(folder / "bin" / "python", "-m", "pip", "install", "--quiet", wheel, env=alone(folder))
    return folder


def alone(prefix: Path) -> dict[str, str]:
    """An environment in which only the programs of `prefix` are found, and no work tree is."""
    kept = {
        name: value for name, value in os.environ.items() if name.startswith(("PIP_", "SSL_", "REQUESTS_"))
    }
    return kept | {"PATH": str(prefix / "bin"), "HOME": str(prefix), "PYTHONSAFEPATH": "1"}


def test_the_wheel_is_for_every_python_from_3_11(wheel: Path) -> None:
    assert "-cp311-abi3-" in wheel.name


def test_the_wheel_holds_every_part_once(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        modes = {info.filename: info.external_attr >> 16 for info in archive.infolist()}
    data = f"containerd_hybrid-{containerd_hybrid.__version__}.data"
    package = "containerd_hybrid"

    assert len(names) == len(set(names))
    assert [name for name in names if name.endswith(".so")] == [f"{package}/_native.abi3.so"]
    assert {name for name in names if name.startswith(data)} == {
        f"{data}/scripts/{SHIM}",
        f"{data}/scripts/{RUNTIME}",
        f"{data}/data/share/containerd-hybrid/config.toml",
        f"{data}/data/share/containerd-hybrid/containerd-hybrid.service",
    }
    assert all(modes[f"{data}/scripts/{program}"] & stat.S_IXUSR for program in (SHIM, RUNTIME))
    sources = {path.relative_to(ROOT / "proto").as_posix() for path in (ROOT / "proto").rglob("*.proto")}
    for source in sources - {"google/rpc/status.proto"}:
        module = f"{package}/proto/{source.removesuffix('.proto')}_pb2"
        assert {f"{module}.py", f"{module}.pyi"} <= set(names)
    assert f"{package}/py.typed" in names
    assert not [name for name in names if "/_bin/" in name or "__pycache__" in name]


def test_an_install_puts_our_programs_and_no_others_beside_python(prefix: Path) -> None:
    script = (
        "import importlib.metadata as m, pathlib; "
        "print(*(pathlib.Path(f).name for f in m.files('containerd-hybrid') if '/bin/' in str(f)))"
    )
    ours = run(prefix / "bin" / "python", "-c", script, env=alone(prefix), cwd=prefix)
    assert set(ours.split()) == PROGRAMS
    assert {path.name for path in (prefix / "bin").iterdir()} >= PROGRAMS


@pytest.mark.parametrize("program", ["containerd-hybrid", "hyctl", RUNTIME])
def test_the_programs_start_and_know_their_version(prefix: Path, program: str) -> None:
    said = run(prefix / "bin" / program, "--version", env=alone(prefix), cwd=prefix)
    assert containerd_hybrid.__version__ in said


def test_the_shim_starts_and_is_found_by_the_package(prefix: Path) -> None:
    assert run(prefix / "bin" / SHIM, "-v", env=alone(prefix), cwd=prefix)
    script = "from containerd_hybrid._programs import shim_path; print(shim_path())"
    found = run(prefix / "bin" / "python", "-c", script, env=alone(prefix), cwd=prefix)
    assert Path(found.strip()) == (prefix / "bin" / SHIM).resolve()


def test_the_native_module_and_every_protobuf_module_import(prefix: Path) -> None:
    """Compiled Python reads each module of the wheel, not the ones of the work tree."""
    script = """
import importlib, pathlib
import containerd_hybrid._native as native
root = pathlib.Path(native.__file__).parent
count = 0
for path in root.glob("proto/**/*_pb2.py"):
    importlib.import_module(".".join(path.relative_to(root.parent).with_suffix("").parts))
    count += 1
print(root, count)
"""
    root, count = run(
        prefix / "bin" / "python", "-W", "error", "-c", script, env=alone(prefix), cwd=prefix
    ).split()
    assert Path(root).is_relative_to(prefix.resolve())
    assert int(count) == sum(1 for path in (ROOT / "proto").rglob("*.proto")) - 1


def test_the_unit_starts_a_program_of_the_wheel(prefix: Path) -> None:
    unit = (prefix / "share" / "containerd-hybrid" / "containerd-hybrid.service").read_text()
    (command,) = [line.partition("=")[2] for line in unit.splitlines() if line.startswith("ExecStart=")]
    assert Path(command.split()[0]).name in PROGRAMS
    assert "Type=notify" in unit


def test_the_daemon_takes_the_example_configuration_without_a_warning(prefix: Path) -> None:
    example = prefix / "share" / "containerd-hybrid" / "config.toml"
    command = [prefix / "bin" / "containerd-hybrid", "--config", example, "config", "dump"]
    done = subprocess.run(command, env=alone(prefix), cwd=prefix, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "version" in done.stdout


def test_an_uninstall_takes_everything_away(wheel: Path, tmp_path: Path) -> None:
    run(sys.executable, "-m", "venv", tmp_path / "env")
    pip = [tmp_path / "env" / "bin" / "python", "-m", "pip"]
    run(*pip, "install", "--quiet", "--no-deps", wheel, env=alone(tmp_path / "env"))
    assert list((tmp_path / "env").rglob("*containerd*"))
    run(*pip, "uninstall", "--yes", "--quiet", "containerd-hybrid", env=alone(tmp_path / "env"))
    assert not list((tmp_path / "env").rglob("*containerd*"))


def test_the_source_distribution_makes_the_same_wheel(wheel: Path, tmp_path: Path) -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("a source distribution is made of what git tracks, and this is no clone")
    if run("git", "-C", ROOT, "status", "--porcelain"):
        pytest.skip("the work tree has changes that are not committed: they are in the wheel only")
    env = os.environ | {
        "PYTHONPATH": str(ROOT / "tools"),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    run(sys.executable, "-m", "hybrid_build", "sdist", tmp_path, env=env, cwd=ROOT)
    (sdist,) = tmp_path.glob("*.tar.gz")
    again = build_wheel(sdist, tmp_path)
    with zipfile.ZipFile(wheel) as one, zipfile.ZipFile(again) as other:
        assert sorted(one.namelist()) == sorted(other.namelist())
