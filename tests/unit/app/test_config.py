"""Configuration files: versions, imports, merging, and what is said about mistakes."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from containerd_hybrid.app.config.bind import Binder, unbind
from containerd_hybrid.app.config.durations import Duration
from containerd_hybrid.app.config.load import Loader
from containerd_hybrid.app.config.model import Config
from containerd_hybrid.app.config.render import render
from containerd_hybrid.errors import InvalidConfigError

SECOND = Duration(1)


@dataclass(frozen=True, slots=True)
class Inner:
    path: str = ""
    level: int = 0


@dataclass(frozen=True, slots=True)
class Sample:
    name: str = "default"
    share: float = 0.5
    delay: Duration = SECOND
    options: tuple[str, ...] = ()
    on: bool = False
    inner: Inner = Inner()
    many: Mapping[str, Inner] = field(default_factory=dict)


NAME = "io.containerd.sample.v1.sample"


def load(tmp_path: Path, text: str, **others: str) -> tuple[Config, Loader]:
    """Load ``text``; other files are given by name, with __ for the dot."""
    for name, content in others.items():
        (tmp_path / name.replace("__", ".")).write_text(content)
    (tmp_path / "config.toml").write_text(text)
    loader = Loader({NAME: Sample})
    return loader.load(tmp_path / "config.toml"), loader


# Defaults and versions


def test_an_empty_file_is_all_defaults(tmp_path: Path) -> None:
    config, _ = load(tmp_path, "")
    assert config == Config()
    assert (config.root, config.state, config.version) == ("/var/lib/containerd", "/run/containerd", 4)


@pytest.mark.parametrize("version", [2, 3])
def test_older_versions_are_migrated_and_say_so(tmp_path: Path, version: int) -> None:
    config, loader = load(tmp_path, f'version = {version}\nroot = "/r"\n')
    assert (config.version, config.root) == (4, "/r")
    assert f"Configuration migrated from version {version}" in loader.warnings[0][0]


def test_version_4_is_taken_as_it_is(tmp_path: Path) -> None:
    _, loader = load(tmp_path, "version = 4\n")
    assert loader.warnings == []


@pytest.mark.parametrize("text", ["version = 1\n", 'disabled_plugins = ["cri"]\n', "[plugins.cri]\n"])
def test_version_1_is_refused_with_what_to_do(tmp_path: Path, text: str) -> None:
    with pytest.raises(
        InvalidConfigError, match=r"config\.toml: configuration version 1 .* write `version = 4`"
    ):
        load(tmp_path, text)


def test_a_version_of_the_future_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfigError, match="less than `4`, got `5`"):
        load(tmp_path, "version = 5\n")


def test_a_file_without_version_may_use_full_names(tmp_path: Path) -> None:
    config, _ = load(tmp_path, 'disabled_plugins = ["io.containerd.v1.xyz"]\n')
    assert config.disabled_plugins == ("io.containerd.v1.xyz",)


# Mistakes


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("root = 7", r"root: expected a string, found an integer 7"),
        ("oom_score = true", r"oom_score: expected an integer, found a boolean True"),
        ("oom_score = 1.5", r"oom_score: expected an integer, found a number 1\.5"),
        ('imports = "x"', r"imports: expected an array, found a string 'x'"),
        ("imports = [1]", r"imports\[0\]: expected a string, found an integer 1"),
        ("debug = 1", r"debug: expected a table, found an integer 1"),
        ("[debug]\nlevel = 1", r"debug\.level: expected a string"),
        ('[timeouts]\n"a.b" = "soon"', r'timeouts\."a\.b": invalid duration \'soon\''),
        ("[timeouts]\nx = 5", r'timeouts\.x: expected a duration such as "1m30s", found an integer 5'),
        (
            f'[plugins."{NAME}"]\nshare = "x"',
            r'plugins\."io\.containerd\.sample\.v1\.sample"\.share: expected a number',
        ),
        (f'[plugins."{NAME}".many.a]\nlevel = "x"', r"many\.a\.level: expected an integer"),
        (f'[plugins]\n"{NAME}" = 3', r"expected a table, found an integer 3"),
        ("root =\n", r"invalid TOML: .*line 2"),
    ],
)
def test_a_wrong_value_is_refused_with_file_key_and_type(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InvalidConfigError, match=message) as caught:
        load(tmp_path, "version = 4\n" + text)
    assert caught.value.message.startswith(str(tmp_path / "config.toml"))


def test_the_file_named_is_the_imported_one_when_that_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfigError) as caught:
        load(
            tmp_path,
            'version = 4\nimports = ["b.toml"]\n',
            b__toml=f'version = 4\n[plugins."{NAME}"]\non = 1\n',
        )
    assert caught.value.message.startswith(str(tmp_path / "b.toml"))


def test_unknown_keys_and_tables_are_warned_about(tmp_path: Path) -> None:
    _, loader = load(
        tmp_path,
        f'version = 4\nrot = "/r"\n[debug]\nlevl = "info"\n[plugins."{NAME}"]\nnam = ""\n'
        '[plugins."io.containerd.none.v1.none"]\nx = 1\n[grpc]\naddress = "/a"\n',
    )
    said = {
        (message.split(" in TOML")[0], fields.get("key") or fields.get("plugin"))
        for message, fields in loader.warnings
    }
    assert said == {
        ("Ignoring unknown key", "rot"),
        ("Ignoring unknown key", "debug.levl"),
        ("Ignoring unknown key", f'plugins."{NAME}".nam'),
        ("Ignoring the table of a plugin that this program does not have", "io.containerd.none.v1.none"),
        ("Ignoring a key of earlier versions: see `config migrate`", "grpc"),
    }
    assert all(fields["file"] == str(tmp_path / "config.toml") for _, fields in loader.warnings)


def test_what_this_release_does_not_offer_is_said(tmp_path: Path) -> None:
    _, loader = load(
        tmp_path,
        'version = 3\n[plugins."io.containerd.grpc.v1.cri"]\nsandbox_image = "p"\n',
    )
    fields = [tuple(fields.values())[1] for _, fields in loader.warnings[1:]]
    assert fields == ["io.containerd.grpc.v1.cri"]


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfigError, match=r"open .*none\.toml: no such file"):
        load(tmp_path, 'version = 4\nimports = ["none.toml"]\n')


# Imports and merging


def test_imports_override_scalars_and_add_to_arrays(tmp_path: Path) -> None:
    config, _ = load(
        tmp_path,
        """
