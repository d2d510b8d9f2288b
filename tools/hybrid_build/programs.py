"""Builds the Rust artefacts with cargo and puts them where Python, or maturin, looks for them."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

SHIM = "containerd-shim-hybrid-v2"
RUNTIME = "containerd-hybrid-runtime"
PROGRAMS = (SHIM, RUNTIME)
_PACKAGE = Path("python/containerd_hybrid")


def build_programs(root: Path, *, profile: str = "release", locked: bool = False) -> list[Path]:
    """Build the shim and the OCI runtime in one go; their paths in cargo's target folder."""
    packages = ("containerd-hybrid-shim", "containerd-hybrid-runtime")
    artefacts = _cargo_build(root, packages, profile, locked)
    paths = [Path(artefact["executable"]) for artefact in artefacts if artefact.get("executable")]
    built = {path.name: path for path in paths}
    missing = [name for name in PROGRAMS if name not in built]
    if missing:
        raise SystemExit(f"cargo built no program {', '.join(missing)}: see [[bin]] in rust/*/Cargo.toml")
    return [built[name] for name in PROGRAMS]


def build_native(root: Path, *, profile: str = "release") -> Path:
    """Build the native module; the path of the shared library in cargo's target folder."""
    for artefact in _cargo_build(root, ("containerd-hybrid-native",), profile, locked=False):
        if "cdylib" in artefact["target"]["kind"] and "containerd-hybrid-native" in artefact["package_id"]:
            return next(Path(name) for name in artefact["filenames"] if name.endswith(".so"))
    raise SystemExit("cargo built no cdylib: see [lib] in rust/native/Cargo.toml")


def place_native(root: Path, library: Path) -> None:
    """Put the native module where `import containerd_hybrid._native` finds it in the work tree."""
    _replace(library, root / _PACKAGE / "_native.abi3.so", 0o644)


def place_programs(root: Path, built: Iterable[Path]) -> None:
    """Put the programs where `containerd_hybrid._programs` finds them in the work tree."""
    for program in built:
        _replace(program, root / _PACKAGE / "_bin" / program.name, 0o755)


def write_launchers(root: Path) -> list[Path]:
    """Scripts that run the programs of the work tree: what an editable install has in their place."""
    folder = root / "target" / "launchers"
    folder.mkdir(parents=True, exist_ok=True)
    launchers = [folder / name for name in PROGRAMS]
    for launcher in launchers:
        program = shlex.quote(str(root / _PACKAGE / "_bin" / launcher.name))
        launcher.write_text(f'#!/bin/sh\nexec {program} "$@"\n')
    return launchers


def wheel_data(root: Path) -> Path:
    """The wheel's data folder; maturin wants it to be there even when it only writes metadata."""
    folder = root / "target" / "wheel-data"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def lay_wheel_data(root: Path, scripts: Iterable[Path]) -> None:
    """Lay the wheel's data folder anew: `scripts/` and `data/share/containerd-hybrid/`."""
    target = wheel_data(root)
    shutil.rmtree(target)
    for script in scripts:
        _replace(script, target / "scripts" / script.name, 0o755)
    for source in sorted((root / "share").rglob("*")):
        if source.is_file():
            _replace(source, target / "data" / "share" / source.relative_to(root / "share"), 0o644)


def _cargo_build(root: Path, packages: Iterable[str], profile: str, locked: bool) -> Iterator[dict[str, Any]]:
    command = ["cargo", "build", "--profile", profile]
    command += (f"--package={package}" for package in packages)
    command += ["--message-format", "json-render-diagnostics"]
    if locked:
        command.append("--locked")
    try:
        result = subprocess.run(command, cwd=root, stdout=subprocess.PIPE, check=False)
    except FileNotFoundError:
        raise SystemExit("cargo is not on PATH: install Rust (rustup), or install a wheel instead") from None
    if result.returncode != 0:
        raise SystemExit(f"{' '.join(command)} failed; its messages are above")
    for line in result.stdout.splitlines():
        message = json.loads(line)
        if message["reason"] == "compiler-artifact":
            yield message


def _replace(source: Path, target: Path, mode: int) -> None:
    """Copy by way of a rename: a program that runs from `target` goes on with the old file."""
    target.parent.mkdir(parents=True, exist_ok=True)
    staged = target.with_name(f".{target.name}.new")
    shutil.copyfile(source, staged)
    staged.chmod(mode)
    staged.replace(target)
