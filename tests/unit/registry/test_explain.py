"""Where an image would be pulled from: told from hosts.toml, without asking anybody, without secrets."""

from __future__ import annotations

from pathlib import Path

import pytest

from containerd_hybrid.errors import InvalidConfigError, InvalidReferenceError
from containerd_hybrid.registry.api import Capability
from containerd_hybrid.registry.explain import HostsExplainer

HOSTS = """\
server = "https://registry.example"
[host."https://mirror.example:5000"]
  capabilities = ["pull", "resolve"]
  ca = "ca.pem"
  [host."https://mirror.example:5000".header]
    Authorization = "Basic c2VjcmV0"
[host."http://plain.example"]
  skip_verify = true
"""


async def test_mirrors_in_order_then_the_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://user:secret@proxy.example:3128")
    monkeypatch.setenv("NO_PROXY", "plain.example,registry.example")
    folder = tmp_path / "registry.example"
    folder.mkdir()
    (folder / "hosts.toml").write_text(HOSTS)
    found = await HostsExplainer(str(tmp_path)).explain("registry.example/a/b:1")
    assert (found.reference, found.configuration) == ("registry.example/a/b:1", str(folder / "hosts.toml"))
    mirror, plain, server = found.hosts
    assert (mirror.url, mirror.is_mirror) == ("https://mirror.example:5000/v2", True)
    assert mirror.capabilities == Capability.PULL | Capability.RESOLVE
    assert mirror.headers == ("Authorization",)
    assert mirror.tls == f"verified; CA {folder / 'ca.pem'}"
    assert mirror.proxy == "http://proxy.example:3128"
    assert plain.tls == "not verified; plain HTTP if the host speaks no TLS"
    assert (server.url, server.is_mirror, server.proxy) == ("https://registry.example/v2", False, "")
    assert "secret" not in repr(found)
    assert "c2VjcmV0" not in repr(found)


async def test_without_a_file_the_registry_itself(tmp_path: Path) -> None:
    found = await HostsExplainer(str(tmp_path)).explain("busybox")
    assert (found.reference, found.configuration) == ("docker.io/library/busybox:latest", "")
    (host,) = found.hosts
    assert (host.url, host.is_mirror) == ("https://registry-1.docker.io/v2", False)
    assert host.credential_host == "registry-1.docker.io"


async def test_what_cannot_be_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InvalidReferenceError):
        await HostsExplainer().explain("UPPER/case:")
    (tmp_path / "_default").mkdir()
    (tmp_path / "_default" / "hosts.toml").write_text("host = 1")
    with pytest.raises(InvalidConfigError, match=r"hosts\.toml"):
        await HostsExplainer(str(tmp_path)).explain("x.example/y")
