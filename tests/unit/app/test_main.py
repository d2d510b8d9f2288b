"""The program's command line: what it prints, and its exit codes."""

from __future__ import annotations

import io
import json
import logging
import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from containerd_hybrid import __version__
from containerd_hybrid.app import oci_hook
from containerd_hybrid.app.builtins import ESSENTIAL, builtins
from containerd_hybrid.app.config.model import Config
from containerd_hybrid.app.configuration import Options, addresses, load, with_options
from containerd_hybrid.app.main import main
from containerd_hybrid.app.plugins import in_order
from containerd_hybrid.errors import InvalidArgumentError

PROGRAM = [sys.executable, "-m", "containerd_hybrid.app.main"]


@pytest.fixture(autouse=True)
def _log_as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.mark.parametrize("flag", ["--version", "-v", "-version"])
def test_version(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([flag]) == 0
    assert capsys.readouterr().out.split()[:3] == ["containerd-hybrid", "containerd_hybrid", __version__]


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], ["help"], ["h"]])
def test_help_has_every_flag_and_command(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 0
    text = capsys.readouterr().out
    for word in (
        "--config",
        "-c",
        "--log-level",
        "-l",
        "--address",
        "-a",
        "--root",
        "--state",
        "publish",
        "oci-hook",
    ):
        assert word in text


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--nope"], 1, "flag provided but not defined: -nope"),
        (["nope"], 3, "No help topic for 'nope'"),
        (["config", "nope"], 3, "No help topic for 'nope'"),
        (["publish"], 1, "topic required"),
        (["oci-hook"], 1, "program to run is missing"),
        (["-c", "/nonexistent.toml", "config", "dump"], 1, "open /nonexistent.toml: no such file"),
    ],
)
def test_exit_codes(arguments: list[str], code: int, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == code
    captured = capsys.readouterr()
    assert captured.err.startswith("containerd-hybrid: ")
    assert said in captured.err


# config


def test_the_default_configuration_has_containerds_keys(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "default"]) == 0
    document = tomllib.loads(capsys.readouterr().out)
    assert document["version"] == 4
    assert (document["root"], document["state"]) == ("/var/lib/containerd", "/run/containerd")
    assert document["imports"] == ["/etc/containerd/conf.d/*.toml"]
    assert document["timeouts"]["io.containerd.timeout.shim.cleanup"] == "5s"
    assert document["plugins"]["io.containerd.gc.v1.scheduler"] == {
        "pause_threshold": 0.02,
        "deletion_threshold": 0,
        "mutation_threshold": 100,
        "schedule_delay": "0s",
        "startup_delay": "100ms",
    }
    assert document["plugins"]["io.containerd.server.v1.grpc"]["address"] == "/run/containerd/containerd.sock"
    assert document["plugins"]["io.containerd.snapshotter.v1.overlayfs"] == {
        "root_path": "",
        "upperdir_label": False,
        "sync_remove": False,
        "slow_chown": False,
        "mount_options": [],
    }


