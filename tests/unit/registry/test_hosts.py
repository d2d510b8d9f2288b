"""hosts.toml: folders, order, every key, and what is said about what cannot be meant."""

from __future__ import annotations

from pathlib import Path

import pytest

from containerd_hybrid.errors import InvalidArgumentError, InvalidConfigError
from containerd_hybrid.registry.api import Capability
from containerd_hybrid.registry.endpoint import ClientPair, TlsSettings
from containerd_hybrid.registry.hosts import endpoints_for, parse_duration


def write(root: Path, folder: str, text: str) -> str:
    (root / folder).mkdir(parents=True, exist_ok=True)
    (root / folder / "hosts.toml").write_text(text)
    return str(root)


def test_without_a_file_the_registry_itself_is_asked_over_https() -> None:
    (host,) = endpoints_for("registry.example:8443")
    assert (host.scheme, host.host, host.path) == ("https", "registry.example:8443", "/v2")
    assert host.capabilities == Capability.ALL
    assert not host.plain_fallback


def test_docker_io_is_served_by_another_name() -> None:
    (host,) = endpoints_for("docker.io", default_scheme="http")
    assert (host.scheme, host.host) == ("https", "registry-1.docker.io")
    assert not host.is_proxy_for("docker.io")


@pytest.mark.parametrize(
    ("registry", "scheme", "fallback", "unverified"),
    [
        ("localhost", "https", False, True),
        ("localhost:443", "https", False, True),
        ("localhost:80", "http", False, False),
        ("127.0.0.1:5000", "https", True, True),
        ("127.8.0.1:5000", "https", True, True),
        ("[::1]:5000", "https", True, True),
        ("10.0.0.1:5000", "https", False, False),
    ],
)
def test_a_port_of_this_machine_may_be_plain(
    registry: str, scheme: str, fallback: bool, unverified: bool
) -> None:
    (host,) = endpoints_for(registry)
    assert host.scheme == scheme
    assert host.plain_fallback is fallback
    assert bool(host.tls.skip_verify) is unverified


def test_a_given_scheme_settles_it() -> None:
    (host,) = endpoints_for("localhost:5000", default_scheme="http")
    assert (host.scheme, host.plain_fallback) == ("http", False)


def test_a_scheme_is_http_or_https() -> None:
    with pytest.raises(InvalidArgumentError, match="gopher"):
        endpoints_for("r.example", default_scheme="gopher")


def test_mirrors_come_in_the_order_of_the_file_and_the_server_last(tmp_path: Path) -> None:
    root = write(
        tmp_path,
        "docker.io",
        """
        server = "https://registry-1.docker.io"
        [host."https://z.example"]
        [host."https://z.example".header]
        x-token = "one"
        [host."http://a.example:5000"]
        capabilities = ["pull", "RESOLVE"]
        [host."m.example/sub/path"]
        """,
    )
    hosts = endpoints_for("docker.io", root)
    assert [(h.scheme, h.host, h.path) for h in hosts] == [
        ("https", "z.example", "/v2"),
        ("http", "a.example:5000", "/v2"),
        ("https", "m.example", "/sub/path/v2"),
        ("https", "registry-1.docker.io", "/v2"),
    ]
    assert hosts[0].headers == (("x-token", "one"),)
    assert hosts[1].capabilities == Capability.PULL | Capability.RESOLVE
    assert hosts[0].is_proxy_for("docker.io")
    assert not hosts[3].is_proxy_for("docker.io")


def test_every_key_of_a_host(tmp_path: Path) -> None:
    root = write(
        tmp_path,
        "registry.example",
        """
        server = "https://registry.example/v2"
        ca = "ca.pem"
        [host."https://mirror.example/custom"]
        capabilities = ["pull", "push", "referrers"]
        ca = ["/etc/one.pem", "two.pem"]
        client = [["c.cert", "c.key"], "both.pem"]
        skip_verify = true
        override_path = true
        dial_timeout = "1m1.5s"
        header = { a = ["1", "2"], b = "3" }
        """,
    )
    mirror, server = endpoints_for("registry.example", root)
    folder = tmp_path / "registry.example"
    assert mirror.path == "/custom"
    assert mirror.capabilities == Capability.PULL | Capability.PUSH | Capability.REFERRERS
    assert mirror.tls == TlsSettings(
        (Path("/etc/one.pem"), folder / "two.pem"),
        (ClientPair(folder / "c.cert", folder / "c.key"), ClientPair(folder / "both.pem", None)),
        skip_verify=True,
    )
    assert mirror.headers == (("a", "1"), ("a", "2"), ("b", "3"))
    assert mirror.dial_seconds == 61.5
    assert server.path == "/v2"
    assert server.tls.ca == (folder / "ca.pem",)


