"""Derives ``client/sync.py`` from the async classes: `python tools/derive_sync.py [--check]`.

Each ``AsyncX`` becomes an ``X`` whose methods run those of the async one through a portal. What they
take, return and say is read from the source, so the two faces cannot differ; a test fails when the
file is stale. A public attribute is derived when the class declares it in its body.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CLIENT = ROOT / "python" / "containerd_hybrid" / "client"
TARGET = CLIENT / "sync.py"
# Bottom first: a class that makes another one comes after it.
SOURCES = ("process", "container", "images", "containers", "garbage", "daemon", "client")
PACKAGE = "containerd_hybrid.client"
WIDTH = 110
HEADER = '"""The library without async. Derived by tools/derive_sync.py; edit the async classes instead."""'
PORTAL = f"from {PACKAGE}.portal import Portal"

_ASYNC_NAME = re.compile(r"\bAsync(\w+)\b")


@dataclass
class Source:
    """A module, its text, and what it imports from where."""

    module: str
    text: str
    tree: ast.Module
    imports: dict[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, name: str) -> Source:
        text = (CLIENT / f"{name}.py").read_text()
        source = cls(f"{PACKAGE}.{name}", text, ast.parse(text))
        for node in source.tree.body:
            if isinstance(node, ast.ImportFrom):
                for alias in node.names:
                    suffix = f" as {alias.asname}" if alias.asname else ""
                    line = f"from {node.module} import {alias.name}{suffix}"
                    source.imports[alias.asname or alias.name] = line
            elif isinstance(node, ast.Import):
                for alias in node.names:
                    suffix = f" as {alias.asname}" if alias.asname else ""
                    source.imports[alias.asname or alias.name] = f"import {alias.name}{suffix}"
            else:
                for name in _defined(node):
                    source.imports[name] = f"from {source.module} import {name}"
        return source

    def segment(self, node: ast.AST) -> str:
        """The source of a node as it was written."""
        found = ast.get_source_segment(self.text, node)
        assert found is not None
        return found

    def async_classes(self) -> Iterator[ast.ClassDef]:
        for node in self.tree.body:
            if isinstance(node, ast.ClassDef) and node.name.startswith("Async"):
                yield node


def _defined(node: ast.stmt) -> list[str]:
    match node:
        case ast.ClassDef() | ast.FunctionDef():
            return [node.name]
        case ast.Assign():
            return [target.id for target in node.targets if isinstance(target, ast.Name)]
        case _:
            return []


class Derivation:
    """Collects the classes, and the imports that their signatures need."""

    def __init__(self) -> None:
        self.sources = [Source.read(name) for name in SOURCES]
        self.derived = {
            node.name: node.name.removeprefix("Async")
            for source in self.sources
            for node in source.async_classes()
        }
        self.imports = {"from __future__ import annotations", PORTAL}

    def text(self) -> str:
        classes = [
            "\n".join(self._class(source, node)) for source in self.sources for node in source.async_classes()
        ]
        return "\n\n\n".join(["\n".join([HEADER, "", *self._import_lines()]), *classes]) + "\n"

    # --- a class

    def _class(self, source: Source, node: ast.ClassDef) -> Iterator[str]:
        name = self.derived[node.name]
        self._need(source, node.name)
        yield f"class {name}:"
        yield from self._docstring(source, node, "    ")
        attributes = [item for item in node.body if isinstance(item, ast.AnnAssign)]
        whole = {item: self._async_class(source, item.annotation) for item in attributes}
        yield ""
        yield f"    def __init__(self, portal: Portal, wrapped: {node.name}) -> None:"
        yield "        self._portal = portal"
        yield "        self._wrapped = wrapped"
        for item, wrapped in whole.items():
            if wrapped:
                attribute = source.segment(item.target)
                yield f"        self.{attribute} = {self.derived[wrapped]}(portal, wrapped.{attribute})"
        for item, wrapped in whole.items():
            if not wrapped:
                yield from self._attribute(source, item)
        for method in node.body:
            if isinstance(method, ast.FunctionDef | ast.AsyncFunctionDef) and not method.name.startswith("_"):
                yield ""
                yield from self._method(source, method)
        if any(getattr(item, "name", "") == "__aenter__" for item in node.body):
            yield from self._context(name)

    def _attribute(self, source: Source, item: ast.AnnAssign) -> Iterator[str]:
        attribute, annotation = source.segment(item.target), source.segment(item.annotation)
        self._need_all(source, item.annotation)
        yield ""
        yield "    @property"
        yield f"    def {attribute}(self) -> {annotation}:"
        yield f"        return self._wrapped.{attribute}"

    def _context(self, name: str) -> Iterator[str]:
        self.imports |= {"from types import TracebackType", "from typing import Self"}
        parameters = [
            "kind: type[BaseException] | None",
            "error: BaseException | None",
            "trace: TracebackType | None",
        ]
        yield ""
        yield "    def __enter__(self) -> Self:"
        yield "        return self"
        yield ""
        yield from _layout("    def __exit__(", ["self", *parameters], ") -> None:")
        yield "        self.close()"

    # --- a method

    def _method(self, source: Source, method: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[str]:
        assert method.returns is not None, method.name
        self._need_all(source, method.args, method.returns)
        returns = self._sync(source.segment(method.returns))
        parameters, passed = self._parameters(source, method.args)
        if any(source.segment(decorator) == "property" for decorator in method.decorator_list):
            yield "    @property"
        yield from _layout(f"    def {method.name}(", parameters, f") -> {returns}:")
        yield from self._docstring(source, method, "        ")
        call = _call(f"self._wrapped.{method.name}", passed)
        wrapped = self._async_class(source, method.returns)
        if method.name == "close":
            yield f"        self._portal.close({call.function})"
        elif isinstance(method, ast.FunctionDef):
            yield from _statement("return ", call, "")
        elif returns.startswith("Iterator["):
            yield from _statement("return self._portal.iterate(", call, ")")
        elif wrapped:
            yield from _statement("wrapped = self._portal.call(", call, ")")
            yield f"        return {self.derived[wrapped]}(self._portal, wrapped)"
        elif returns == "None":
            yield from _statement("self._portal.call(", call, ")")
        else:
            yield from _statement("return self._portal.call(", call, ")")

    def _parameters(self, source: Source, arguments: ast.arguments) -> tuple[list[str], list[str]]:
        """The parameters as they are declared, and the arguments that hand them on."""
        positional = arguments.args
        defaults = [None] * (len(positional) - len(arguments.defaults)) + list(arguments.defaults)
        declared = [self._parameter(source, *pair) for pair in zip(positional, defaults, strict=True)]
        passed = [argument.arg for argument in positional[1:]]
        if arguments.kwonlyargs:
            declared.append("*")
            pairs = zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
            declared += [self._parameter(source, *pair) for pair in pairs]
            passed += [f"{argument.arg}={argument.arg}" for argument in arguments.kwonlyargs]
        if arguments.vararg or arguments.kwarg or arguments.posonlyargs:
            raise NotImplementedError("parameters of a kind that no method had so far")
        return declared, passed

    def _parameter(self, source: Source, argument: ast.arg, default: ast.expr | None) -> str:
        if argument.annotation is None:
            return argument.arg
        text = f"{argument.arg}: {self._sync(source.segment(argument.annotation))}"
        return f"{text} = {source.segment(default)}" if default is not None else text

    def _docstring(
        self, source: Source, node: ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef, indent: str
    ) -> Iterator[str]:
        first = node.body[0]
        if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
            text = source.segment(first).replace("``async with``", "``with``")
            yield from (indent + text).splitlines()

    # --- names

    def _sync(self, annotation: str) -> str:
        return _ASYNC_NAME.sub(r"\1", annotation)

    def _async_class(self, source: Source, annotation: ast.expr) -> str:
        name = source.segment(annotation)
        return name if name in self.derived else ""

    def _need_all(self, source: Source, *nodes: ast.AST) -> None:
        for node in nodes:
            for part in ast.walk(node):
                if isinstance(part, ast.Name):
                    self._need(source, part.id)

    def _need(self, source: Source, name: str) -> None:
        line = source.imports.get(name)
        if name == "AsyncIterator":
            line = "from collections.abc import Iterator"
        if line is not None:
            self.imports.add(line)

    def _import_lines(self) -> Iterator[str]:
        """One statement a module, in the order that ruff gives them."""
        plain = sorted(line for line in self.imports if line.startswith("import "))
        names: dict[str, set[str]] = {}
        for line in self.imports - set(plain):
            _, module, _, name = line.split(" ", 3)
            names.setdefault(module, set()).add(name)
        future = names.pop("__future__")
        yield f"from __future__ import {', '.join(sorted(future))}"
        groups = (
            [module for module in sorted(names) if not module.startswith("containerd_hybrid")],
            [module for module in sorted(names) if module.startswith("containerd_hybrid")],
        )
        for number, modules in enumerate(groups):
            if modules or (plain and number == 0):
                yield ""
            if number == 0:
                yield from plain
            for module in modules:
                yield from _import(module, sorted(names[module], key=_import_order))


def _import_order(name: str) -> tuple[int, str]:
    """Constants, then classes, then functions."""
    kind = 0 if name.isupper() else 1 if name[0].isupper() else 2
    return kind, name


def _import(module: str, names: list[str]) -> Iterator[str]:
    line = f"from {module} import {', '.join(names)}"
    if len(line) <= WIDTH:
        yield line
        return
    yield f"from {module} import ("
    yield from (f"    {name}," for name in names)
    yield ")"


# --- layout, as ruff's formatter has it


def _layout(before: str, parts: list[str], after: str, indent: str = "    ") -> Iterator[str]:
    line = f"{before}{', '.join(parts)}{after}"
    if len(line) <= WIDTH:
        yield line
        return
    inside = f"{indent}    {', '.join(parts)}"
    yield before
    if len(inside) <= WIDTH:
        yield inside
    else:
        yield from (f"{indent}    {part}," for part in parts)
    yield f"{indent}{after}"


@dataclass(frozen=True)
class _Call:
    function: str
    arguments: list[str]


def _call(function: str, arguments: list[str]) -> _Call:
    return _Call(function, arguments)


def _statement(before: str, call: _Call, after: str) -> Iterator[str]:
    """A statement around a call, split where it does not fit."""
    indent = "        "
    text = f"{call.function}({', '.join(call.arguments)})"
    if len(f"{indent}{before}{text}{after}") <= WIDTH:
        yield f"{indent}{before}{text}{after}"
    elif not after:
        yield from _layout(f"{indent}{before}{call.function}(", call.arguments, ")", indent)
    elif len(f"{indent}    {text}") <= WIDTH:
        yield f"{indent}{before}"
        yield f"{indent}    {text}"
        yield f"{indent}{after}"
    else:
        yield f"{indent}{before}"
        yield from _layout(f"{indent}    {call.function}(", call.arguments, ")", indent + "    ")
        yield f"{indent}{after}"


def main(arguments: list[str]) -> int:
    text = Derivation().text()
    if arguments == ["--check"]:
        if TARGET.exists() and TARGET.read_text() == text:
            return 0
        print(f"{TARGET.relative_to(ROOT)} is stale: run python tools/derive_sync.py", file=sys.stderr)
        return 1
    TARGET.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
