"""Regular expressions mean what they mean in Go (expected values taken from Go's regexp)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from containerd_hybrid.model.filters import Filters
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
        (r"^[[:^digit:]]$", "x", True),
        (r"^[[:^digit:]]$", "1", False),
        (r"^[[:^digit:]1]$", "1", True),
        (r"[\S]", " ", False),
        (r"[\S ]", " ", True),
        (r"^\pL$", "é", True),
        (r"^\PL$", "é", False),
        (r"\p{Greek}", "λ", True),
        (r"\p{^Greek}", "λ", False),
        (r"[\p{Greek}\pN]", "7", True),
        (r"\p{Nonsense}", "", None),
        (r"\p{", "", None),
        (r"[[:upper:][:digit:]]", "a", False),
        ("[[]", "[", True),
        ("[a&&b]", "&", True),
        ("[]a]", "]", True),
        ("[^]a]", "]", False),
        ("[+--]", "-", True),
        ("[+--]", ",", True),
        ("[a-c--z]", "x", True),
        ("[a~~b]", "~", True),
        ("[a-]", "-", True),
        (r"[\d-x]", "-", True),
        (r"[\w&&\d]", "&", True),
        (r"[^\W]", "é", False),
        (r"\Bb", "ab", True),
        (r"\Bb", "éb", False),
        (r"^.$", "é", True),
        ("(?i)k", "\u212a", True),
        ("#a b", "#a b", True),
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
        assert compile_re2(pattern).matches(text) is expected


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
        assert compile_re2(f"\\Q{needle}\\E").matches(hay) == (needle in hay)


HOSTILE = ["(a+)+$", "^(a|a)*$", "(a|aa)+$", "(.*)*b", "(a?){500}a{500}$", "(?:a{0,30}){0,30}b"]


@pytest.mark.parametrize("pattern", HOSTILE)
def test_a_pattern_made_to_backtrack_for_ever_is_answered(pattern: str) -> None:
    """An engine that backtracks would be at this for longer than anybody waits."""
    assert compile_re2(pattern).matches("a" * 4096 + "!") is False


def test_a_pattern_that_would_need_much_memory_is_refused() -> None:
    with pytest.raises(UnsupportedPatternError, match="size"):
        compile_re2("((a{100}){100}){100}")


def test_text_that_is_no_text_matches_nothing() -> None:
    assert Filters.parse([r'name~="."']).match(lambda path: "\udc80") is False
