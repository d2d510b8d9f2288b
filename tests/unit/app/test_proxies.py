"""``[proxy_plugins]``: which plug-ins they become, and what they replace."""

from __future__ import annotations

import logging

import pytest

from containerd_hybrid.app.api import PluginType
from containerd_hybrid.app.builtins import ESSENTIAL, builtins
from containerd_hybrid.app.builtins.proxies import essential, proxies, with_proxies
from containerd_hybrid.app.config.model import ProxyPlugin
from containerd_hybrid.model import Platform


def test_each_type_by_its_short_and_its_full_name() -> None:
    types = {
        "snapshot": PluginType.SNAPSHOTTER,
        "content": PluginType.CONTENT,
        "diff": PluginType.DIFFER,
        "sandbox": PluginType.SANDBOX_CONTROLLER,
    }
    for short, full in types.items():
        for name in (short, str(full)):
            [plugin] = proxies({"p": ProxyPlugin(name, "/p.sock")})
            assert (plugin.type, plugin.id) == (full, "p")
            assert plugin.exports == {"address": "/p.sock"}
            assert plugin.platforms == (Platform.host(),)


def test_what_the_configuration_says_is_shown() -> None:
    one = ProxyPlugin("snapshot", "/p.sock", "linux/arm64", {"root": "/r", "address": "/x"}, ("rebase",))
    [plugin] = proxies({"p": one})
    assert plugin.exports == {"root": "/r", "address": "/p.sock"}
    assert plugin.capabilities == ("rebase",)
    assert plugin.platforms == (Platform.parse("linux/arm64"),)


def test_what_cannot_be_is_left_out_and_said(caplog: pytest.LogCaptureFixture) -> None:
    configured = {
        "odd": ProxyPlugin("cake", "/p.sock"),
        "nowhere": ProxyPlugin("snapshot"),
        "strange": ProxyPlugin("snapshot", "/p.sock", "a/b/c/d"),
    }
    with caplog.at_level(logging.WARNING):
        [plugin] = proxies(configured)
    assert (plugin.id, plugin.platforms) == ("strange", (Platform.host(),))
    said = [record for record in caplog.records if record.name.startswith("containerd_hybrid")]
    assert [record.message for record in said] == [
        "unknown proxy plugin type",
        "proxy plugin without an address",
        "bad platform of a proxy plugin",
    ]


def test_a_proxy_takes_the_place_of_its_namesake() -> None:
    before = [plugin.uri for plugin in builtins()]
    after = with_proxies(builtins(), {"native": ProxyPlugin("snapshot", "/p.sock")})
    assert sorted(plugin.uri for plugin in after) == sorted(before)
    [native] = [plugin for plugin in after if plugin.id == "native"]
    assert native.exports == {"address": "/p.sock"}


def test_a_content_store_elsewhere_makes_ours_dispensable() -> None:
    assert essential({"p": ProxyPlugin("snapshot", "/p.sock")}) == ESSENTIAL
    without = essential({"p": ProxyPlugin("content", "/p.sock")})
    assert set(ESSENTIAL) - set(without) == {"io.containerd.content.v1.content"}
