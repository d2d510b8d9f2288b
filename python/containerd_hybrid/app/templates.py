"""The part of Go's text/template that an OCI hook's arguments use.

Actions in ``{{ }}`` with ``-`` for trimming: comments, pipelines of function calls over strings,
numbers and booleans with parentheses, and ``if`` / ``else if`` / ``else`` / ``end``. Go's ``and``,
``or``, ``not``, ``eq``, ``ne``, ``len``, ``print``, ``println``, ``printf`` are there besides the
caller's functions. What is not understood is an error, never left as it is.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from containerd_hybrid.errors import InvalidArgumentError

Value: TypeAlias = str | int | bool
Function: TypeAlias = Callable[..., Any]

_ACTION = re.compile(r"\{\{(- )?(/\*.*?\*/|(?:\"(?:\\.|[^\"\\])*\"|`[^`]*`|(?!\}\}).)*?)( -)?\}\}", re.DOTALL)
_TOKEN = re.compile(r"\s*(?:(\"(?:\\.|[^\"\\])*\")|(`[^`]*`)|(-?\d+)|([A-Za-z_]\w*)|([()|]))")
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "\\": "\\", '"': '"', "'": "'"}
_VERB = re.compile(r"%[-+# 0]*\d*(?:\.\d+)?([a-zA-Z%])")


def render(text: str, functions: Mapping[str, Function]) -> str:
    """The text with its actions replaced by what they give.

    Raises:
        InvalidArgumentError: an action cannot be understood or calls what is not there.
    """
    if "{{" not in text:
        return text
    nodes = _Parser(text).parse()
    return "".join(_execute(nodes, {**_BUILTINS, **functions}))


@dataclass(slots=True)
class _Pipeline:
    """``calls`` are applied one after the other, each to the result of the one before."""

    calls: list[list[Any]]


@dataclass(slots=True)
class _If:
    condition: _Pipeline
    then: list[Any] = field(default_factory=list)
    otherwise: list[Any] = field(default_factory=list)


class _Name(str):
    """A function's name, in contrast to a string."""

    __slots__ = ()


class _Parser:
    def __init__(self, text: str) -> None:
        self._pieces = list(_pieces(text))
        self._next = 0

    def parse(self) -> list[Any]:
        nodes, end = self._block()
        if end:
            raise InvalidArgumentError(f"template: unexpected {{{{{end}}}}}")
        return nodes

    def _block(self) -> tuple[list[Any], str]:
        """Nodes up to an ``end`` or ``else``, and that one's text."""
        nodes: list[Any] = []
        while self._next < len(self._pieces):
            literal, action = self._pieces[self._next]
            self._next += 1
            if action is None:
                nodes.append(literal)
            elif action == "end" or action.split()[:1] == ["else"]:
                return nodes, action
            elif action.split()[:1] == ["if"]:
                nodes.append(self._if(action.removeprefix("if")))
            elif action and not action.startswith("/*"):
                nodes.append(_pipeline(action))
        return nodes, ""

    def _if(self, condition: str) -> _If:
        node = _If(_pipeline(condition))
        node.then, end = self._block()
        if end.split()[:2] == ["else", "if"]:
            node.otherwise = [self._if(end.removeprefix("else").strip().removeprefix("if"))]
            return node
        if end == "else":
            node.otherwise, end = self._block()
        if end != "end":
            raise InvalidArgumentError("template: {{if}} without {{end}}")
        return node


def _pieces(text: str) -> Iterator[tuple[str, str | None]]:
    """Literal text and actions, in turn, with the trimming done."""
    position, trim = 0, False
    for match in _ACTION.finditer(text):
        literal = text[position : match.start()]
        literal = literal.lstrip() if trim else literal
        yield (literal.rstrip() if match[1] else literal), None
        yield "", match[2].strip()
        position, trim = match.end(), bool(match[3])
    rest = text[position:]
    if "{{" in rest:
        raise InvalidArgumentError(f"template: unclosed action in {text!r}")
    yield (rest.lstrip() if trim else rest), None


def _pipeline(text: str) -> _Pipeline:
    tokens = list(_tokens(text))
    calls, rest = _calls(tokens)
    if rest:
        raise InvalidArgumentError(f"template: unexpected {rest[0]!r} in {{{{{text}}}}}")
    return _Pipeline(calls)