version = 2
root = "old_root"
state = "old_state"
oom_score = 1
required_plugins = ["io.containerd.old.v1"]
disabled_plugins = ["io.containerd.old.v1"]
imports = ["b.toml"]
[debug]
log_trace_id = true
[timeouts]
a = "1s"
[stream_processors.1]
path = "2"
returns = "4"
[stream_processors.2]
path = "5"
""",
        b__toml="""
version = 2
root = "new_root"
oom_score = 0
required_plugins = ["io.containerd.new1.v1", "io.containerd.new2.v1"]
disabled_plugins = ["io.containerd.old.v1"]
[debug]
log_trace_id = false
level = "warn"
[timeouts]
b = "2s"
[stream_processors.1]
path = "3"
""",
    )
    assert (config.root, config.state, config.oom_score) == ("new_root", "old_state", 1)
    assert config.required_plugins == (
        "io.containerd.old.v1",
        "io.containerd.new1.v1",
        "io.containerd.new2.v1",
    )
    assert config.disabled_plugins == ("io.containerd.old.v1",)
    assert (config.debug.log_trace_id, config.debug.level) == (True, "warn")
    assert (config.timeouts["a"], config.timeouts["b"]) == (1, 2)
    assert config.stream_processors["1"].path == "3"
    assert config.stream_processors["1"].returns == "", "an entry is replaced as a whole"
    assert config.stream_processors["2"].path == "5"


def test_plugin_tables_are_merged_key_by_key(tmp_path: Path) -> None:
    config, _ = load(
        tmp_path,
        f'version = 4\nimports = ["b.toml"]\n[plugins."{NAME}"]\n'
        'name = "a"\non = true\noptions = ["x", "y"]\n'
        f'[plugins."{NAME}".inner]\npath = "/p"\nlevel = 1\n',
        b__toml=f'version = 4\n[plugins."{NAME}"]\non = false\noptions = ["z"]\n'
        f'[plugins."{NAME}".inner]\nlevel = 0\n',
    )
    bound = Binder().bind(Sample, config.plugins[NAME], "merged")
    assert bound == Sample(name="a", on=False, options=("z",), inner=Inner("/p", 0))


def test_globs_relative_paths_and_folders(tmp_path: Path) -> None:
    (tmp_path / "conf.d").mkdir()
    for name, level in (("20", "debug"), ("10", "info"), (".hidden", "trace")):
        (tmp_path / "conf.d" / f"{name}.toml").write_text(f'version = 4\n[debug]\nlevel = "{level}"\n')
    config, _ = load(tmp_path, 'version = 4\nimports = ["conf.d/*.toml", "./none*.toml"]\n')
    assert config.debug.level == "debug", "in the order of their names, a leading dot first"


def test_an_import_is_relative_to_the_file_that_has_it(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "c.toml").write_text('version = 4\nroot = "/from-c"\n')
    config, _ = load(
        tmp_path, 'version = 4\nimports = ["sub/b.toml"]\n', **{"sub/b__toml": 'imports = ["c.toml"]\n'}
    )
    assert config.root == "/from-c"


def test_a_circle_of_imports_is_walked_once(tmp_path: Path) -> None:
    config, _ = load(
        tmp_path,
        'version = 4\nroot = "/a"\nimports = ["b.toml", "config.toml"]\n',
        b__toml='version = 4\nstate = "/b"\nimports = ["config.toml", "./b.toml"]\n',
    )
    assert (config.root, config.state) == ("/a", "/b")


# Migration


def test_the_servers_move_into_plugin_tables(tmp_path: Path) -> None:
    config, _ = load(
        tmp_path,
        """
