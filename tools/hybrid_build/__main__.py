"""`python -m hybrid_build VERB`: the steps of the build one by one, as the Makefile calls them."""

from __future__ import annotations

import sys
from pathlib import Path

from hybrid_build import protos

ROOT = Path(__file__).resolve().parents[2]


def main(arguments: list[str]) -> int:
    match arguments:
        case ["proto"]:
            print(f"{protos.generate(ROOT)} protobuf modules generated")
        case ["descriptors", output]:
            protos.descriptors(ROOT, Path(output))
        case _:
            print("usage: python -m hybrid_build proto | descriptors FILE", file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
