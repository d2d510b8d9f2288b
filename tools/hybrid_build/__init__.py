"""The build backend (PEP 517 and 660): maturin, and before it what maturin cannot do.

Maturin builds one artefact, the native module. Our wheel also holds Python modules generated from `proto/`
and two Rust programs, the shim and the OCI runtime. Each hook therefore

1. generates the protobuf modules in place (`protos`),
2. builds the programs with cargo and lays them, with the files of `share/`, in `target/wheel-data/`
   (`programs`), which `[tool.maturin] data` names: the wheel's `.data` folder, of which pip puts `scripts/`
   on PATH and `data/` below the environment's prefix,
3. hands over to maturin.

The Makefile runs the same steps one by one: `python -m hybrid_build` with `tools/` on the path.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import maturin

from hybrid_build import programs, protos

ROOT = Path(__file__).resolve().parents[2]

get_requires_for_build_wheel = maturin.get_requires_for_build_wheel
get_requires_for_build_editable = maturin.get_requires_for_build_editable
get_requires_for_build_sdist = maturin.get_requires_for_build_sdist

_Settings = Mapping[str, Any] | None


def build_sdist(sdist_directory: str, config_settings: _Settings = None) -> str:
    programs.wheel_data(ROOT)
    return maturin.build_sdist(sdist_directory, config_settings)


def prepare_metadata_for_build_wheel(metadata_directory: str, config_settings: _Settings = None) -> str:
    programs.wheel_data(ROOT)
    return maturin.prepare_metadata_for_build_wheel(metadata_directory, config_settings)


def prepare_metadata_for_build_editable(metadata_directory: str, config_settings: _Settings = None) -> str:
    programs.wheel_data(ROOT)
    return maturin.prepare_metadata_for_build_editable(metadata_directory, config_settings)


def build_wheel(
    wheel_directory: str, config_settings: _Settings = None, metadata_directory: str | None = None
) -> str:
    protos.generate(ROOT)
    programs.lay_wheel_data(ROOT, programs.build_programs(ROOT, locked=True))
    return maturin.build_wheel(wheel_directory, config_settings, metadata_directory)


def build_editable(
    wheel_directory: str, config_settings: _Settings = None, metadata_directory: str | None = None
) -> str:
    protos.generate(ROOT)
    programs.place_programs(ROOT, programs.build_programs(ROOT))
    programs.lay_wheel_data(ROOT, programs.write_launchers(ROOT))
    return maturin.build_editable(wheel_directory, config_settings, metadata_directory)
