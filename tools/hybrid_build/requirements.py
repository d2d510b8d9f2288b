"""Prints what an environment for development needs, one requirement a line.

`requirements.py EXTRA...`: the build requirements, the dependencies, and those of the extras named, read from
pyproject.toml without building anything. Runs before the environment has any package.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path
from typing import Any


def requirements(pyproject: dict[str, Any], extras: list[str]) -> list[str]:
    """In order and without repetition; an extra that names extras of the project itself is resolved."""
    project = pyproject["project"]
    own = re.compile(rf"{re.escape(project['name'])}\[([^\]]+)\]$")
    found = [*pyproject["build-system"]["requires"], *project["dependencies"]]
    pending = list(extras)
    while pending:
        for requirement in project["optional-dependencies"][pending.pop(0)]:
            itself = own.match(requirement)
            if itself is None:
                found.append(requirement)
            else:
                pending += itself[1].split(",")
    return list(dict.fromkeys(found))


if __name__ == "__main__":
    text = (Path(__file__).resolve().parents[2] / "pyproject.toml").read_text()
    print("\n".join(requirements(tomllib.loads(text), sys.argv[1:])))
