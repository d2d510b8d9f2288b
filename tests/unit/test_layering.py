"""Who may import whom (CONTRIBUTING.md, "Layers"). Read from the source, so that lazy imports count."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

PACKAGE = "containerd_hybrid"
ROOT = Path(__file__).parents[2] / "python" / PACKAGE

# Everybody may import these.
COMMON = {"errors", "model", "_native", "_programs", "__version__", "workers"}
# They name concrete classes: app wires the daemon, testing starts it and makes images for it.
WIRING = {"app", "testing"}
# They speak on a wire, so they know its messages. Everybody else hands on a type name and bytes.
WIRE = {"rpc", "ttrpc", "tasks", "client", "cri", "events", "sandbox", "metrics", "tracing", "app", "testing"}
# So do these, about what another process has of their package.
PROXIES = {"content/proxy.py", "diff/proxy.py", "snapshots/proxy.py"}
# Faces of the same services: none of them is built on another.
FACES = {"rpc", "cri", "client"}
GRPC = {"rpc/grpc_adaptor.py", "client/grpc_transport.py", "tracing/otlp_grpc.py"}
# In-process calls go through the transport that the wiring hands to the client.
ALLOWED: set[tuple[str, str]] = {
    # The programs start the daemon or a runtime in process; they have no other way to it.
    ("cli", "app"),
    ("cli", "client"),
    # The package itself is the library's face: connect() and open() wire a client.
    ("", "app"),
    ("", "client"),
    ("", "mounts"),
}


@dataclass(frozen=True)
class Import:
    file: str
    line: int
    module: str
    typing_only: bool

    def __str__(self) -> str:
        return f"{self.file}:{self.line} imports {self.module}"


def imports_of(path: Path) -> Iterator[Import]:
    tree = ast.parse(path.read_text(), path.name)
    typing_only: set[ast.AST] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            typing_only.update(child for statement in node.body for child in ast.walk(statement))
    for node in ast.walk(tree):
        for module in modules_of(node):
            yield Import(path.relative_to(ROOT).as_posix(), node.lineno, module, node in typing_only)  # type: ignore[attr-defined]


def modules_of(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and node.module:
        # `from package import api` names a module too; whether it is one, the tree of files tells.
        for alias in node.names:
            name = f"{node.module}.{alias.name}"
            yield name if module_exists(name) else node.module


def module_exists(name: str) -> bool:
    if not name.startswith(PACKAGE + "."):
        return False
    place = ROOT.joinpath(*name.split(".")[1:])
    return place.with_suffix(".py").exists() or (place / "__init__.py").exists()


def sources() -> list[Path]:
    """Our own modules; the generated ones import as protoc likes."""
    files = (p for p in sorted(ROOT.rglob("*.py")) if p.relative_to(ROOT).parts[0] != "proto")
    return [*files, ROOT / "proto" / "__init__.py"]


def room(path: Path) -> str:
    """The package a file belongs to, ``""`` for the modules at the top."""
    parts = path.relative_to(ROOT).parts
    return parts[0] if len(parts) > 1 else ""


@pytest.fixture(scope="module")
def imports() -> list[tuple[str, Import]]:
    return [(room(path), found) for path in sources() for found in imports_of(path)]


def ours(found: Import) -> list[str]:
    """The parts of the module's name below the package; empty for a foreign module."""
    parts = found.module.split(".")
    return parts[1:] if parts[0] == PACKAGE else []


def test_the_test_sees_imports_inside_of_functions() -> None:
    tree = ast.parse("def f():\n    from containerd_hybrid.errors import HybridError\n")
    found = [module for node in ast.walk(tree) for module in modules_of(node)]
    assert found == ["containerd_hybrid.errors"]
    tree = ast.parse("from containerd_hybrid.content import api")
    assert [m for node in ast.walk(tree) for m in modules_of(node)] == ["containerd_hybrid.content.api"]


def test_across_packages_only_contracts_are_imported(imports: list[tuple[str, Import]]) -> None:
    wrong = []
    for own, found in imports:
        parts = ours(found)
        if not parts or own in WIRING or parts[0] in COMMON | {own, "proto"}:
            continue
        is_contract = len(parts) > 1 and parts[1] == "api"
        is_conversion = parts == ["wire"] and (own in WIRE or found.file in PROXIES)
        if not is_contract and not is_conversion and (own, parts[0]) not in ALLOWED:
            wrong.append(str(found))
    assert not wrong, "import the other package's api.py instead:\n" + "\n".join(wrong)


def test_the_faces_do_not_know_each_other(imports: list[tuple[str, Import]]) -> None:
    wrong = [
        str(found)
        for own, found in imports
        if own in FACES and ours(found) and ours(found)[0] in FACES - {own}
    ]
    assert not wrong, "rpc, cri and client never import each other:\n" + "\n".join(wrong)


def test_nobody_but_the_wiring_and_the_programs_knows_the_wiring(imports: list[tuple[str, Import]]) -> None:
    wrong = [
        str(found)
        for own, found in imports
        if own not in WIRING | {"cli", ""} and ours(found)[:1] == ["app"] and ours(found)[1:2] != ["api"]
    ]
    assert not wrong, "app wires the packages and is not imported by them:\n" + "\n".join(wrong)


def test_messages_stop_at_the_wire(imports: list[tuple[str, Import]]) -> None:
    wrong = [
        str(found)
        for own, found in imports
        if own not in WIRE | {"proto"}
        and found.file not in PROXIES | {"wire.py"}
        and ours(found)[:1] == ["proto"]
    ]
    assert not wrong, "use values of model or of an api.py instead of messages:\n" + "\n".join(wrong)


def test_nothing_but_the_adaptors_imports_grpc(imports: list[tuple[str, Import]]) -> None:
    wrong = [
        str(found) for _, found in imports if found.module.split(".")[0] == "grpc" and found.file not in GRPC
    ]
    assert not wrong, f"only {', '.join(sorted(GRPC))} may know grpc:\n" + "\n".join(wrong)


def test_the_bottom_imports_nothing_of_ours(imports: list[tuple[str, Import]]) -> None:
    wrong = []
    for own, found in imports:
        parts = ours(found)
        if found.file == "errors.py" and parts:
            wrong.append(str(found))
        if own == "model" and parts and parts[0] not in {"model", "errors", "_native"}:
            wrong.append(str(found))
    assert not wrong, "errors and model are the bottom:\n" + "\n".join(wrong)


def test_contracts_are_built_on_contracts(imports: list[tuple[str, Import]]) -> None:
    wrong = []
    for _, found in imports:
        parts = ours(found)
        if found.file.endswith("/api.py") and parts and parts[0] not in COMMON and parts[-1] != "api":
            wrong.append(str(found))
    assert not wrong, "an api.py imports model, errors and other api.py only:\n" + "\n".join(wrong)


def test_every_module_has_postponed_annotations() -> None:
    wrong = [
        path.relative_to(ROOT).as_posix()
        for path in sources()
        if path.read_text().strip()
        and ast.parse(path.read_text()).body[1:]
        and "from __future__ import annotations" not in path.read_text()
    ]
    assert not wrong, "missing `from __future__ import annotations`:\n" + "\n".join(wrong)
