"""Who may talk to the daemon: mutual TLS on TCP, and whose the sockets are."""

from __future__ import annotations

import asyncio
import io
import socket
import ssl
import stat
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import grpc
import grpc.aio
import pytest
from google.protobuf.empty_pb2 import Empty
from tests.integration.registry_world import Authority
from tests.unit.images.archives import oci_layout

import containerd_hybrid
from containerd_hybrid import TlsFiles
from containerd_hybrid.errors import UnavailableError
from containerd_hybrid.proto.services.version.v1.version_pb2 import VersionResponse
from containerd_hybrid.testing.daemon import DaemonProcess
from containerd_hybrid.testing.leaks import LeakCheck
from containerd_hybrid.testing.processes import listening_ports

pytestmark = pytest.mark.root

CONFIG = """\
version = 4
[plugins."io.containerd.server.v1.grpc"]
implementation = "{implementation}"
uid = 4711
gid = 4712
[plugins."io.containerd.server.v1.ttrpc"]
uid = 4713
gid = 4714
[plugins."io.containerd.server.v1.debug"]
address = "{folder}/debug.sock"
uid = 4715
gid = 4716
[plugins."io.containerd.server.v1.grpc-tcp"]
implementation = "{implementation}"
address = "127.0.0.1:0"
tls_cert = "{certificate}"
tls_key = "{key}"
tls_ca = "{ca}"
tls_common_name = "client"
"""
VERSION = "/containerd.services.version.v1.Version/Version"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls") / "ours")


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Another authority: what it signs is nobody's here."""
    return Authority(tmp_path_factory.mktemp("tls") / "theirs")


@pytest.fixture(params=["native", "grpcio"])
def daemon(
    request: pytest.FixtureRequest, authority: Authority, short_folder: Path, leak_check: LeakCheck
) -> Iterator[DaemonProcess]:
    certificate, key = authority.server
    config = CONFIG.format(
        implementation=request.param,
        folder=short_folder,
        certificate=certificate,
        key=key,
        ca=authority.certificate,
    )
    with DaemonProcess(short_folder, config=config).serving(leak_check) as daemon:
        yield daemon


async def version(port: int, trusted: Authority, client: Authority | None) -> str:
    """The daemon's version over TLS, as whom ``client`` signed, or as nobody."""
    key, certificate = (None, None)
    if client is not None:
        certificate, key = (path.read_bytes() for path in client.client)
    credentials = grpc.ssl_channel_credentials(trusted.certificate.read_bytes(), key, certificate)
    return await asked(grpc.aio.secure_channel(f"127.0.0.1:{port}", credentials))


async def asked(opened: grpc.aio.Channel) -> str:
    """The version that a channel leads to; it is closed then."""
    async with opened as channel:
        call = channel.unary_unary(
            VERSION,
            request_serializer=Empty.SerializeToString,
            response_deserializer=VersionResponse.FromString,
        )
        return (await call(Empty())).version


async def test_only_whom_the_authority_signed_is_answered(
    daemon: DaemonProcess, authority: Authority, stranger: Authority
) -> None:
    (address,) = listening_ports(daemon.pid)
    assert (await version(address, authority, authority)).startswith("v2.")
    for client in (None, stranger):
        with pytest.raises(grpc.aio.AioRpcError) as told:
            await version(address, authority, client)
        assert told.value.code() is grpc.StatusCode.UNAVAILABLE
    with pytest.raises(grpc.aio.AioRpcError):
        await version(address, stranger, authority)
    with pytest.raises(grpc.aio.AioRpcError) as told:
        await asked(grpc.aio.insecure_channel(f"127.0.0.1:{address}"))
    assert told.value.code() is grpc.StatusCode.UNAVAILABLE
    _refuses_old_tls(address, authority)
    await _serves_the_library(f"tcp://127.0.0.1:{address}", authority, stranger)
    # It goes on serving those it knows.
    assert (await version(address, authority, authority)).startswith("v2.")
    assert "tls_common_name" in daemon.log
    _has_its_sockets(daemon.folder)


async def _serves_the_library(address: str, ours: Authority, theirs: Authority) -> None:
    """The library and hyctl, with calls of every kind, and what is said to those who are not known."""
    files = TlsFiles(ours.certificate, *ours.client)
    async with await containerd_hybrid.connect_async(address, "tls", files) as client:
        assert (await client.version()).startswith("v2.")
        (image,) = await client.images.import_archive(io.BytesIO(oci_layout([b""]).bytes()), unpack=False)
        assert [one.name for one in await client.images.list()] == [image.name]
        await client.images.remove(image.name)
    stranger = TlsFiles(ours.certificate, *theirs.client)
    async with await containerd_hybrid.connect_async(address, "tls", stranger) as client:
        with pytest.raises(UnavailableError, match="does not trust the other"):
            await client.version()
    command = [sys.executable, "-m", "containerd_hybrid.cli.main", "--address", address]
    flags = ("--tls-ca", ours.certificate, "--tls-cert", ours.client[0], "--tls-key", ours.client[1])
    for given, code, said in (
        (flags, 0, "Server: v2."),
        (flags[:4], 1, "--tls-ca, --tls-cert and --tls-key go together"),
        ((), 1, "needs an authority, a certificate and a key"),
    ):
        done = await asyncio.to_thread(
            subprocess.run,
            [*command, *map(str, given), "version"],
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, said in done.stdout + done.stderr) == (code, True), done


def _refuses_old_tls(port: int, authority: Authority) -> None:
    context = ssl.create_default_context(cafile=str(authority.certificate))
    context.load_cert_chain(*authority.client)
    context.set_ciphers("ALL:@SECLEVEL=0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    refused = (ssl.SSLError, ConnectionError)
    with socket.create_connection(("127.0.0.1", port)) as connection, pytest.raises(refused):
        context.wrap_socket(connection, server_hostname="127.0.0.1")


def _has_its_sockets(folder: Path) -> None:
    """Each belongs to whom the configuration says, and nobody else may use it."""
    for name, uid, gid, mode in (
        ("containerd.sock", 4711, 4712, 0o660),
        ("containerd.sock.ttrpc", 4713, 4714, 0o660),
        ("debug.sock", 4715, 4716, 0o600),
    ):
        found = (folder / name).stat()
        assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (uid, gid, mode), name
        assert stat.S_ISSOCK(found.st_mode)
