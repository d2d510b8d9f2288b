r"""Filters: which objects of a list a client wants (containerd's ``pkg/filters``).

Grammar::

    filter    = [ selector *( "," selector ) ]      every selector must hold; empty holds always
    selector  = fieldpath [ operator value ]        without an operator: the field is present
    fieldpath = field *( "." field )
    field     = quoted / 1*( letter / digit / "_" ) a quoted field may have dots and anything else
    operator  = "==" / "!=" / "~="                  ~= searches for a regular expression
    value     = quoted / 1*( any but "," and space )
    quoted    = '"' Go string '"'                   for ~= also between / / or | |

Several filters are alternatives: one of them must hold. A field that is absent equals ``""`` for ``!=``
and ``~=``. A regular expression that does not compile matches nothing, as in containerd.

Parsing happens once; the result is a frozen value whose :meth:`Filters.match` takes a look-up from field
path to value.
"""

from __future__ import annotations

import enum
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from containerd_hybrid.errors import InvalidFilterError
from containerd_hybrid.model.identifiers import quoted
from containerd_hybrid.model.re2 import Matcher, UnsupportedPatternError, compile_re2

FieldLookup = Callable[[tuple[str, ...]], str | None]
"""The value at a field path; None when the field is absent, which ``""`` need not be."""

log = logging.getLogger(__name__)


class Operator(enum.Enum):
    """How a selector compares."""

    PRESENT = ""
    EQUAL = "=="
    NOT_EQUAL = "!="
    MATCHES = "~="


@dataclass(frozen=True, slots=True)
class Selector:
    """One comparison. ``pattern`` is the compiled value of ``~=``, None when it does not compile."""

    fieldpath: tuple[str, ...]
    operator: Operator = Operator.PRESENT
    value: str = ""
    pattern: Matcher | None = None

    def match(self, lookup: FieldLookup) -> bool:
        """Whether the comparison holds for an object."""
        value = lookup(self.fieldpath)
        match self.operator:
            case Operator.PRESENT:
                return value is not None
            case Operator.EQUAL:
                return value is not None and value == self.value
            case Operator.NOT_EQUAL:
                return (value or "") != self.value
            case Operator.MATCHES:
                return self.pattern is not None and self.pattern.matches(value or "")


@dataclass(frozen=True, slots=True)
class Filters:
    """Alternatives, each a conjunction of selectors; without alternatives everything matches."""

    alternatives: tuple[tuple[Selector, ...], ...] = ()

    @classmethod
    def parse(cls, filters: Sequence[str]) -> Filters:
        """Parse what a request has in its ``filters``.

        Raises:
            InvalidFilterError: names the filter and marks the place.
        """
        return cls(tuple(_Parser(text).parse() if text else () for text in filters))

    def match(self, lookup: FieldLookup) -> bool:
        """Whether one of the filters holds for an object."""
        if not self.alternatives:
            return True
        return any(all(selector.match(lookup) for selector in choice) for choice in self.alternatives)

    @property
    def always(self) -> bool:
        """Whether everything matches, so that nobody need look."""
        return not self.alternatives or () in self.alternatives

    def exact(self, *fieldpath: str) -> frozenset[str] | None:
        """The only values ``fieldpath`` can have in a match, when each alternative has it in an ``==``.

        For turning a list into a look-up by key; None when the filters do not bind the field.
        """
        values = set()
        for choice in self.alternatives:
            bound = {s.value for s in choice if s.operator is Operator.EQUAL and s.fieldpath == fieldpath}
            if not bound:
                return None
            values |= bound
        return frozenset(values) if values else None


def map_value(fieldpath: tuple[str, ...], values: Mapping[str, str]) -> str | None:
    """The value of ``labels.a.b`` and the like: the path behind the field's own name, joined by dots."""
    return values.get(".".join(fieldpath[1:]))


class _Kind(enum.Enum):
    END = "end"
    QUOTED = "quoted"
    VALUE = "value"
    FIELD = "field"
    SEPARATOR = "separator"
    OPERATOR = "operator"
    ILLEGAL = "illegal"
    OTHER = "other"


