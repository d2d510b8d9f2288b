"""The program ``containerd-hybrid``: containerd's flags, commands and exit codes."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from containerd_hybrid import __version__
from containerd_hybrid.app.config.model import DEFAULT_ADDRESS, DEFAULT_FILE
from containerd_hybrid.app.flags import Flag, Parsed, UsageError, describe, parse
from containerd_hybrid.errors import HybridError

if TYPE_CHECKING:
    from containerd_hybrid.app.configuration import Options

NAME = "containerd-hybrid"

CONFIG = Flag("config", "Path to the configuration file", ("c",), value="FILE", default=DEFAULT_FILE)
LOG_LEVEL = Flag(
    "log-level",
    "Set the logging level [trace, debug, info, warn, error, fatal, panic]",
    ("l",),
    value="LEVEL",
)
ADDRESS = Flag("address", "Address for the GRPC server", ("a",), value="PATH")
ROOT = Flag("root", "Root directory, for what must survive a reboot", value="DIR")
STATE = Flag("state", "State directory, for what need not", value="DIR")
HELP = Flag("help", "Show help", ("h",))
VERSION = Flag("version", "Print the version", ("v",))
FLAGS = (CONFIG, LOG_LEVEL, ADDRESS, ROOT, STATE, HELP, VERSION)

NAMESPACE = Flag("namespace", "Namespace to publish to", value="NAME")
TOPIC = Flag("topic", "Topic of the event", value="TOPIC")

_NO_SUCH_COMMAND = 3
_INTERRUPTED = 130
_SWITCH_SECONDS = 0.0005


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; its exit code."""
    started = time.monotonic()
    try:
        return _run(sys.argv[1:] if arguments is None else arguments, started)
    except UsageError as error:
        _print(f"Incorrect Usage: {error}\n\n{_usage()}")
        _complain(str(error))
    except HybridError as error:
        _complain(error.message)
    except KeyboardInterrupt:
        return _INTERRUPTED
    except OSError as error:
        _complain(str(error))
    return 1


def _run(arguments: Sequence[str], started: float) -> int:
    parsed = parse(arguments, FLAGS)
    if parsed.on(VERSION):
        _print(f"{NAME} containerd_hybrid {__version__} {_revision()}")
        return 0
    if parsed.on(HELP):
        _print(_usage())
        return 0
    if not parsed.rest:
        _serve(parsed, started)
        return 0
    name, *rest = parsed.rest
    command = _COMMANDS.get(name)
    if command is None:
        _complain(f"No help topic for '{name}'")
        return _NO_SUCH_COMMAND
    return command(parsed, rest)


def _serve(parsed: Parsed, started: float) -> None:
    import gc

    from containerd_hybrid._native import keep_memory_low
    from containerd_hybrid.app import logs, process

    # Nothing that a start makes is garbage; the daemon enables it when it serves.
    gc.disable()
    # Threads that read have little to do between two system calls, after each of which they want the
    # interpreter back from the event loop; on a busy machine they would wait five milliseconds each time.
    sys.setswitchinterval(_SWITCH_SECONDS)
    process.shed_inheritance()
    keep_memory_low()
    import asyncio
    import logging

    from containerd_hybrid.app import configuration, daemon
    from containerd_hybrid.app.builtins import builtins
    from containerd_hybrid.app.builtins.proxies import essential, with_proxies

    plugins = builtins()
    options = _options(parsed)
    explainer = configuration.load_explained(options, plugins)
    config = explainer.config
    logs.configure(config.debug.level, config.debug.format, trace_ids=config.debug.log_trace_id)
    configuration.warn([(message, dict(fields)) for message, fields in explainer.warnings])
    daemon.prepare(config)
    logging.getLogger(__name__).info(
        "starting containerd-hybrid", extra={"version": __version__, "revision": _revision()}
    )

    async def run() -> None:
        await daemon.Daemon(
            config,
            with_proxies(plugins, config.proxy_plugins),
            essential=essential(config.proxy_plugins),
            explainer=explainer,
            reread=lambda: configuration.load_explained(options, plugins),
            started=started,
        ).run()

    asyncio.run(run())


