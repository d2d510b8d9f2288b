"""The plug-in graph: order, what a failure does to others, and what introspection is told."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from containerd_hybrid.app.api import Addresses, InitContext, Plugin, PluginType, SkipPlugin
from containerd_hybrid.app.config.model import Config
from containerd_hybrid.app.plugins import PluginGraph, in_order
from containerd_hybrid.errors import (
    FailedPreconditionError,
    InternalError,
    InvalidConfigError,
    NotFoundError,
    UnavailableError,
)

CONTENT, METADATA, SERVICE, GRPC, EVENT = (
    PluginType.CONTENT,
    PluginType.METADATA,
    PluginType.SERVICE,
    PluginType.GRPC,
    PluginType.EVENT,
)


def plugin(
    type: PluginType,
    id: str,
    *requires: PluginType,
    init: Callable[[InitContext], Any] | None = None,
    **more: Any,
) -> Plugin:
    return Plugin(type, id, init or (lambda context: id), requires, **more)


async def started(
    *plugins: Plugin, config: Config | None = None, essential: tuple[str, ...] = ()
) -> PluginGraph:
    graph = PluginGraph(plugins, config or Config(), essential=essential)
    await graph.start()
    return graph


def failing(error: Exception) -> Callable[[InitContext], Any]:
    def init(context: InitContext) -> Any:
        raise error

    return init


# Order


def test_each_comes_after_what_it_requires_and_else_as_listed() -> None:
    plugins = [
        plugin(GRPC, "b", SERVICE),
        plugin(GRPC, "a", SERVICE, EVENT),
        plugin(SERVICE, "s", METADATA),
        plugin(METADATA, "m", CONTENT),
        plugin(CONTENT, "c2"),
        plugin(CONTENT, "c1"),
        plugin(EVENT, "e"),
    ]
    assert [p.id for p in in_order(plugins)] == ["c2", "c1", "m", "s", "b", "e", "a"]


def test_a_circle_is_shown() -> None:
    with pytest.raises(InternalError) as caught:
        in_order(
            [plugin(CONTENT, "a", METADATA), plugin(METADATA, "b", SERVICE), plugin(SERVICE, "c", CONTENT)]
        )
    names = ["content.v1.a", "metadata.v1.b", "service.v1.c", "content.v1.a"]
    assert caught.value.message.endswith(" → ".join(f"io.containerd.{name}" for name in names))


def test_a_name_is_taken_once() -> None:
    with pytest.raises(InternalError, match=r"registered twice: io\.containerd\.content\.v1\.a"):
        PluginGraph([plugin(CONTENT, "a"), plugin(CONTENT, "a")], Config())


# What a plug-in is given


async def test_instances_are_found_by_type_and_id() -> None:
    seen: dict[str, Any] = {}

    def init(context: InitContext) -> str:
        seen["one"] = context.get(METADATA, str)
        seen["named"] = context.get(CONTENT, str, "b")
        seen["all"] = context.all(CONTENT, str)
        return "done"

    graph = await started(
        plugin(SERVICE, "s", CONTENT, METADATA, init=init),
        plugin(CONTENT, "a"),
        plugin(CONTENT, "b"),
        plugin(METADATA, "m"),
    )
    assert seen == {"one": "m", "named": "b", "all": {"a": "a", "b": "b"}}
    assert graph.get(SERVICE, str) == "done"


async def test_async_makers_folders_addresses_and_configuration() -> None:
    @dataclass(frozen=True)
    class Sample:
        size: int = 3
        name: str = ""

    async def init(context: InitContext) -> InitContext:
        await asyncio.sleep(0)
        return context

    uri = "io.containerd.content.v1.c"
    config = Config(root="/r", state="/s", plugins={uri: {"name": "x"}})
    graph = PluginGraph([plugin(CONTENT, "c", init=init, config=Sample)], config, Addresses("/a", "/a.ttrpc"))
    await graph.start()
    context: Any = graph.get(CONTENT, object)
    assert (context.root, context.state) == (Path("/r") / uri, Path("/s") / uri)
    assert context.config == Sample(3, "x")
    assert context.addresses.ttrpc == "/a.ttrpc"
    assert context.timeouts["io.containerd.timeout.task.state"] == 2


async def test_a_value_of_a_wrong_type_ends_the_start() -> None:
    @dataclass(frozen=True)
    class Sample:
        size: int = 3

    config = Config(plugins={"io.containerd.content.v1.c": {"size": "big"}})
    with pytest.raises(
        InvalidConfigError, match=r'plugins\."io\.containerd\.content\.v1\.c"\.size: expected an integer'
    ):
        await started(plugin(CONTENT, "c", config=Sample), config=config)


@pytest.mark.parametrize(
    ("type", "id", "message"),
    [
        (EVENT, None, "no plugins registered for io.containerd.event.v1$"),
        (CONTENT, None, r"multiple plugins registered for io\.containerd\.content\.v1 \(a, b\): name one"),
        (METADATA, None, r"no plugins registered for io\.containerd\.metadata\.v1 \(m: locked\)"),
        (METADATA, "m", r"plugin io\.containerd\.metadata\.v1\.m is not available: locked"),
        (CONTENT, "z", r"no plugins registered for io\.containerd\.content\.v1\.z: this program has no such"),
        (CONTENT, "off", r"content\.v1\.off: disabled by disabled_plugins"),
        (GRPC, "late", r"grpc\.v1\.late: the plugin that asks for it does not require its type"),
    ],
)
async def test_what_is_not_there_is_explained(type: PluginType, id: str | None, message: str) -> None:
    def init(context: InitContext) -> None:
        with pytest.raises(NotFoundError, match=message):
            context.get(type, str, id)

    graph = await started(
        plugin(CONTENT, "a"),
        plugin(CONTENT, "b"),
        plugin(CONTENT, "off"),
        plugin(METADATA, "m", init=failing(UnavailableError("locked"))),
        plugin(SERVICE, "s", init=init),
        plugin(GRPC, "late"),
        config=Config(disabled_plugins=("io.containerd.content.v1.off",)),
    )
    assert graph.statuses()[3].error is None


async def test_an_instance_of_another_kind_is_a_bug_that_is_named() -> None:
    graph = await started(plugin(CONTENT, "c"))
    with pytest.raises(InternalError, match=r"content\.v1\.c is a str, not a int"):
        graph.get(CONTENT, int)


# Failures


async def test_a_failure_is_the_reason_of_those_that_need_it_and_of_nobody_else() -> None:
    graph = await started(
        plugin(CONTENT, "c", init=failing(UnavailableError("the disk is away"))),
        plugin(METADATA, "m", CONTENT, init=lambda context: context.get(CONTENT, str)),
        plugin(EVENT, "e"),
        plugin(SERVICE, "skipped", init=failing(SkipPlugin("no such file system"))),
        plugin(GRPC, "bug", init=failing(ZeroDivisionError("oops"))),
    )
    errors = {s.plugin.id: (s.error.code, s.error.message) if s.error else None for s in graph.statuses()}
    assert errors == {
        "c": ("UNAVAILABLE", "the disk is away"),
        "m": ("NOT_FOUND", "no plugins registered for io.containerd.content.v1 (c: the disk is away)"),
        "e": None,
        "skipped": ("UNIMPLEMENTED", "no such file system: skip plugin"),
        "bug": ("INTERNAL", "ZeroDivisionError: oops"),
    }


@pytest.mark.parametrize("how", ["configured", "essential"])
async def test_a_required_plugin_that_fails_ends_the_start_and_undoes_it(how: str) -> None:
    closed = []

    def init(context: InitContext) -> str:
        context.on_close(lambda: closed.append("content"))
        return "content"

    uri = "io.containerd.metadata.v1.m"
    with pytest.raises(
        FailedPreconditionError, match=r"load required plugin io\.containerd\.metadata\.v1\.m: locked"
    ):
        await started(
            plugin(CONTENT, "c", init=init),
            plugin(METADATA, "m", CONTENT, init=failing(UnavailableError("locked"))),
            config=Config(required_plugins=(uri,) if how == "configured" else ()),
            essential=(uri,) if how == "essential" else (),
        )
    assert closed == ["content"]


async def test_a_required_plugin_that_is_not_there() -> None:
    name = "io.containerd.content.v1.c"
    with pytest.raises(FailedPreconditionError, match="not included: this program has no such plugin"):
        await started(config=Config(required_plugins=(name,)))
    with pytest.raises(FailedPreconditionError, match="not included: disabled by disabled_plugins"):
        await started(plugin(CONTENT, "c"), config=Config(required_plugins=(name,), disabled_plugins=(name,)))


# The end


async def test_closing_runs_backwards_and_goes_on_after_an_error() -> None:
    order: list[str] = []

    def init(context: InitContext) -> str:
        name = context.root.name.rpartition(".")[2]

        async def later() -> None:
            await asyncio.sleep(0)
            order.append(f"{name} async")

        context.on_close(lambda: order.append(f"{name} first"))
        context.on_close(lambda: 1 / 0)
        context.on_close(later)
        return name

    graph = await started(plugin(CONTENT, "a", init=init), plugin(METADATA, "b", CONTENT, init=init))
    await graph.close()
    assert order == ["b async", "b first", "a async", "a first"]


async def test_what_a_failed_plugin_had_opened_is_closed_at_once() -> None:
    closed = []

    def init(context: InitContext) -> None:
        context.on_close(lambda: closed.append("half"))
        raise UnavailableError("then it failed")

    await started(plugin(CONTENT, "c", init=init))
    assert closed == ["half"]


# Introspection and reload


async def test_introspection_has_what_was_registered_and_what_was_found_out() -> None:
    def init(context: InitContext) -> str:
        context.exports["root"] = str(context.root)
        context.capabilities.append("remap-ids")
        return "x"

    graph = await started(
        plugin(CONTENT, "c", init=init, exports={"a": "b"}, capabilities=("rebase",)),
        config=Config(root="/r"),
    )
    (status,) = graph.statuses()
    assert status.plugin.exports == {"a": "b", "root": "/r/io.containerd.content.v1.c"}
    assert status.plugin.capabilities == ("rebase", "remap-ids")


async def test_reload_tells_apart_what_can_follow_and_what_must_restart() -> None:
    @dataclass(frozen=True)
    class Sample:
        size: int = 3

    class Follows:
        size = 0

        def reload(self, config: Sample) -> None:
            self.size = config.size

    graph = await started(
        plugin(CONTENT, "follows", init=lambda context: Follows(), config=Sample),
        plugin(METADATA, "fixed", config=Sample),
        plugin(EVENT, "same", config=Sample),
    )
    tables = {
        name: {"size": 9} for name in ("io.containerd.content.v1.follows", "io.containerd.metadata.v1.fixed")
    }
    assert graph.reload(Config(plugins=tables)) == ["io.containerd.metadata.v1.fixed"]
    assert graph.get(CONTENT, Follows).size == 9