def test_settings_without_a_server_are_for_the_registry_itself(tmp_path: Path) -> None:
    root = write(tmp_path, "registry.example", 'ca = "ca.pem"\nskip_verify = false\n')
    (host,) = endpoints_for("registry.example", root)
    assert host.host == "registry.example"
    assert host.tls == TlsSettings((tmp_path / "registry.example" / "ca.pem",), (), skip_verify=False)


def test_an_http_host_with_tls_settings_is_asked_by_tls_first(tmp_path: Path) -> None:
    root = write(tmp_path, "r.example", 'server = "http://r.example:5000"\nskip_verify = true\n')
    (host,) = endpoints_for("r.example", root)
    assert (host.scheme, host.plain_fallback) == ("https", True)


@pytest.mark.parametrize("folder", ["r.example_5000_", "r.example:5000", "_default"])
def test_folders_for_a_host_with_a_port(tmp_path: Path, folder: str) -> None:
    root = write(tmp_path, folder, 'server = "https://found.example"')
    assert endpoints_for("r.example:5000", root)[0].host == "found.example"


def test_the_more_exact_folder_wins_and_folders_are_searched_in_order(tmp_path: Path) -> None:
    first = write(tmp_path / "one", "_default", 'server = "https://default.example"')
    second = write(tmp_path / "two", "r.example", 'server = "https://exact.example"')
    assert endpoints_for("r.example", f"{first}:{second}")[0].host == "default.example"
    assert endpoints_for("r.example", f"{second}:{first}")[0].host == "exact.example"
    write(tmp_path / "one", "r.example", 'server = "https://other.example"')
    assert endpoints_for("r.example", f"{first}:{second}")[0].host == "other.example"


def test_a_folder_without_a_file_is_read_as_docker_reads_it(tmp_path: Path) -> None:
    folder = tmp_path / "r.example"
    folder.mkdir()
    for name in ("ca.crt", "one.cert", "one.key", "two.cert", "other.txt"):
        (folder / name).touch()
    (host,) = endpoints_for("r.example", str(tmp_path))
    assert host.tls.ca == (folder / "ca.crt",)
    assert host.tls.client == (
        ClientPair(folder / "one.cert", folder / "one.key"),
        ClientPair(folder / "two.cert", None),
    )


def test_a_change_needs_no_restart(tmp_path: Path) -> None:
    root = write(tmp_path, "r.example", 'server = "https://before.example"')
    assert endpoints_for("r.example", root)[0].host == "before.example"
    write(tmp_path, "r.example", 'server = "https://after.example"')
    assert endpoints_for("r.example", root)[0].host == "after.example"


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("server = 1", "server"),
        ("= broken", "line 1"),
        ('server = "https://user@r.example"', "server"),
        ('server = "https://"', "server"),
        ('capabilities = ["pul"]', "capabilities"),
        ("ca = 3", "ca"),
        ('client = [["a", "b", "c"]]', "client"),
        ('skip_verify = "yes"', "skip_verify"),
        ('[header]\nx = "two\\nlines"', "header.x"),
        ('dial_timeout = "soon"', "dial_timeout"),
        ('[host."https://m.example"]\ncapabilities = [1]', 'host."https://m.example".capabilities'),
        ('[host."https://m.example"]\noverride_path = 1', 'host."https://m.example".override_path'),
    ],
)
def test_what_cannot_be_meant_is_named(tmp_path: Path, text: str, key: str) -> None:
    root = write(tmp_path, "r.example", text)
    with pytest.raises(InvalidConfigError) as caught:
        endpoints_for("r.example", root)
    assert str(tmp_path / "r.example" / "hosts.toml") in caught.value.message
    assert key in caught.value.message


def test_a_header_is_not_shown_in_an_error(tmp_path: Path) -> None:
    root = write(tmp_path, "r.example", '[header]\nauthorization = ["Bearer hidden\\n"]')
    with pytest.raises(InvalidConfigError) as caught:
        endpoints_for("r.example", root)
    assert "hidden" not in caught.value.message
    root = write(tmp_path, "r.example", '[header]\nauthorization = "Bearer hidden"')
    assert "hidden" in str(endpoints_for("r.example", root)[0].headers)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("3s", 3.0),
        ("1h2m", 3720.0),
        ("500ms", 0.5),
        ("1.5us", 1.5e-6),
        ("0", 0.0),
        ("3", None),
        ("", None),
        ("1s x", None),
    ],
)
def test_durations_as_go_writes_them(text: str, seconds: float | None) -> None:
    assert parse_duration(text) == (pytest.approx(seconds) if seconds is not None else None)