def _tokens(text: str) -> Iterator[Any]:
    position = 0
    while text[position:].strip():
        match = _TOKEN.match(text, position)
        if match is None:
            raise InvalidArgumentError(f"template: {{{{{text}}}}} is not understood")
        quoted, raw, number, name, mark = match.groups()
        if quoted is not None:
            yield "text", _ESCAPE.sub(lambda m: _ESCAPES.get(m[1], m[0]), quoted[1:-1])
        elif raw is not None:
            yield "text", raw[1:-1]
        elif number is not None:
            yield "number", int(number)
        elif name is not None:
            yield "name", name
        else:
            yield mark, mark
        position = match.end()


def _calls(tokens: list[Any]) -> tuple[list[list[Any]], list[Any]]:
    calls: list[list[Any]] = [[]]
    while tokens:
        kind, value = tokens[0]
        if kind == ")":
            break
        tokens = tokens[1:]
        if kind == "|":
            calls.append([])
        elif kind == "(":
            inner, tokens = _calls(tokens)
            if not tokens:
                raise InvalidArgumentError("template: unclosed parenthesis")
            tokens = tokens[1:]
            calls[-1].append(_Pipeline(inner))
        elif kind == "name" and value in {"true", "false"}:
            calls[-1].append(value == "true")
        else:
            calls[-1].append(_Name(value) if kind == "name" else value)
    if not all(calls):
        raise InvalidArgumentError("template: missing value for command")
    return calls, tokens


def _execute(nodes: list[Any], functions: Mapping[str, Function]) -> Iterator[str]:
    for node in nodes:
        match node:
            case str():
                yield node
            case _If():
                chosen = node.then if _evaluate(node.condition, functions) else node.otherwise
                yield from _execute(chosen, functions)
            case _Pipeline():
                yield _shown(_evaluate(node, functions))


def _evaluate(pipeline: _Pipeline, functions: Mapping[str, Function]) -> Any:
    piped: list[Any] = []
    for head, *arguments in pipeline.calls:
        values = [_argument(argument, functions) for argument in arguments]
        if isinstance(head, _Name):
            result = _call(head, [*values, *piped], functions)
        elif values or piped:
            raise InvalidArgumentError(f"template: {head!r} is no function")
        else:
            result = _argument(head, functions)
        piped = [result]
    return piped[0]


def _argument(argument: Any, functions: Mapping[str, Function]) -> Any:
    if isinstance(argument, _Pipeline):
        return _evaluate(argument, functions)
    return _call(argument, [], functions) if isinstance(argument, _Name) else argument


def _call(name: str, values: list[Any], functions: Mapping[str, Function]) -> Any:
    function = functions.get(name)
    if function is None:
        raise InvalidArgumentError(f"template: function {name!r} not defined")
    try:
        return function(*values)
    except TypeError as error:
        raise InvalidArgumentError(f"template: {name}: {error}") from None


def _shown(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _print(*values: Any) -> str:
    """Go puts a space between operands when neither is a string."""
    text, previous = "", None
    for value in values:
        if previous is not None and not isinstance(previous, str) and not isinstance(value, str):
            text += " "
        text, previous = text + _shown(value), value
    return text


def _printf(form: str, *values: Any) -> str:
    left = list(values)

    def verb(match: re.Match[str]) -> str:
        if match[1] == "%":
            return "%"
        if not left:
            raise TypeError("too few arguments")
        value = left.pop(0)
        if match[1] in "sv":
            return str(match[0][:-1] + "s") % _shown(value)
        if match[1] == "q":
            return '"' + _shown(value).replace("\\", "\\\\").replace('"', '\\"') + '"'
        if match[1] in "dxXo" and isinstance(value, int):
            return str(match[0]) % value
        raise TypeError(f"{match[0]} does not fit {value!r}")

    text = _VERB.sub(verb, form)
    if left:
        raise TypeError("too many arguments")
    return text


def _first(values: tuple[Any, ...], *, truth: bool) -> Any:
    for value in values:
        if bool(value) is truth:
            return value
    return values[-1]


_BUILTINS: dict[str, Function] = {
    "and": lambda *values: _first(values, truth=False),
    "or": lambda *values: _first(values, truth=True),
    "not": lambda value: not value,
    "eq": lambda first, *others: first in others,
    "ne": lambda first, second: first != second,
    "len": len,
    "print": _print,
    "println": lambda *values: " ".join(map(_shown, values)) + "\n",
    "printf": _printf,
}