_FIELD = re.compile(r"[A-Za-z0-9_]+")
_OPERATOR = re.compile(r"[=!~]+")
# Go's unicode.IsSpace; Python's str.isspace has the control characters 1C to 1F too.
_SPACES = frozenset(
    "\t\n\v\f\r \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
    "\u2028\u2029\u202f\u205f\u3000"
)
_SIMPLE_ESCAPES = {
    "a": b"\a",
    "b": b"\b",
    "f": b"\f",
    "n": b"\n",
    "r": b"\r",
    "t": b"\t",
    "v": b"\v",
    "\\": b"\\",
}
_NUMBERS = {"x": 2, "u": 4, "U": 8}
_OCTAL = "01234567"
_HEX = "0123456789abcdefABCDEF"


class _Parser:
    def __init__(self, text: str) -> None:
        self._text = text
        self._pos = 0
        self._value_next = False
        self._problem = ""

    def parse(self) -> tuple[Selector, ...]:
        selectors = [self._selector()]
        while self._pos < len(self._text):
            if self._text[self._pos] != ",":
                raise self._error(self._pos, f"unexpected input: {self._text[self._pos]}")
            self._pos += 1
            self._value_next = False
            selectors.append(self._selector())
        return tuple(selectors)

    def _error(self, position: int, message: str) -> InvalidFilterError:
        text = self._text
        where = text
        if position < len(text):
            where = f"{text[:position]} >|{text[position]}|< {text[position + 1 :]}"
        return InvalidFilterError(f"filters: parse error: [{where}]: {message}: invalid argument")

    def _selector(self) -> Selector:
        path = [self._field()]
        while self._text.startswith(".", self._pos):
            self._pos += 1
            self._value_next = False
            path.append(self._field())
        fieldpath = tuple(path)
        if self._pos == len(self._text) or self._text[self._pos] == ",":
            return Selector(fieldpath)
        operator = self._operator()
        value = self._value(alternative_quotes=operator is Operator.MATCHES)
        if operator is not Operator.MATCHES:
            return Selector(fieldpath, operator, value)
        try:
            return Selector(fieldpath, operator, value, compile_re2(value))
        except UnsupportedPatternError as error:
            log.warning("a filter matches nothing: %s", error)
            return Selector(fieldpath, operator, value)

    def _field(self) -> str:
        position, kind, text = self._scan()
        if kind is _Kind.FIELD:
            return text
        if kind is _Kind.QUOTED:
            return self._unquote(position, text, alternative_quotes=False)
        raise self._error(position, self._problem if kind is _Kind.ILLEGAL else "expected field or quoted")

    def _operator(self) -> Operator:
        position, kind, text = self._scan()
        if kind is _Kind.ILLEGAL:
            raise self._error(position, self._problem)
        if kind is not _Kind.OPERATOR:
            raise self._error(position, 'expected an operator ("=="|"!="|"~=")')
        try:
            return Operator(text)
        except ValueError:
            raise self._error(position, f"unsupported operator {quoted(text)}") from None

    def _value(self, *, alternative_quotes: bool) -> str:
        position, kind, text = self._scan()
        if kind in (_Kind.VALUE, _Kind.FIELD):
            return text
        if kind is _Kind.QUOTED:
            return self._unquote(position, text, alternative_quotes=alternative_quotes)
        raise self._error(position, self._problem if kind is _Kind.ILLEGAL else "expected value or quoted")

    def _scan(self) -> tuple[int, _Kind, str]:
        """The next token, its place and its text. Behind an operator a value may have nearly anything."""
        while self._pos < len(self._text) and self._text[self._pos] in _SPACES:
            self._pos += 1
        start = self._pos
        if start == len(self._text):
            return start, _Kind.END, ""
        char = self._text[start]
        if _illegal(char):
            return self._give_up(start, _problem_of(char))
        if char in '/|"':
            return self._scan_quoted(start)
        if char in ",.":
            self._pos += 1
            self._value_next = False
            return start, _Kind.SEPARATOR, char
        if operator := _OPERATOR.match(self._text, start):
            self._value_next = True
            return self._token(_Kind.OPERATOR, start, operator.end())
        if self._value_next:
            end = start + 1
            while end < len(self._text) and _in_value(self._text[end]):
                end += 1
            self._value_next = False
            return self._token(_Kind.VALUE, start, end)
        if field := _FIELD.match(self._text, start):
            return self._token(_Kind.FIELD, start, field.end())
        self._pos += 1
        return start, _Kind.OTHER, char

    def _token(self, kind: _Kind, start: int, end: int) -> tuple[int, _Kind, str]:
        self._pos = end
        return start, kind, self._text[start:end]

    def _give_up(self, start: int, problem: str) -> tuple[int, _Kind, str]:
        self._problem = problem
        return start, _Kind.ILLEGAL, ""

    def _scan_quoted(self, start: int) -> tuple[int, _Kind, str]:
        quote = self._text[start]
        position = start + 1
        while position < len(self._text) and self._text[position] != quote:
            char = self._text[position]
            if _illegal(char):
                return self._give_up(start, _problem_of(char))
            if char == "\n":
                break
            if char != "\\":
                position += 1
                continue
            length, problem = self._escape_length(position + 1, quote)
            if problem:
                return self._give_up(start, problem)
            position += 1 + length
        if position >= len(self._text) or self._text[position] != quote:
            return self._give_up(start, "quoted literal not terminated")
        return self._token(_Kind.QUOTED, start, position + 1)

    def _escape_length(self, position: int, quote: str) -> tuple[int, str]:
        """How many characters an escape has behind its backslash, and what is wrong with it."""
        char = self._text[position : position + 1]
        if char and (char in _SIMPLE_ESCAPES or char == quote):
            return 1, ""
        if char and char in _OCTAL:
            skip, digits, wanted = 0, _OCTAL, 3
        elif char in _NUMBERS:
            skip, digits, wanted = 1, _HEX, _NUMBERS[char]
        else:
            return 0, _problem_of(char) if _illegal(char) else "illegal escape sequence"
        number = self._text[position + skip : position + skip + wanted]
        for index in range(wanted):
            if index >= len(number) or number[index] not in digits:
                if index < len(number) and _illegal(number[index]):
                    return 0, _problem_of(number[index])
                return 0, "illegal numeric escape sequence"
        return skip + wanted, ""

    def _unquote(self, position: int, literal: str, *, alternative_quotes: bool) -> str:
        if literal[0] != '"' and not alternative_quotes:
            raise self._error(position, "invalid quote encountered")
        # An escape may give one byte of a longer character, so the text is put together from bytes.
        result = bytearray()
        body = literal[1:-1]
        index = 0
        while index < len(body):
            char = body[index]
            if char != "\\":
                result += char.encode(errors="surrogateescape")
                index += 1
                continue
            length, _ = self._escape_length(position + 1 + index + 1, literal[0])
            escape = body[index + 1 : index + 1 + length]
            index += 1 + length
            value = _escaped(escape)
            if value is None:
                raise self._error(position, "unquoting failed: quote syntax error")
            result += value
        return result.decode(errors="surrogateescape")


def _escaped(escape: str) -> bytes | None:
    """The bytes an escape stands for; None when its number is too large."""
    if escape in _SIMPLE_ESCAPES:
        return _SIMPLE_ESCAPES[escape]
    kind = escape[0]
    if kind in _OCTAL:
        value = int(escape, 8)
        return bytes((value,)) if value <= 0xFF else None
    if kind not in _NUMBERS:
        return kind.encode()  # the quote itself
    value = int(escape[1:], 16)
    if kind == "x":
        return bytes((value,))
    if value > 0x10FFFF:
        return None
    return chr(value).encode() if not 0xD800 <= value <= 0xDFFF else "\ufffd".encode()


def _illegal(char: str) -> bool:
    # Surrogates stand for bytes that were no UTF-8, which Go turns into U+FFFD and cannot tell from it.
    return bool(char) and (char in "\0\ufffd" or "\ud800" <= char <= "\udfff")


def _problem_of(char: str) -> str:
    return "unexpected null" if char == "\0" else "rune error"


def _in_value(char: str) -> bool:
    return char.isprintable() and char not in ", \ufffd"