version = 3
[grpc]
address = "/tmp/a.sock"
tcp_address = "127.0.0.1:1"
tcp_tls_ca = "ca"
uid = 7
max_send_message_size = 5
[debug]
level = "info"
address = "/tmp/debug.sock"
[metrics]
address = ":1338"
grpc_histogram = true
""",
    )
    assert config.plugins == {
        "io.containerd.server.v1.grpc": {
            "address": "/tmp/a.sock",
            "uid": 7,
            "gid": 0,
            "max_send_message_size": 5,
        },
        "io.containerd.server.v1.grpc-tcp": {
            "address": "127.0.0.1:1",
            "tls_ca": "ca",
            "max_send_message_size": 5,
        },
        "io.containerd.server.v1.ttrpc": {"address": "/tmp/a.sock.ttrpc", "uid": 7, "gid": 0},
        "io.containerd.server.v1.debug": {"address": "/tmp/debug.sock", "uid": 0, "gid": 0},
        "io.containerd.server.v1.metrics": {"address": ":1338"},
        "io.containerd.metrics.v1.grpc-prometheus": {"grpc_histogram": True},
    }
    assert config.debug.level == "info"


@pytest.mark.parametrize(
    ("first", "imported", "address", "sizes"),
    [
        ('address = "/r"', "max_send_message_size = 9", "/r", {"max_send_message_size": 9}),
        ("max_send_message_size = 9", 'address = "/i"', "/i", {"max_send_message_size": 9}),
        ('address = "/r"', 'address = "/i"', "/i", {}),
        (
            "max_send_message_size = 9",
            "max_recv_message_size = 8",
            None,
            {"max_send_message_size": 9, "max_recv_message_size": 8},
        ),
    ],
)
def test_servers_of_several_old_files_are_merged_after_they_moved(
    tmp_path: Path, first: str, imported: str, address: str | None, sizes: dict[str, int]
) -> None:
    config, _ = load(
        tmp_path,
        f'version = 3\nimports = ["b.toml"]\n[grpc]\n{first}\n',
        b__toml=f"version = 3\n[grpc]\n{imported}\n",
    )
    grpc = dict(config.plugins["io.containerd.server.v1.grpc"])
    assert grpc.pop("address", None) == address
    assert {key: value for key, value in grpc.items() if key.startswith("max")} == sizes
    ttrpc = config.plugins.get("io.containerd.server.v1.ttrpc", {})
    assert ttrpc.get("address") == (address + ".ttrpc" if address else None)


def test_plugins_that_were_renamed_or_taken_apart(tmp_path: Path) -> None:
    config, _ = load(
        tmp_path,
        """
