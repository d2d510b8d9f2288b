"""The text format of Prometheus, version 0.0.4.

Written here and not by the ``prometheus_client`` package, because importing that one installs collectors
and garbage collector hooks in a registry of the whole process, which a library must not do to its user.
Source: Prometheus documentation, "Exposition formats".
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping

from containerd_hybrid.metrics.api import Family

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def exposition(families: Iterable[Family]) -> str:
    """The families as text, by name, each one's samples in the order given."""
    return "".join(_lines(sorted(families, key=lambda family: family.name)))


def _lines(families: Iterable[Family]) -> Iterator[str]:
    for family in families:
        if not family.samples:
            continue
        what = family.help.replace("\\", "\\\\").replace("\n", "\\n")
        yield f"# HELP {family.name} {what}\n# TYPE {family.name} {family.kind}\n"
        for sample in family.samples:
            yield f"{family.name}{sample.suffix}{_labels(sample.labels)} {number(sample.value)}\n"


def number(value: float) -> str:
    """A number as the format has it: whole ones without a point, ``+Inf``, ``NaN``."""
    if isinstance(value, int):
        return str(value)
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return repr(value).removesuffix(".0")


def _labels(labels: Mapping[str, str]) -> str:
    if not labels:
        return ""
    return "{" + ",".join(f'{name}="{_escaped(value)}"' for name, value in sorted(labels.items())) + "}"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
