"""`python -m hybrid_build VERB`: the steps of the build one by one, as the Makefile calls them."""

from __future__ import annotations

import sys
from pathlib import Path

import hybrid_build
from hybrid_build import programs, protos

ROOT = Path(__file__).resolve().parents[2]

USAGE = """\
usage: python -m hybrid_build VERB
  proto                 generate the protobuf modules in the work tree
  native [PROFILE]      build the native module and put it in the work tree
  shim [PROFILE]        build the shim and the OCI runtime and put them in the work tree
  sdist FOLDER          write the source distribution
  descriptors FILE      write a FileDescriptorSet of every .proto file"""


def main(arguments: list[str]) -> int:
    match arguments:
        case ["proto"]:
            print(f"{protos.generate(ROOT)} protobuf modules generated")
        case ["native", *profile]:
            programs.place_native(ROOT, programs.build_native(ROOT, profile=_one(profile)))
        case ["shim", *profile]:
            programs.place_programs(ROOT, programs.build_programs(ROOT, profile=_one(profile)))
        case ["sdist", folder]:
            hybrid_build.build_sdist(folder)
        case ["descriptors", output]:
            protos.descriptors(ROOT, Path(output))
        case _:
            print(USAGE, file=sys.stderr)
            return 2
    return 0


def _one(profile: list[str]) -> str:
    return profile[0] if profile else "release"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
