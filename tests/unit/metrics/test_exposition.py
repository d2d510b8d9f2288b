"""The text format: what a Prometheus reads is what was meant."""

from __future__ import annotations

import math

import pytest
from tests.unit.metrics.kit import parsed

from containerd_hybrid.metrics.api import Family, Sample
from containerd_hybrid.metrics.exposition import exposition, number


def test_a_family_with_its_kind_and_sorted_labels() -> None:
    family = Family("calls_total", "Calls.", "counter", [Sample(3, {"b": "2", "a": "1"}), Sample(0.5)])
    assert exposition([family]) == (
        '# HELP calls_total Calls.\n# TYPE calls_total counter\ncalls_total{a="1",b="2"} 3\ncalls_total 0.5\n'
    )


def test_families_are_in_order_and_empty_ones_are_left_out() -> None:
    families = [
        Family("b", "", "gauge", [Sample(1)]),
        Family("c", "", "gauge", []),
        Family("a", "", "gauge", [Sample(1)]),
    ]
    assert [line.split()[2] for line in exposition(families).splitlines() if "TYPE" in line] == ["a", "b"]


def test_no_name_breaks_out_of_its_label() -> None:
    evil = 'a"} 1\nevil{x="\\'
    text = exposition([Family("m", "two\nlines \\", "gauge", [Sample(1, {"id": evil})])])
    assert text.count("\n") == 3
    ((name, labels),) = parsed(text)
    assert name == "m"
    assert dict(labels)["id"] == 'a\\"} 1\\nevil{x=\\"\\\\'


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (2**64 - 1, "18446744073709551615"),
        (1.0, "1"),
        (0.005, "0.005"),
        (1e300, "1e+300"),
        (math.inf, "+Inf"),
        (-math.inf, "-Inf"),
        (math.nan, "NaN"),
    ],
)
def test_numbers(value: float, text: str) -> None:
    assert number(value) == text
