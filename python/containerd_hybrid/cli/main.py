"""``hyctl``: global options, and which module has which command.

A command is imported only when it is called, and argparse stands in for anything nicer to write
with: a person waits for this program at every prompt.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

import containerd_hybrid

_MODULES = {
    "image": "image",
    "images": "image",
    "pull": "registry",
    "push": "registry",
    "run": "run",
    "exec": "exec",
    "ps": "ps",
    "inspect": "inspect",
    "kill": "lifecycle",
    "stop": "lifecycle",
    "rm": "lifecycle",
    "events": "events",
    "gc": "gc",
    "adopt": "adopt",
    "fsck": "fsck",
    "config": "config",
    "system": "system",
    "version": "version",
}

_USAGE = """\
hyctl [OPTIONS] COMMAND

Run containers and look after images, through a daemon or without one.

commands:
  run        make a container of an image and run it
  exec       run one more command in a running container
  ps         list containers
  inspect    show all that is known about containers or images
  stop       ask containers to end, and end them
  kill       send a signal
  rm         remove containers
  pull       fetch an image from its registry
  push       send an image to a registry
  image      pull, push, import, ls, rm, tag, export, unpack
  images     the same as image ls
  events     show what happens
  config     explain where a setting, or an image, comes from
  system     info about daemon, kernel, runtimes
  gc         why things are alive, what would go; collect
  fsck       check blobs, layers and metadata, and mend them
  adopt      take over what a containerd of this machine has
  version    show the versions of client and daemon

hyctl COMMAND --help says more."""

# Docker's own codes: a mistake in the command line, or a failure before the container ran.
USAGE_ERROR = 125


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, with Docker's exit code."""

    def error(self, message: str) -> NoReturn:
        if "arguments are required: command" in message:
            message = "no command was given"
        print(f"hyctl: {message}", file=sys.stderr)
        print(f"Run '{self.prog} --help' for what is possible.", file=sys.stderr)
        sys.exit(USAGE_ERROR)


def main(argv: Sequence[str] | None = None) -> int:
    """The program; its exit code."""
    parser = _parser()
    arguments = sys.argv[1:] if argv is None else argv
    if not arguments:
        parser.print_help()
        return 0
    options = parser.parse_args(arguments)
    module = _MODULES.get(options.command)
    if module is None:
        parser.error(f"there is no command {options.command!r}")
    from importlib import import_module

    from containerd_hybrid.cli.failures import report
    from containerd_hybrid.cli.session import Session

    command = import_module(f"containerd_hybrid.cli.{module}")
    session = Session(
        options.address,
        options.namespace,
        options.root,
        options.state,
        in_process=options.in_process,
        tls=(options.tls_ca, options.tls_cert, options.tls_key),
    )
    run: Callable[[str, Sequence[str], Session], int] = command.main
    return report(lambda: run(options.command, options.arguments, session), command.FAILURE)


def _parser() -> Parser:
    parser = Parser(prog="hyctl", usage=_USAGE, add_help=False, allow_abbrev=False)
    parser.add_argument("-h", "--help", action="help", help="show this and exit")
    parser.add_argument(
        "-v", "--version", action="version", version=f"hyctl {containerd_hybrid.__version__}", help="and exit"
    )
    parser.add_argument(
        "-a",
        "--address",
        default=os.environ.get("CONTAINERD_ADDRESS") or containerd_hybrid.DEFAULT_ADDRESS,
        metavar="SOCKET",
        help="of the daemon, or tcp://HOST:PORT (CONTAINERD_ADDRESS; default: %(default)s)",
    )
    for name, what in (("ca", "the authority"), ("cert", "our certificate"), ("key", "its key")):
        variable = f"CONTAINERD_TLS_{name.upper()}"
        parser.add_argument(
            f"--tls-{name}",
            metavar="FILE",
            default=os.environ.get(variable),
            help=f"with tcp://: {what} ({variable})",
        )
    parser.add_argument(
        "-n",
        "--namespace",
        default=os.environ.get("CONTAINERD_NAMESPACE") or containerd_hybrid.DEFAULT_NAMESPACE,
        metavar="NAME",
        help="to work in (CONTAINERD_NAMESPACE; default: %(default)s)",
    )
    parser.add_argument("--in-process", action="store_true", help="without a daemon; needs root")
    parser.add_argument(
        "--root",
        metavar="FOLDER",
        default=containerd_hybrid.DEFAULT_ROOT,
        help="with --in-process: what stays (default: %(default)s)",
    )
    parser.add_argument(
        "--state",
        metavar="FOLDER",
        default=containerd_hybrid.DEFAULT_STATE,
        help="with --in-process: what runs (default: %(default)s)",
    )
    parser.add_argument("command", help=argparse.SUPPRESS)
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    sys.exit(main())
