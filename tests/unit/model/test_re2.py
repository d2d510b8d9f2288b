"""Regular expressions mean what they mean in Go (expected values taken from Go's regexp)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from containerd_hybrid.model.re2 import UnsupportedPatternError, compile_re2


@pytest.mark.parametrize(
    ("pattern", "text", "expected"),
    [
        ("^abc$", "abc", True),
        ("^abc$", "abc\n", False),
        ("(?m)^b$", "a\nb\nc", True),
        ("a.c", "a\nc", False),
        ("(?s)a.c", "a\nc", True),
        ("(?i)ABC", "xabc", True),
        ("a(?i)b", "aB", True),
        ("a(?i)b|c", "C", True),
        ("(a(?i)b)c", "aBC", False),
        ("(?i:a)b", "Ab", True),
        ("(?i:a)b", "AB", False),
        ("(?U)a+", "aaa", True),
        (r"\d+", "٣", False),
        (r"\w", "é", False),
        (r"\s", "\v", False),
        (r"[\s]", "\v", False),
        (r"a\z", "a", True),
        (r"a\z", "a\n", False),
        (r"\Aa", "ba", False),
        (r"\Q.*\E", "x.*y", True),
        (r"\Q.*", "x.*y", True),
        (r"[[:alpha:]]+", "123", False),
        (r"^[[:^digit:]]$", "x", None),
        (r"[[:upper:][:digit:]]", "a", False),
        ("[[]", "[", True),
        ("[a&&b]", "&", True),
        ("[]a]", "]", True),
        ("[^]a]", "]", False),
        ("a{2}", "aa", True),
        ("a{2", "a{2", True),
        ("a{,2}", "a{,2}", True),
        ("a{,2}", "aa", False),
        ("(?P<name>a)b", "ab", True),
        ("(?<name>a)b", "ab", True),
        (r"\x41", "A", True),
        (r"\x{1F600}", "\U0001f600", True),
        (r"\101", "A", True),
        (r"\.", "x", False),
        (r"\-", "-", True),
        (r"\b+a", "a", True),
        ("^*a", "ba", True),
        ("a*?b", "aab", True),
        ("", "anything", True),
        ("(?=a)", "a", None),
        ("(?<!a)b", "b", None),
        (r"(a)\1", "aa", None),
        ("a++", "a", None),
        ("a**", "a", None),
        ("(", "", None),
        (")", "", None),
        ("[a", "", None),
        ("*", "", None),
        ("a{1001}", "", None),
        (r"\pL", "a", None),
        (r"\C", "a", None),
        ("\\", "", None),
        ("(?z)", "", None),
        ("(?)", "", None),
        ("[[:nonsense:]]", "", None),
    ],
)
def test_meaning(pattern: str, text: str, expected: bool | None) -> None:
    """None: the pattern is refused, by Go too but for what :mod:`re2`'s docstring names."""
    if expected is None:
        with pytest.raises(UnsupportedPatternError):
            compile_re2(pattern)
    else:
        assert (compile_re2(pattern).search(text) is not None) is expected


@given(st.text(max_size=20))
def test_any_pattern_is_compiled_or_refused(pattern: str) -> None:
    message = repr(pattern)
    try:
        compile_re2(pattern)
    except UnsupportedPatternError as error:
        message = str(error)
    assert repr(pattern) in message


@given(st.text(max_size=20), st.text(max_size=20))
def test_a_quoted_pattern_finds_exactly_its_text(needle: str, hay: str) -> None:
    if "\\E" not in needle:
        assert (compile_re2(f"\\Q{needle}\\E").search(hay) is not None) == (needle in hay)
