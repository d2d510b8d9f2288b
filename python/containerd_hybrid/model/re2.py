"""Regular expressions as Go's ``regexp`` reads them (RE2 syntax), compiled by Rust's ``regex``.

Clients of containerd write filters for Go's engine, and both engines take time in proportion to the text:
no pattern of a client can hold a thread, as one that backtracks could. What both can say is translated;
what Go does not know (look-around, back references, possessive repetition) is refused as Go refuses it;
``\\C`` and a repetition of nothing but flags, which only Go takes, are refused too. Only whether a text
matches anywhere is of interest here, so greediness is dropped.
"""

from __future__ import annotations

import re
from typing import Protocol

_POSIX = {
    "alnum": "0-9A-Za-z",
    "alpha": "A-Za-z",
    "ascii": r"\x00-\x7F",
    "blank": r"\t ",
    "cntrl": r"\x00-\x1F\x7F",
    "digit": "0-9",
    "graph": "!-~",
    "lower": "a-z",
    "print": " -~",
    "punct": r"!-/:-@\[-`{-~",
    "space": r"\t\n\v\f\r ",
    "upper": "A-Z",
    "word": "0-9A-Za-z_",
    "xdigit": "0-9A-Fa-f",
}
_SAME_ESCAPES = frozenset("afnrtv")
# Go's are of ASCII, Rust's of Unicode. Inside a class these are classes in the class.
_PERL = {
    "d": "[0-9]",
    "D": "[^0-9]",
    "s": r"[\t\n\f\r ]",
    "S": r"[^\t\n\f\r ]",
    "w": "[0-9A-Za-z_]",
    "W": "[^0-9A-Za-z_]",
}
_UNICODE = re.compile(r"\\([pP])(?:\{(\^?)([A-Z][A-Za-z_]*)\}|(\^?)([A-Z]))")
_FLAGS = re.compile(r"\(\?([imsU]*)(?:-([imsU]+))?([:)])")
_NAMED = re.compile(r"\(\?P?<([A-Za-z_][A-Za-z0-9_]*)>")
_REPEAT = re.compile(r"\{(\d+)(?:,(\d*))?\}")
_MAX_REPEAT = 1000


class UnsupportedPatternError(ValueError):
    """Not a pattern of RE2, or one this translation has no equal for."""


class Matcher(Protocol):
    """A compiled pattern."""

    def matches(self, text: str) -> bool:
        """Whether the text has a match, as Go's ``MatchString`` says."""
        ...


def compile_re2(pattern: str) -> Matcher:
    """Compile a pattern.

    Raises:
        UnsupportedPatternError: the pattern is wrong, too large when compiled, or cannot be translated.
    """
    from containerd_hybrid._native import Pattern

    try:
        return Pattern(_Translator(pattern).translate())
    except UnsupportedPatternError:
        raise
    except ValueError as error:
        raise UnsupportedPatternError(f"regular expression {pattern!r}: {error}") from error


def _literal(text: str) -> str:
    """The text itself, in a class or not: by number where a character could mean something."""
    return "".join(c if c.isascii() and c.isalnum() else f"\\x{{{ord(c):x}}}" for c in text)