def test_dump_and_migrate_carry_what_the_file_says(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "config.toml"
    file.write_text(
        'version = 2\nroot = "/r"\n[grpc]\naddress = "/a.sock"\n'
        '[plugins."io.containerd.foreign.v1.x"]\nkey = [1, 2]\n[proxy_plugins.p]\ntype = "snapshot"\n'
    )
    for action in ("dump", "migrate"):
        assert main(["-c", str(file), "config", action]) == 0
        captured = capsys.readouterr()
        document = tomllib.loads(captured.out)
        assert (document["version"], document["root"]) == (4, "/r")
        assert document["plugins"]["io.containerd.server.v1.grpc"]["address"] == "/a.sock"
        assert document["plugins"]["io.containerd.server.v1.ttrpc"]["address"] == "/a.sock.ttrpc"
        assert document["plugins"]["io.containerd.foreign.v1.x"] == {"key": [1, 2]}
        assert document["proxy_plugins"]["p"]["type"] == "snapshot"
        assert ("Configuration migrated" in captured.err) == (action == "dump")
        assert "does not have" in captured.err


def test_what_migrate_prints_needs_no_migration(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "config.toml"
    file.write_text('version = 3\n[debug]\nlevel = "debug"\n')
    main(["-c", str(file), "config", "migrate"])
    migrated = capsys.readouterr().out
    file.write_text(migrated)
    assert main(["-c", str(file), "config", "dump"]) == 0
    captured = capsys.readouterr()
    assert captured.out == migrated
    assert captured.err == ""


def test_a_wrong_value_ends_the_daemon_with_file_key_and_type(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text('version = 4\n[plugins."io.containerd.gc.v1.scheduler"]\nmutation_threshold = "many"\n')
    result = subprocess.run([*PROGRAM, "-c", str(file)], capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert result.stderr == (
        f'containerd-hybrid: {file}: plugins."io.containerd.gc.v1.scheduler".mutation_threshold: '
        "expected an integer, found a string 'many'\n"
    )


def test_a_file_that_is_not_there_is_an_error_only_when_it_was_named() -> None:
    config, warnings = load(Options(file="/nonexistent.toml"), builtins())
    assert config == Config()
    assert warnings == []


def test_flags_win_over_the_file() -> None:
    tables = {"io.containerd.server.v1.grpc": {"address": "/file.sock", "gid": 7}}
    config = with_options(
        Config(plugins=tables, root="/file"), Options(root="/flag", address="/flag.sock", log_level="debug")
    )
    assert (config.root, config.state, config.debug.level) == ("/flag", "/run/containerd", "debug")
    assert addresses(config).grpc == "/flag.sock"
    assert addresses(config).ttrpc == "/flag.sock.ttrpc"
    assert config.plugins["io.containerd.server.v1.ttrpc"]["gid"] == 7


def test_a_ttrpc_address_of_its_own_stays() -> None:
    tables = {"io.containerd.server.v1.ttrpc": {"address": "/own.ttrpc"}}
    config = with_options(Config(plugins=tables), Options(address="/flag.sock"))
    assert addresses(config).ttrpc == "/own.ttrpc"


# The list of built-ins


def test_the_builtins_can_be_put_in_order_and_have_the_essential_ones() -> None:
    plugins = builtins()
    assert len(in_order(plugins)) == len(plugins)
    assert set(ESSENTIAL) <= {plugin.uri for plugin in plugins}


def test_the_start_needs_no_implementation_for_the_configuration() -> None:
    """A quick ``--help`` and ``config dump``: what is slow to import is imported when it is made."""
    program = (
        "import sys; from containerd_hybrid.app.main import main; main(['config', 'default'])\n"
        "print([m for m in ('grpc', 'asyncio', 'sqlite3') if m in sys.modules], file=sys.stderr)"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stderr == "[]\n"


# oci-hook


def bundle(tmp_path: Path, root: str = "rootfs") -> bytes:
    (tmp_path / "config.json").write_text(json.dumps({"root": {"path": root}}))
    state = {
        "id": "c1",
        "pid": 42,
        "status": "creating",
        "bundle": str(tmp_path),
        "annotations": {"net": "host"},
    }
    return json.dumps(state).encode()


def test_a_hook_becomes_its_program_with_what_it_asked_for(tmp_path: Path) -> None:
    arguments = [
        "/bin/sh",
        "-c",
        'echo "$@" $CONTAINER',
        "sh",
        "{{id}}",
        "{{pid}}",
        "{{rootfs}}",
        '{{annotation "net"}}',
    ]
    result = subprocess.run(
        [*PROGRAM, "oci-hook", "--", *arguments],
        input=bundle(tmp_path),
        env={**os.environ, "CONTAINER": "{{status}}"},
        capture_output=True,
        check=True,
    )
    assert result.stdout.decode() == f"c1 42 {tmp_path}/rootfs host creating\n"


def test_an_absolute_root_is_taken_as_it_is(tmp_path: Path) -> None:
    functions = oci_hook.template_functions(io.BytesIO(bundle(tmp_path, "/abs/root")))
    assert functions["rootfs"]() == "/abs/root"


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (b"{", "the container's state on standard input"),
        (b"[]", "expected a JSON object"),
        (b'{"bundle": "/nonexistent"}', "open /nonexistent/config.json: no such file"),
    ],
)
def test_a_hook_without_a_state(state: bytes, message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        oci_hook.template_functions(io.BytesIO(state))
