"""Which gRPC server a configuration chooses."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from containerd_hybrid.app.builtins import servers
from containerd_hybrid.app.builtins.servers import GrpcConfig, TcpConfig
from containerd_hybrid.errors import InvalidConfigError
from containerd_hybrid.rpc.front.adaptor import FrontAdaptor
from containerd_hybrid.rpc.grpc_adaptor import GrpcAdaptor


@pytest.fixture
def context(monkeypatch: pytest.MonkeyPatch) -> Any:
    """What a plug-in is given, in a daemon without services."""
    monkeypatch.setattr(servers, "grpc_services", lambda _: [])
    monkeypatch.setattr(servers, "wrapped", lambda _, services: tuple(services))
    closed: list[Any] = []
    return SimpleNamespace(config=GrpcConfig(address="/nowhere/s"), closed=closed, on_close=closed.append)


def made(context: Any) -> Any:
    return next(plugin for plugin in servers.PLUGINS if plugin.id == "grpc").init(context)


@pytest.mark.parametrize(("name", "kind"), [("native", FrontAdaptor), ("grpcio", GrpcAdaptor)])
def test_either_server_is_closed_in_the_end(context: Any, name: str, kind: type) -> None:
    context.config = GrpcConfig(address="/nowhere/s", implementation=name)
    server = made(context)
    assert isinstance(server, kind)
    assert context.closed == [server.close]


def test_our_own_is_the_default(context: Any) -> None:
    assert isinstance(made(context), FrontAdaptor)
    assert TcpConfig().implementation == "native"


def test_another_is_refused_by_name(context: Any) -> None:
    context.config = GrpcConfig(address="/nowhere/s", implementation="go")
    with pytest.raises(InvalidConfigError, match=r"'go'.*'native' or 'grpcio'"):
        made(context)
