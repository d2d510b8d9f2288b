"""From versions 2 and 3 to version 4, as containerd does it.

Version 2 and 3 differ only in the names and contents of plug-in tables; version 4 moved the servers'
settings from the top level into plug-in tables. Source: containerd's ``cmd/containerd/server/config``
and the ``ConfigMigration`` functions of its plug-ins.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, TypeAlias

from containerd_hybrid.app.config.model import (
    DEBUG_SERVER,
    GRPC_SERVER,
    GRPC_TCP_SERVER,
    METRICS_SERVER,
    TTRPC_SERVER,
    VERSION,
    FileConfig,
    OldGrpc,
    OldMetrics,
    OldTtrpc,
)

Tables: TypeAlias = dict[str, dict[str, Any]]

RENAMED = {
    "io.containerd.monitor.v1.cgroups": "io.containerd.monitor.task.v1.cgroups",
    "io.containerd.internal.v1.restart": "io.containerd.monitor.container.v1.restart",
}
"""Plug-ins that have another name in version 4."""

_CRI = "io.containerd.grpc.v1.cri"
_CRI_IMAGES = "io.containerd.cri.v1.images"
_CRI_RUNTIME = "io.containerd.cri.v1.runtime"
_IMAGES_KEYS = (
    "registry",
    "image_decryption",
    "max_concurrent_downloads",
    "image_pull_progress_timeout",
    "image_pull_with_sync_fs",
    "stats_collect_period",
)
_IMAGES_CONTAINERD_KEYS = ("snapshotter", "disable_snapshot_annotations", "discard_unpacked_layers")
_SERVER_KEYS = (
    "disable_tcp_service",
    "stream_server_address",
    "stream_server_port",
    "stream_idle_timeout",
    "enable_tls_streaming",
    "x509_key_pair_streaming",
)


def migrate(config: FileConfig) -> FileConfig:
    """The same settings as a version 4 file would have them."""
    if config.version >= VERSION:
        return config
    tables: Tables = copy.deepcopy({name: dict(table) for name, table in config.plugins.items()})
    for step in _PLUGIN_STEPS:
        step(tables)
    _servers(config, tables)
    return replace(
        config,
        version=VERSION,
        plugins=tables,
        debug=replace(config.debug, address="", uid=0, gid=0),
        grpc=OldGrpc(),
        ttrpc=OldTtrpc(),
        metrics=OldMetrics(),
    )


def leftovers(config: FileConfig) -> list[str]:
    """Keys of a version 4 file that only earlier versions have, and that therefore do nothing."""
    found = [
        name
        for name, value, empty in (
            ("grpc", config.grpc, OldGrpc()),
            ("ttrpc", config.ttrpc, OldTtrpc()),
            ("metrics", config.metrics, OldMetrics()),
        )
        if value != empty
    ]
    debug = config.debug
    if debug.address or debug.uid or debug.gid:
        found.append("debug.address")
    return found


# Plug-in tables, in the order in which containerd runs these: [cri] is taken apart, and last reduced.


def _cri_images(tables: Tables) -> None:
    old = tables.get(_CRI)
    if old is None:
        return
    new = tables.setdefault(_CRI_IMAGES, {})
    if "sandbox_image" in old:
        new.setdefault("pinned_images", {})["sandbox"] = old["sandbox_image"]
    new.update(_picked(old, _IMAGES_KEYS))
    new.update(_picked(_table(old, "containerd"), _IMAGES_CONTAINERD_KEYS))


def _cri_runtime(tables: Tables) -> None:
    old = tables.get(_CRI)
    if old is None:
        return
    new = tables.setdefault(_CRI_RUNTIME, {})
    moved_elsewhere = {"sandbox_image", "cni", "containerd", *_IMAGES_KEYS, *_SERVER_KEYS}
    _fill(new, {key: value for key, value in old.items() if key not in moved_elsewhere})
    if "cni" in old:
        _cni(_table(old, "cni"), new.setdefault("cni", {}))
    if "containerd" in old:
        containerd = new.setdefault("containerd", {})
        _fill(containerd, _without(_table(old, "containerd"), _IMAGES_CONTAINERD_KEYS))
        for runtime in _table(containerd, "runtimes").values():
            if isinstance(runtime, dict) and "sandbox_mode" in runtime and "sandboxer" not in runtime:
                runtime["sandboxer"] = runtime.pop("sandbox_mode")


def _cni(old: Mapping[str, Any], new: dict[str, Any]) -> None:
    if "bin_dir" in old and not new.get("bin_dirs"):
        new["bin_dirs"] = [old["bin_dir"]]
    _fill(new, _without(old, ("bin_dir",)))


def _cri_server(tables: Tables) -> None:
    if _CRI in tables:
        tables[_CRI] = _picked(tables[_CRI], _SERVER_KEYS)


def _shim_manager(tables: Tables) -> None:
    runtime = tables.get("io.containerd.runtime.v2.task", {})
    if runtime.pop("sched_core", False) is True:
        manager = tables.setdefault("io.containerd.shim.v1.manager", {})
        manager["env"] = [*manager.get("env", []), "SCHED_CORE=1"]


def _renamed(tables: Tables) -> None:
    for old, new in RENAMED.items():
        if old in tables:
            tables[new] = tables.pop(old)


_PLUGIN_STEPS: tuple[Callable[[Tables], None], ...] = (
    _renamed,
    _shim_manager,
    _cri_images,
    _cri_runtime,
    _cri_server,
)


# The servers' settings


def _servers(config: FileConfig, tables: Tables) -> None:
    grpc, ttrpc, debug, metrics = config.grpc, config.ttrpc, config.debug, config.metrics
    if debug.address:
        _new_table(tables, DEBUG_SERVER, {"address": debug.address, "uid": debug.uid, "gid": debug.gid})
    sizes = _set(
        max_recv_message_size=grpc.max_recv_message_size, max_send_message_size=grpc.max_send_message_size
    )
    owner = {"uid": grpc.uid, "gid": grpc.gid} if grpc.address else _set(uid=grpc.uid, gid=grpc.gid)
    if listening := _set(address=grpc.address) | owner | sizes:
        _new_table(tables, GRPC_SERVER, listening)
    if grpc.tcp_address:
        tls = _set(
            tls_ca=grpc.tcp_tls_ca,
            tls_cert=grpc.tcp_tls_cert,
            tls_key=grpc.tcp_tls_key,
            tls_common_name=grpc.tcp_tls_common_name,
        )
        _new_table(tables, GRPC_TCP_SERVER, {"address": grpc.tcp_address} | tls | sizes)
    address, uid, gid = ttrpc.address, ttrpc.uid, ttrpc.gid
    if not address and grpc.address:
        address, uid, gid = grpc.address + ".ttrpc", uid or grpc.uid, gid or grpc.gid
    if address or uid or gid:
        _new_table(tables, TTRPC_SERVER, _set(address=address) | {"uid": uid, "gid": gid})
    if metrics.grpc_histogram:
        _new_table(tables, "io.containerd.metrics.v1.grpc-prometheus", {"grpc_histogram": True})
    if metrics.address:
        _new_table(tables, METRICS_SERVER, {"address": metrics.address})


def _new_table(tables: Tables, name: str, table: dict[str, Any]) -> None:
    """A table that the file has already stays as it is: it is the newer form."""
    tables.setdefault(name, table)


def _set(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value}


def _table(table: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = table.get(key)
    return value if isinstance(value, Mapping) else {}


def _picked(table: Mapping[str, Any], keys: tuple[str, ...]) -> dict[str, Any]:
    return {key: table[key] for key in keys if key in table}


def _without(table: Mapping[str, Any], keys: tuple[str, ...]) -> dict[str, Any]:
    return {key: value for key, value in table.items() if key not in keys}


def _fill(table: dict[str, Any], more: Mapping[str, Any]) -> None:
    for key, value in more.items():
        table.setdefault(key, value)
