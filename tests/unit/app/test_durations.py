"""Go durations: read and written as Go does."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from containerd_hybrid.app.config.durations import Duration
from containerd_hybrid.errors import InvalidArgumentError

CANONICAL = {
    "0s": 0,
    "1ns": 1e-9,
    "1.1µs": 1.1e-6,
    "2.2ms": 2.2e-3,
    "3.3s": 3.3,
    "1m0s": 60,
    "4m5s": 245,
    "4m5.001s": 245.001,
    "5h6m7.001s": 18367.001,
    "4h0m0s": 14400,
    "-1m30s": -90,
}


@pytest.mark.parametrize(("text", "seconds"), CANONICAL.items())
def test_canonical_forms_go_there_and_back(text: str, seconds: float) -> None:
    assert Duration.parse(text) == pytest.approx(seconds)
    assert str(Duration.parse(text)) == text


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("0", "0s"),
        ("+5s", "5s"),
        ("1.5h", "1h30m0s"),
        (".5s", "500ms"),
        ("90s", "1m30s"),
        ("1us", "1µs"),
        ("1h1h", "2h0m0s"),
    ],
)
def test_other_forms(text: str, canonical: str) -> None:
    assert str(Duration.parse(text)) == canonical


@pytest.mark.parametrize(
    "text", ["", "1", "s", "1x", "1s ", "-", "-+1s", "1 s", "1e3s", "9999999999h", "--1s"]
)
def test_what_go_refuses(text: str) -> None:
    with pytest.raises(InvalidArgumentError, match="invalid duration"):
        Duration.parse(text)


@given(st.integers(-(10**15), 10**15))
def test_microseconds_survive(microseconds: int) -> None:
    duration = Duration(microseconds / 10**6)
    assert round(Duration.parse(str(duration)) * 10**6) == microseconds
