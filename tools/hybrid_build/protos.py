"""Generates `containerd_hybrid.proto`: one module and one stub for each file under `proto/`.

The folder `proto/` is given to protoc under the name `containerd_hybrid/proto`, so that the imports
inside the generated code are absolute and lie in our own package.

Two groups of files get a treatment of their own, because other libraries in the same process may define
the same messages, and a descriptor pool refuses a second definition:

* `google/rpc/status.proto` is not generated; Python's one owner of it is googleapis-common-protos.
* `grpc/**` (health, reflection) is registered in a pool of its own, `containerd_hybrid.proto.PRIVATE_POOL`,
  so that grpcio-health-checking and grpcio-reflection can be imported as well.
"""

from __future__ import annotations

import shutil
import sys
import sysconfig
from importlib.resources import files
from pathlib import Path

PACKAGE = "containerd_hybrid/proto"
_DEFAULT_POOL = "_descriptor_pool.Default()"
_PRIVATE_POOL = "_containerd_hybrid_proto.PRIVATE_POOL"


def sources(root: Path) -> list[str]:
    """The files Python modules are made of, relative to `proto/`, sorted."""
    found = (path.relative_to(root / "proto") for path in (root / "proto").rglob("*.proto"))
    return sorted(path.as_posix() for path in found if path.parts[0] != "google")


def protoc_arguments(root: Path) -> list[str]:
    """The import paths that give every file its virtual name."""
    well_known = files("grpc_tools") / "_proto"
    return [f"-I{PACKAGE}={root / 'proto'}", f"-Igoogle/rpc={root / 'proto/google/rpc'}", f"-I{well_known}"]


def generate(root: Path) -> int:
    """Write the modules below `root/python`, remove those whose source is gone; the number written."""
    target = root / "python"
    names = sources(root)
    _protoc(
        root,
        f"--plugin=protoc-gen-mypy={_mypy_plugin()}",
        f"--python_out={target}",
        f"--mypy_out=quiet:{target}",
        *(f"{PACKAGE}/{name}" for name in names),
    )
    wanted = {target / PACKAGE / f"{name[:-6]}_pb2{suffix}" for name in names for suffix in (".py", ".pyi")}
    for path in wanted:
        if path.relative_to(target / PACKAGE).parts[0] == "grpc" and path.suffix == ".py":
            _use_private_pool(path)
    for folder in {folder for path in wanted for folder in path.parents}:
        if folder.is_relative_to(target / PACKAGE) and folder != target / PACKAGE:
            (folder / "__init__.py").touch()
    for stale in (target / PACKAGE).rglob("*_pb2.py*"):
        if stale.suffix in {".py", ".pyi"} and stale not in wanted:
            stale.unlink()
    return len(names)


def descriptors(root: Path, output: Path) -> None:
    """Write a FileDescriptorSet of every file and what it imports to `output`."""
    names = (f"{PACKAGE}/{name}" for name in sources(root))
    _protoc(root, "--include_imports", f"--descriptor_set_out={output}", *names)


def _protoc(root: Path, *arguments: str) -> None:
    from grpc_tools import protoc

    if protoc.main(["protoc", *protoc_arguments(root), *arguments]) != 0:
        raise SystemExit("protoc failed; its messages are above")


def _mypy_plugin() -> str:
    name = "protoc-gen-mypy"
    beside = Path(sys.executable).parent / name
    for place in (beside, Path(sysconfig.get_path("scripts")) / name):
        if place.exists():
            return str(place)
    found = shutil.which(name)
    if found is None:
        raise SystemExit(f"{name} is not installed: pip install mypy-protobuf")
    return found


def _use_private_pool(path: Path) -> None:
    text = path.read_text()
    if text.count(_DEFAULT_POOL) != 1:
        raise SystemExit(f"{path}: protoc writes its descriptors in a new way; look at _use_private_pool")
    text = text.replace(_DEFAULT_POOL, _PRIVATE_POOL)
    anchor = "from google.protobuf import descriptor_pool as _descriptor_pool\n"
    path.write_text(text.replace(anchor, "import containerd_hybrid.proto as _containerd_hybrid_proto\n"))
