"""Which file, which line, which default: where a configuration value comes from."""

from __future__ import annotations

from pathlib import Path

import pytest

from containerd_hybrid.app.builtins import builtins
from containerd_hybrid.app.config.explain import Explainer, lines_of
from containerd_hybrid.app.configuration import Options, load_explained
from containerd_hybrid.errors import InvalidArgumentError, NotFoundError

GC = "io.containerd.gc.v1.scheduler"
MAIN = """\
version = 4
root = "/srv/a"
imports = ["more.toml"]
unread = true

[debug]
level = "info"

[plugins."io.containerd.gc.v1.scheduler"]
# a comment
pause_threshold = 0.1
typo_threshold = 3

[plugins."io.example.none"]
x = 1
"""
MORE = """\
version = 3
[debug]
  level = "debug"
[grpc]
  address = "/run/a.sock"
  tcp_address = "127.0.0.1:0"
[plugins.'io.containerd.gc.v1.scheduler']
  pause_threshold = 0.2
"""


@pytest.fixture
def explainer(tmp_path: Path) -> Explainer:
    (tmp_path / "config.toml").write_text(MAIN)
    (tmp_path / "more.toml").write_text(MORE)
    options = Options(str(tmp_path / "config.toml"), file_given=True, state="/run/from-the-flag")
    return load_explained(options, builtins())


def sources(explainer: Explainer, key: str) -> list[tuple[str, int, str]]:
    """The only key's sources, files by their names."""
    (found,) = explainer.explain(key).keys
    return [(Path(one.place).name, one.line, one.value) for one in found.sources]


def test_files_in_the_order_of_reading_with_their_lines(explainer: Explainer) -> None:
    key = f'plugins."{GC}".pause_threshold'
    (found,) = explainer.explain(key).keys
    assert (found.key, found.value, found.default) == (key, "0.2", "0.02")
    assert sources(explainer, key) == [("config.toml", 11, "0.1"), ("more.toml", 8, "0.2")]
    assert [Path(file).name for file in explainer.explain(key).files] == ["config.toml", "more.toml"]
    assert sources(explainer, "debug.level") == [("config.toml", 7, "'info'"), ("more.toml", 3, "'debug'")]
    assert sources(explainer, "root") == [("config.toml", 2, "'/srv/a'")]


@pytest.mark.parametrize(
    "name", [f"{GC}.pause_threshold", f"plugins.{GC}.pause_threshold", f'plugins."{GC}".pause_threshold']
)
def test_a_plugins_name_needs_no_quotes(explainer: Explainer, name: str) -> None:
    assert [key.value for key in explainer.explain(name).keys] == ["0.2"]


def test_the_default_has_no_source_and_the_command_line_is_one(explainer: Explainer) -> None:
    assert sources(explainer, f"{GC}.deletion_threshold") == []
    (state,) = explainer.explain("state").keys
    assert [(one.place, one.value) for one in state.sources] == [("the command line", "'/run/from-the-flag'")]
    assert (state.value, state.default) == ("'/run/from-the-flag'", "'/run/containerd'")


def test_what_an_older_version_says_elsewhere_is_found_there(explainer: Explainer) -> None:
    assert sources(explainer, "io.containerd.server.v1.grpc.address") == [("more.toml", 5, "'/run/a.sock'")]
    assert sources(explainer, "io.containerd.server.v1.grpc-tcp.address") == [
        ("more.toml", 6, "'127.0.0.1:0'")
    ]


def test_a_table_is_all_below_it_and_nothing_is_everything(explainer: Explainer) -> None:
    assert len(explainer.explain(GC).keys) == 5
    everything = [key.key for key in explainer.explain("").keys]
    assert {"root", "debug.level", f'plugins."{GC}".pause_threshold'} <= set(everything)


def test_keys_that_nothing_reads_are_told_with_the_reason(explainer: Explainer) -> None:
    (found,) = explainer.explain(f"{GC}.typo_threshold").ignored
    assert found.key == f'plugins."{GC}".typo_threshold'
    assert (Path(found.file).name, found.reason) == ("config.toml", "Ignoring unknown key in TOML")
    assert [one.key for one in explainer.explain("unread").ignored] == ["unread"]
    (table,) = explainer.explain("io.example.none").ignored
    assert "plugin that this program does not have" in table.reason
    assert explainer.explain("root").ignored == ()


def test_a_key_that_is_none_is_refused_with_what_may_be_meant(explainer: Explainer) -> None:
    with pytest.raises(NotFoundError, match=r"did you mean debug\.level"):
        explainer.explain("debug.levle")
    with pytest.raises(NotFoundError, match="pause_threshold"):
        explainer.explain("pause_threshold")
    for wrong in ("a b", "a =", "[x]"):
        with pytest.raises(InvalidArgumentError):
            explainer.explain(wrong)


def test_lines_of_a_text_that_has_strings_over_lines() -> None:
    text = 'a = """\n[not.a.table]\nb = 1\n"""\n[t]\n"c d".e = 2\nlist = [\n  1,\n]\n'
    lines = lines_of(text)
    assert lines[("a",)] == 1
    assert lines[("t", "c d", "e")] == 6
    assert lines[("t", "list")] == 7