class _Translator:
    def __init__(self, pattern: str) -> None:
        self._text = pattern
        self._pos = 0
        self._out: list[str] = []
        # For each open group: what was before it of the two below.
        self._open: list[tuple[list[str], bool]] = []
        # Flags set in the middle of this group, which hold to its end, in a group for each.
        self._flags: list[str] = []
        self._multiline = False
        self._repeated = False  # the last thing was a repetition

    def translate(self) -> str:
        while self._pos < len(self._text):
            self._next()
        if self._open:
            raise self._error("missing closing )")
        self._out.append(")" * len(self._flags))
        return "".join(self._out)

    def _error(self, message: str) -> UnsupportedPatternError:
        return UnsupportedPatternError(f"regular expression {self._text!r}: {message}")

    def _next(self) -> None:
        char = self._text[self._pos]
        was_repeated, self._repeated = self._repeated, False
        if char == "\\":
            self._escape()
        elif char == "[":
            self._class()
        elif char == "(":
            self._group()
        elif char == ")":
            self._close()
        elif char in "*+?" or (char == "{" and _REPEAT.match(self._text, self._pos)):
            self._repeat(was_repeated)
        elif char == "{":
            self._emit(r"\{", 1)
        elif char == "$":
            self._emit("(?m:$)" if self._multiline else r"(?:\z)", 1)
        elif char == "^":
            self._emit("(?:^)", 1)
        elif char == "|":
            self._emit(")" * len(self._flags) + "|" + "".join(self._flags), 1)
        else:
            self._emit(char, 1)

    def _emit(self, text: str, consumed: int) -> None:
        self._out.append(text)
        self._pos += consumed

    def _escape(self) -> None:
        if self._pos + 1 == len(self._text):
            raise self._error("trailing backslash at end of expression")
        char = self._text[self._pos + 1]
        if char == "Q":
            end = self._text.find("\\E", self._pos + 2)
            end = len(self._text) if end < 0 else end
            literal = self._text[self._pos + 2 : end]
            self._emit(_literal(literal), end + 2 - self._pos)
        elif char in "AbBz":
            # In a group, because Go lets an anchor be repeated.
            self._emit(f"(?-u:\\{char})" if char in "bB" else f"(?:\\{char})", 2)
        elif char in "pP":
            self._unicode_class()
        else:
            self._out.append(self._common_escape())

    def _common_escape(self) -> str:
        """An escape that means the same in and out of a class; moves behind it."""
        char = self._text[self._pos + 1]
        if char in _SAME_ESCAPES:
            self._pos += 2
            return "\\" + char
        if char in _PERL:
            self._pos += 2
            return _PERL[char]
        if char == "x":
            return self._hex()
        if char in "01234567":
            digits = re.compile(r"[0-7]{1,3}").match(self._text, self._pos + 1)
            assert digits is not None
            if char != "0" and len(digits[0]) == 1:
                raise self._error(f"invalid escape sequence: \\{char}")
            self._pos = digits.end()
            return _literal(chr(int(digits[0], 8)))
        if char.isascii() and not char.isalnum():
            self._pos += 2
            return _literal(char)
        raise self._error(f"invalid escape sequence: \\{char}")

    def _hex(self) -> str:
        match = re.compile(r"\\x(?:([0-9A-Fa-f]{2})|\{([0-9A-Fa-f]{1,8})\})").match(self._text, self._pos)
        value = int(match[1] or match[2], 16) if match else 0x110000
        if match is None or value > 0x10FFFF:
            raise self._error("invalid escape sequence: \\x")
        self._pos = match.end()
        return _literal(chr(value))

    def _class(self) -> None:
        self._emit("[", 1)
        if self._text.startswith("^", self._pos):
            self._emit("^", 1)
        first = True
        while True:
            if self._pos >= len(self._text):
                raise self._error("missing closing ]")
            char = self._text[self._pos]
            if char == "]" and not first:
                self._emit("]", 1)
                return
            first = False
            if not self._class_of_characters():
                self._class_range()

    def _class_of_characters(self) -> bool:
        """A class inside of the class, if there is one here."""
        posix = re.compile(r"\[:(\^?)(\w+):\]").match(self._text, self._pos)
        if posix:
            if posix[2] not in _POSIX:
                raise self._error(f"invalid character class range: {posix[0]}")
            self._emit(f"[{posix[1]}{_POSIX[posix[2]]}]", len(posix[0]))
            return True
        following = self._text[self._pos + 1 : self._pos + 2] if self._text[self._pos] == "\\" else ""
        if following in _PERL:
            self._emit(_PERL[following], 2)
        elif following in ("p", "P"):
            self._unicode_class()
        return following in (*_PERL, "p", "P") and following != ""

    def _unicode_class(self) -> None:
        """``\\pN``, ``\\p{Greek}``, and their opposites ``\\PN`` and ``\\p{^Greek}``."""
        match = _UNICODE.match(self._text, self._pos)
        if match is None:
            raise self._error("invalid character class range: \\p")
        opposite = (match[1] == "P") != bool(match[2] or match[4])
        self._emit(f"\\{'P' if opposite else 'p'}{{{match[3] or match[5]}}}", len(match[0]))

    def _class_range(self) -> None:
        """One character, or two and a dash. Any other dash is one, and to Rust two would be an operator."""
        self._class_character()
        dash = self._text[self._pos : self._pos + 2]
        if dash.startswith("-") and dash not in ("-", "-]"):
            self._emit("-", 1)
            self._class_character()

    def _class_character(self) -> None:
        char = self._text[self._pos]
        if char == "\\" and self._pos + 1 < len(self._text):
            self._out.append(self._common_escape())
        else:
            self._emit(_literal(char), 1)

    def _group(self) -> None:
        flags = _FLAGS.match(self._text, self._pos)
        named = _NAMED.match(self._text, self._pos)
        if flags:
            if not flags[1] and not flags[2] and flags[3] == ")":
                raise self._error("missing argument to repetition operator: ?")
            added, removed = flags[1].replace("U", ""), (flags[2] or "").replace("U", "")
            prefix = f"(?{added}{'-' + removed if removed else ''}:"
            scoped = flags[3] == ":"
            if scoped:
                self._open.append((self._flags, self._multiline))
                self._flags = []
            else:
                self._flags.append(prefix)
            self._multiline = ("m" in flags[1]) or (self._multiline and "m" not in (flags[2] or ""))
            self._emit(prefix, len(flags[0]))
        elif named:
            self._open_group(named[0], "(")
        elif self._text.startswith("(?", self._pos):
            raise self._error("invalid or unsupported Perl syntax: (?")
        else:
            self._open_group("(", "(")

    def _open_group(self, consumed: str, emitted: str) -> None:
        self._open.append((self._flags, self._multiline))
        self._flags = []
        self._emit(emitted, len(consumed))

    def _close(self) -> None:
        if not self._open:
            raise self._error("unexpected )")
        inner = len(self._flags)
        self._flags, self._multiline = self._open.pop()
        self._emit(")" * (inner + 1), 1)

    def _repeat(self, was_repeated: bool) -> None:
        if was_repeated:
            raise self._error("invalid nested repetition operator")
        count = _REPEAT.match(self._text, self._pos)
        text = count[0] if count else self._text[self._pos]
        if count and max(int(count[1]), int(count[2] or 0)) > _MAX_REPEAT:
            raise self._error(f"invalid repeat count: {text}")
        self._emit(text, len(text))
        if self._text.startswith("?", self._pos):
            self._pos += 1  # lazy or greedy: whether it matches is the same
        self._repeated = True