version = 2
[plugins."io.containerd.monitor.v1.cgroups"]
no_prometheus = true
[plugins."io.containerd.internal.v1.restart"]
interval = "1s"
[plugins."io.containerd.runtime.v2.task"]
platforms = ["linux/amd64"]
sched_core = true
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "pause:1"
stream_server_port = "5"
enable_selinux = true
max_concurrent_downloads = 9
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "/cni"
conf_dir = "/conf"
[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "native"
default_runtime_name = "crun"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.crun]
runtime_type = "io.containerd.runc.v2"
sandbox_mode = "shim"
[plugins."io.containerd.grpc.v1.cri".registry]
config_path = "/certs"
""",
    )
    assert config.plugins == {
        "io.containerd.monitor.task.v1.cgroups": {"no_prometheus": True},
        "io.containerd.monitor.container.v1.restart": {"interval": "1s"},
        "io.containerd.runtime.v2.task": {"platforms": ["linux/amd64"]},
        "io.containerd.shim.v1.manager": {"env": ["SCHED_CORE=1"]},
        "io.containerd.grpc.v1.cri": {"stream_server_port": "5"},
        "io.containerd.cri.v1.images": {
            "pinned_images": {"sandbox": "pause:1"},
            "max_concurrent_downloads": 9,
            "registry": {"config_path": "/certs"},
            "snapshotter": "native",
        },
        "io.containerd.cri.v1.runtime": {
            "enable_selinux": True,
            "cni": {"bin_dirs": ["/cni"], "conf_dir": "/conf"},
            "containerd": {
                "default_runtime_name": "crun",
                "runtimes": {"crun": {"runtime_type": "io.containerd.runc.v2", "sandboxer": "shim"}},
            },
        },
    }


# Writing


def test_what_is_written_reads_back(tmp_path: Path) -> None:
    table = {
        "text": "it's",
        "plain": "C:\\path",
        "control": "a\tb\nc\x7f\U000e0001",
        "number": 7,
        "share": 0.02,
        "on": True,
        "list": ["a", "b"],
        "tables": [{"x": 1, "y": "z"}],
        "empty": {},
        "a.b": {"c d": {"e": 1}, "after": "x"},
    }
    assert tomllib.loads(render(table)) == table


def test_the_form_is_the_one_people_know() -> None:
    assert render({"version": 4, "plugins": {"io.x.v1.y": {"path": "", "sub": {"on": False}}}}) == (
        "version = 4\n\n[plugins]\n  [plugins.'io.x.v1.y']\n    path = ''\n\n"
        "    [plugins.'io.x.v1.y'.sub]\n      on = false\n"
    )


def test_values_become_tables_again() -> None:
    bound = Binder().bind(Sample, {"delay": "90s", "many": {"a": {"level": 3}}}, "test")
    assert unbind(bound) == {
        "name": "default",
        "share": 0.5,
        "delay": "1m30s",
        "options": [],
        "on": False,
        "inner": {"path": "", "level": 0},
        "many": {"a": {"path": "", "level": 3}},
    }


def test_a_number_field_takes_an_integer() -> None:
    share: Any = Binder().bind(Sample, {"share": 1}, "test").share
    assert (share, type(share)) == (1.0, float)