def _config_command(parsed: Parsed, rest: list[str]) -> int:
    from containerd_hybrid.app import configuration, logs
    from containerd_hybrid.app.builtins import builtins
    from containerd_hybrid.app.config.model import Config

    parsed_here = parse(rest, (HELP,))
    action = parsed_here.rest[0] if parsed_here.rest else ""
    plugins = builtins()
    logs.configure("warn")
    match action:
        case "default":
            sys.stdout.write(configuration.dump(Config(), plugins))
        case "dump" | "migrate":
            config, warnings = configuration.load(_options(parsed), plugins)
            configuration.warn(warnings if action == "dump" else _without_migration(warnings))
            sys.stdout.write(configuration.dump(config, plugins))
        case "" | "help" | "h":
            _print(_CONFIG_USAGE)
        case _:
            _complain(f"No help topic for '{action}'")
            return _NO_SUCH_COMMAND
    return 0


def _without_migration(warnings: list[tuple[str, dict[str, str]]]) -> list[tuple[str, dict[str, str]]]:
    """Who migrates need not be told to."""
    return [
        (message, fields) for message, fields in warnings if not message.startswith("Configuration migrated")
    ]


def _publish_command(parsed: Parsed, rest: list[str]) -> int:
    from containerd_hybrid.app import publish

    own = parse(rest, (NAMESPACE, TOPIC, HELP))
    if own.on(HELP):
        _print(f"{NAME} --address PATH publish [options] < EVENT\n\nOPTIONS:\n{describe((NAMESPACE, TOPIC))}")
        return 0
    address = parsed.get(ADDRESS) or DEFAULT_ADDRESS
    publish.run(address, own.get(NAMESPACE), own.get(TOPIC))
    return 0


def _oci_hook_command(_: Parsed, rest: list[str]) -> int:
    from containerd_hybrid.app import oci_hook

    own = parse(rest, (HELP,))
    if own.on(HELP):
        _print(f"{NAME} oci-hook -- PROGRAM [ARGUMENT...] < STATE")
        return 0
    oci_hook.run(own.rest)
    return 0


def _help_command(_: Parsed, rest: list[str]) -> int:
    if rest and rest[0] not in _COMMANDS:
        _complain(f"No help topic for '{rest[0]}'")
        return _NO_SUCH_COMMAND
    _print(_CONFIG_USAGE if rest[:1] == ["config"] else _usage())
    return 0


_COMMANDS: dict[str, Callable[[Parsed, list[str]], int]] = {
    "config": _config_command,
    "publish": _publish_command,
    "oci-hook": _oci_hook_command,
    "help": _help_command,
    "h": _help_command,
}


def _options(parsed: Parsed) -> Options:
    from containerd_hybrid.app.configuration import Options

    return Options(
        file=parsed.get(CONFIG),
        file_given=CONFIG.name in parsed.values,
        root=parsed.get(ROOT),
        state=parsed.get(STATE),
        address=parsed.get(ADDRESS),
        log_level=parsed.get(LOG_LEVEL),
    )


def _usage() -> str:
    return f"""NAME:
   {NAME} - a container runtime daemon for every client of containerd

USAGE:
   {NAME} [global options] [command [command options]]

   Without a command the daemon starts, in the foreground.

VERSION:
   {__version__}

COMMANDS:
   config    Information on the configuration: default, dump, migrate
   publish   Publish an event that is on standard input
   oci-hook  Run a program as an OCI runtime hook, with templates in its arguments
   help, h   Show this

GLOBAL OPTIONS:
{describe(FLAGS)}"""


_CONFIG_USAGE = f"""NAME:
   {NAME} config - information on the configuration

USAGE:
   {NAME} [--config FILE] config COMMAND

COMMANDS:
   default  Print the default configuration
   dump     Print the configuration in force, imports included
   migrate  Print the configuration file in the latest version"""


def _revision() -> str:
    from containerd_hybrid.app.release import REVISION

    return REVISION


def _print(text: str) -> None:
    sys.stdout.write(text + "\n")


def _complain(text: str) -> None:
    sys.stderr.write(f"{NAME}: {text}\n")


if __name__ == "__main__":
    sys.exit(main())
