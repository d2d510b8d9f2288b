"""hyctl as it is called: what it loads, what it refuses, what it says."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import containerd_hybrid
from containerd_hybrid.cli import main as program
from containerd_hybrid.cli.main import main

COMMANDS = sorted(program._MODULES)
VERBS = ("import", "export", "ls", "rm", "tag", "unpack")


def loaded_by(*arguments: str) -> set[str]:
    """The modules that are loaded when the program ends."""
    script = (
        "import sys\n"
        "from containerd_hybrid.cli.main import main\n"
        "try:\n    main(sys.argv[1:])\n"
        "except SystemExit:\n    pass\n"
        "print('\\n'.join(['---', *sys.modules]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=True
    )
    return set(done.stdout.partition("---\n")[2].split())


@pytest.mark.parametrize("arguments", [["--version"], ["--help"], [], ["nothing"]])
def test_what_needs_no_daemon_loads_nothing_heavy(arguments: list[str]) -> None:
    loaded = loaded_by(*arguments)
    assert "containerd_hybrid.cli.main" in loaded
    assert not loaded & {"grpc", "asyncio", "google.protobuf", "containerd_hybrid.client.client", "pathlib"}


def test_a_command_loads_no_other_command(tmp_path: Path) -> None:
    loaded = loaded_by("--address", str(tmp_path / "none"), "version")
    assert "containerd_hybrid.cli.version" in loaded
    assert not loaded & {"containerd_hybrid.cli.run", "containerd_hybrid.cli.image", "containerd_hybrid.app"}


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"hyctl {containerd_hybrid.__version__}\n"


def test_without_arguments_it_says_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    shown = capsys.readouterr().out
    for command in COMMANDS:
        assert f"  {command} " in shown


@pytest.mark.parametrize("command", [*([name] for name in COMMANDS), *(["image", verb] for verb in VERBS)])
def test_every_command_explains_itself(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*command, "--help"])
    assert ended.value.code == 0
    name = "image ls" if command == ["images"] else " ".join(command)
    assert capsys.readouterr().out.startswith(f"usage: hyctl {name} ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing"], "there is no command 'nothing'"),
        (["-n", "x"], "no command was given"),
        (["--nothing", "ps"], "unrecognized arguments: --nothing"),
        (["ps", "--nothing"], "unrecognized arguments: --nothing"),
        (["run"], "the following arguments are required: IMAGE"),
        (["run", "--cpus", "many", "image"], "argument --cpus: invalid float value: 'many'"),
        (["run", "--net", "host", "image"], "unrecognized arguments: --net"),
        (["image", "nothing"], "argument VERB: invalid choice"),
        (["image", "rm"], "the following arguments are required: IMAGE"),
        (["exec", "container"], "the following arguments are required: COMMAND"),
    ],
)
def test_a_mistake_in_the_command_line_is_125(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 125
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith(f"hyctl: {message}")
    assert lines[1].startswith("Run 'hyctl")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["run", "-d", "--rm", "image"], 125, "-d and --rm do not go together"),
        (["run", "-d", "-i", "image"], 125, "-d and -i do not go together"),
        (["run", "-it", "image"], 125, "the input is no terminal: leave out -t"),
        (["exec", "-it", "c", "sh"], 1, "the input is no terminal"),
        (["kill", "-s", "NOPE", "c"], 1, "there is no signal 'NOPE'"),
        (["ps"], 1, "no daemon answers at"),
        (["run", "image"], 125, "no daemon answers at"),
        (["version"], 1, "no daemon answers at"),
        (["image", "import", "/does/not/exist.tar"], 1, "/does/not/exist.tar: No such file or directory"),
    ],
)
def test_failures_are_one_line_and_a_code(
    arguments: list[str], code: int, message: str, tmp_path: Path
) -> None:
    done = hyctl("--address", str(tmp_path / "none.sock"), *arguments)
    assert done.returncode == code
    assert done.stderr.startswith(f"hyctl: {message}")
    assert len(done.stderr.splitlines()) == 1


def hyctl(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "containerd_hybrid.cli.main", *arguments],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        env={**os.environ, **environment},
        check=False,
    )


def test_tracebacks_are_for_those_who_ask(tmp_path: Path) -> None:
    done = hyctl("--address", str(tmp_path / "none.sock"), "ps", HYCTL_DEBUG="1")
    assert "Traceback" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("hyctl: no daemon answers at")


def test_the_environment_names_daemon_and_namespace(tmp_path: Path) -> None:
    done = hyctl("ps", CONTAINERD_ADDRESS=str(tmp_path / "from-environment.sock"))
    assert "from-environment.sock" in done.stderr
    done = hyctl("--address", str(tmp_path / "given.sock"), "ps", CONTAINERD_ADDRESS="/x.sock")
    assert "given.sock" in done.stderr
